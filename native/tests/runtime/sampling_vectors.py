"""Writes `sampling_vectors.json`, what numpy and Python's runtime draw; run it as a script.

What it is: the only writer of that file, which the C++ tests of sampling read.
What it knows: numpy's generator and `allrounder.runtime.sampling`. What it does not know: C++.
"""

import json
from pathlib import Path

import numpy as np

from allrounder.runtime.sampling import Sampling, picker

SEEDS = (0, 1, 7, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1)
DRAWS = 40
SAMPLINGS = (
    {"temperature": 1.0},
    {"temperature": 0.25},
    {"temperature": 3.0, "top_k": 5},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 2.0, "top_k": 12, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_p": 0.01},
)


def rows() -> list[list[float]]:
    """Returns rows of logits: smooth, with ties, with masked tokens, and of one token."""
    random = np.random.default_rng(20)
    smooth = random.normal(size=50).astype(np.float32)
    ties = random.integers(0, 4, 30).astype(np.float32)
    large = (random.normal(size=300) * 8).astype(np.float32)
    masked = smooth.copy()
    masked[::3] = -np.finfo(np.float32).max
    return [row.tolist() for row in (smooth, ties, large, masked, np.zeros(1, np.float32))]


def draws(row: list[float], sampling: dict[str, float], seed: int) -> list[int]:
    """Returns what Python's runtime draws from one row, again and again."""
    pick = picker(Sampling(**sampling, seed=seed))
    logits = np.asarray(row, np.float32)
    return [pick(logits) for _ in range(DRAWS)]


def main() -> None:
    """Writes the file."""
    logits = rows()
    vectors = {
        "uniform": [{"seed": seed, "values": np.random.default_rng(seed).random(8).tolist()} for seed in SEEDS],
        "bytes": np.random.default_rng(0).integers(0, 256, 29, np.uint8).tolist(),
        "rows": logits,
        "draws": [
            {"row": index, "seed": seed, **sampling, "tokens": draws(row, sampling, seed)}
            for index, row in enumerate(logits)
            for seed, sampling in zip(SEEDS, SAMPLINGS, strict=True)
        ],
        "percentiles": [
            {"values": values, "wanted": [round(float(p), 4) for p in np.percentile(values, (50, 95, 99))]}
            for values in (
                [3.0],
                [1.0, 2.0],
                list(np.arange(1.0, 101.0)),
                np.random.default_rng(3).exponential(40, 23).tolist(),
            )
        ],
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(vectors, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
