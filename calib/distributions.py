"""Distributions: how far one next-token distribution is from another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["divergence", "log_softmax"]


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Returns the natural log of the distributions of finite ``logits`` [S, V]."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(reference: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Returns KL(reference || other) in nats per row, [S], of two arrays of finite logits [S, V].

    Never below zero: rounding is cut off there.
    """
    of, against = log_softmax(reference), log_softmax(other)
    return np.maximum((np.exp(of) * (of - against)).sum(axis=-1), 0.0)
