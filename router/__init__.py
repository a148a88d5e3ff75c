"""The meta-router: model, decisions, objective, training, checkpoints.

May import: the contract, models, torch. Never export, engines, runtime.
"""
