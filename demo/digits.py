"""Handwritten digits: scikit-learn's set of 1,797 real 8x8 images, divided among the splits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from allrounder.demo.scenes import Split

SHARES = {Split.TRAIN: range(7), Split.VALIDATION: range(7, 8), Split.TEST: range(8, 10)}


@cache
def digit_images(split: Split) -> tuple[np.ndarray, ...]:
    """For each value 0..9 the handwriting of ``split``, float32 [count, 8, 8] in 0..1. No image is in two splits."""
    images, values = _all_digits()
    turn = np.arange(len(values)) * 7919 % 10
    mine = np.isin(turn, list(SHARES[split]))
    return tuple(images[mine & (values == value)] for value in range(10))


def digit_indices(split: Split) -> frozenset[int]:
    """Which of the 1,797 images belong to ``split``."""
    turn = np.arange(len(_all_digits()[1])) * 7919 % 10
    return frozenset(np.flatnonzero(np.isin(turn, list(SHARES[split]))).tolist())


@cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    data: Any = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)
