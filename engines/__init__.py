"""Engines: frozen graphs become engines of one backend; bundles are written here.

May import: the contract, onnx, its backend's own library. Never torch, export, router, runtime.
"""
