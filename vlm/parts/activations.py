"""Activations: each is a fixed function of its input, and the exporter writes each with standard ops."""

from __future__ import annotations

from allrounder.errors import ModelUnsupported

__all__ = ["ACTIVATIONS", "activation"]

ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")


def activation(name: str, where: str) -> str:
    """Returns the name of an activation, after checking it.

    Raises:
        ModelUnsupported: It is not one of `ACTIVATIONS`; ``where`` is the config key.
    """
    if name not in ACTIVATIONS:
        raise ModelUnsupported("unknown activation", where=where, got=name, wanted=", ".join(ACTIVATIONS))
    return name
