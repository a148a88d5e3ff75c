"""Modules that live inside other frameworks: they import what those need, and bring pruned models to them.

May import: the contract, entry points of runtime and engines, numpy, torch, and the framework of their own folder.
"""
