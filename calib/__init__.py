"""Calibration: what is measured by running a bundle's own graphs.

May import: the contract, runtime, numpy. Never torch, models, router, export, engines.
"""
