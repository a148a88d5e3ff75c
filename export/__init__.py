"""Export: a flow and a checkpoint become frozen ONNX graphs, verified.

May import: the contract, hosts, router (its model), torch, onnx. Never engines, runtime, calib.
"""
