"""Bootstrap: how sure a mean is.

Images are resampled with replacement, each with all its questions (cluster bootstrap: Davison and Hinkley, Bootstrap
Methods and their Application, 1997, 3.8): questions about one image share its features and, where token scores depend
on the image alone, its keep indices, so that they say less than as many questions about different images. Where every
image is asked about once, this is resampling of questions. Where all questions are about one image there is nothing
to be resampled but the questions, and the interval speaks of that image alone.

One resample is a row of multinomial counts, so that all resamples are one matrix product. The seed is fixed: the same
figures give the same interval, and what is resampled alike is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from allrounder.errors import CalibrationError
from allrounder.manifest import Estimate

__all__ = ["RESAMPLES", "Paired", "mean_estimate", "paired_estimate", "ratio_estimate"]

RESAMPLES = 2000
_SEED = 20260
_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval
Values = NDArray[np.float64]


class Paired(NamedTuple):
    """A mean difference, and in which share of the resamples it was at or below, or at or above, zero.

    No share is below 1 / `RESAMPLES`: that many resamples cannot show less.
    """

    difference: Estimate
    not_above: float
    not_below: float


def mean_estimate(values: Values, images: Sequence[str] = ()) -> Estimate:
    """Returns the mean of ``values`` [n] with its interval.

    ``images`` [n] says what each question is about; empty: each about an image of its own.

    Raises:
        CalibrationError: There is no value, or one is not finite.
    """
    figures = _checked(values)
    return _estimate(float(figures.mean()), _means(figures, images))


def ratio_estimate(values: Values, base: Values, images: Sequence[str] = ()) -> Estimate | None:
    """Returns sum(values) / sum(base) with its interval, both [n] over the same questions.

    Resamples whose base sums to zero have no ratio and are left out; where the base itself sums to zero
    there is none at all and None is returned.

    Raises:
        CalibrationError: There is no value, or one is not finite.
    """
    figures, bases = _checked(values), _checked(base)
    if bases.sum() == 0:
        return None
    above, below = _sums(figures, images), _sums(bases, images)
    defined = below != 0
    return _estimate(float(figures.sum() / bases.sum()), above[defined] / below[defined])


def paired_estimate(differences: Values, images: Sequence[str] = ()) -> Paired:
    """Returns what ``differences`` [n], of two figures on the same questions, say about the sign of their mean.

    Raises:
        CalibrationError: There is no value, or one is not finite.
    """
    figures = _checked(differences)
    means = _means(figures, images)
    not_above, not_below = (max(float(share.mean()), 1 / RESAMPLES) for share in (means <= 0, means >= 0))
    return Paired(_estimate(float(figures.mean()), means), not_above, not_below)


def _means(figures: Values, images: Sequence[str]) -> Values:
    """Returns the mean of every resample, [RESAMPLES]; an image weighs as its questions do, as in the mean itself."""
    return _sums(figures, images) / _sums(np.ones_like(figures), images)


def _sums(figures: Values, images: Sequence[str]) -> Values:
    """Returns the sum of every resample, [RESAMPLES]."""
    units = _units(len(figures), images)
    return _counts(int(units.max()) + 1) @ np.bincount(units, weights=figures)


def _units(questions: int, images: Sequence[str]) -> NDArray[np.intp]:
    """Returns [n], which resampled unit each question belongs to."""
    if images and len(images) != questions:
        raise CalibrationError("not as many images as figures", got=len(images), wanted=questions)
    if len(set(images)) < 2:
        return np.arange(questions)
    return np.unique(np.asarray(images), return_inverse=True)[1]


def _checked(values: Values) -> Values:
    figures = np.asarray(values, dtype=np.float64)
    if not len(figures):
        raise CalibrationError("no question was measured")
    if not np.isfinite(figures).all():
        raise CalibrationError("a measured figure is not finite", got=figures[~np.isfinite(figures)][0])
    return figures


@lru_cache(maxsize=3)  # 16 kB per unit each; figures, whole and by class, are over few different numbers of images
def _counts(units: int) -> Values:
    """Returns [RESAMPLES, units]: how often each unit is in each resample."""
    generator = np.random.default_rng(_SEED)
    shares = np.full(units, 1.0 / units)
    # float64, so that the products above go through BLAS
    return generator.multinomial(units, shares, size=RESAMPLES).astype(np.float64)


def _estimate(mean: float, resampled: Values) -> Estimate:
    low, high = np.percentile(resampled, [_LOW, _HIGH])
    # The mean of few, uneven figures can round a hair outside; an interval that misses its own mean misleads.
    return Estimate(mean=mean, low=min(float(low), mean), high=max(float(high), mean))
