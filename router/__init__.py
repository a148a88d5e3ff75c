"""The meta-router: model, flows, objective, training, checkpoints.

May import: the contract, hosts, torch. Never export, engines, runtime.
"""
