"""Export: a decision and a checkpoint become frozen ONNX graphs, verified.

May import: the contract, models, router (its model), torch, onnx. Never engines, runtime, calib.
"""
