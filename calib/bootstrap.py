"""Bootstrap: how sure a mean is.

What it is: means and ratios of means with their percentile-bootstrap 95 % interval.
What it knows: figures per question. What it does not know: what the figures are.

Questions are resampled with replacement. One resample is a row of multinomial counts, so that all
resamples are one matrix product. The seed is fixed: the same figures give the same interval.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from allrounder.errors import CalibrationError
from allrounder.manifest import Estimate

__all__ = ["RESAMPLES", "mean_estimate", "ratio_estimate"]

RESAMPLES = 2000
_SEED = 20260
_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def mean_estimate(values: NDArray[np.float64]) -> Estimate:
    """Returns the mean of ``values`` [n] with its interval.

    Raises:
        CalibrationError: There is no value, or one is not finite.
    """
    figures = _checked(values)
    means = _counts(len(figures)) @ figures / len(figures)
    return _estimate(float(figures.mean()), means)


def ratio_estimate(values: NDArray[np.float64], base: NDArray[np.float64]) -> Estimate | None:
    """Returns sum(values) / sum(base) with its interval, both [n] over the same questions.

    Resamples whose base sums to zero have no ratio and are left out; where the base itself sums to zero
    there is none at all and None is returned.

    Raises:
        CalibrationError: There is no value, or one is not finite.
    """
    figures, bases = _checked(values), _checked(base)
    if bases.sum() == 0:
        return None
    counts = _counts(len(figures))
    above, below = counts @ figures, counts @ bases
    defined = below != 0
    return _estimate(float(figures.sum() / bases.sum()), above[defined] / below[defined])


def _checked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    figures = np.asarray(values, dtype=np.float64)
    if not len(figures):
        raise CalibrationError("no question was measured")
    if not np.isfinite(figures).all():
        raise CalibrationError("a measured figure is not finite", got=figures[~np.isfinite(figures)][0])
    return figures


@lru_cache(maxsize=2)  # agreement, KL and retention of one entry are over the same questions, or nearly
def _counts(questions: int) -> NDArray[np.float64]:
    """Returns [RESAMPLES, questions]: how often each question is in each resample."""
    generator = np.random.default_rng(_SEED)
    shares = np.full(questions, 1.0 / questions)
    # float64, so that the products above go through BLAS
    return generator.multinomial(questions, shares, size=RESAMPLES).astype(np.float64)


def _estimate(mean: float, resampled: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(resampled, [_LOW, _HIGH])
    # The mean of few, uneven figures can round a hair outside; an interval that misses its own mean misleads.
    return Estimate(mean=mean, low=min(float(low), mean), high=max(float(high), mean))
