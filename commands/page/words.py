"""Figures and lists as the page writes them.

What it is: functions from numbers to text or markup. What it knows: how many digits a figure deserves, and how an
absent one is named. What it does not know: where the figures come from.
"""

from __future__ import annotations

from collections.abc import Iterable

from allrounder.commands.page.markup import Markup, element, escape, join
from allrounder.manifest import Estimate

__all__ = ["absent", "kl", "listed", "nats", "p_value", "percent", "points", "ranges", "share"]

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_LEAST_P = 0.0001


def share(value: float) -> str:
    """Returns a share of 1 in per cent, with one digit after the point."""
    return f"{_signed(100 * value, 1)}%"


def absent(why: str) -> Markup:
    """Returns what stands in place of a figure that is not there."""
    return element("span", why, class_="absent")


def percent(figure: Estimate | None, why: str = "no answers known") -> Markup:
    """Returns a share with its interval, or ``why`` there is none."""
    if figure is None:
        return absent(why)
    return _with_interval(share(figure.mean), f"{100 * figure.low:.1f}{_DASH}{100 * figure.high:.1f}")


def kl(figure: Estimate) -> Markup:
    """Returns a divergence in nats with its interval."""
    return _with_interval(f"{figure.mean:.4f}", f"{figure.low:.4f}{_DASH}{figure.high:.4f}")


def points(figure: Estimate) -> Markup:
    """Returns a difference of two shares in percentage points, signed, with its interval."""
    mean, low, high = (_signed(100 * value, 1, plus=True) for value in (figure.mean, figure.low, figure.high))
    return _with_interval(mean, f"{low} to {high}")


def nats(figure: Estimate) -> Markup:
    """Returns a difference of two divergences in nats, signed, with its interval."""
    mean, low, high = (_signed(value, 4, plus=True) for value in (figure.mean, figure.low, figure.high))
    return _with_interval(mean, f"{low} to {high}")


def p_value(value: float) -> str:
    """Returns a probability with at most four digits."""
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.4f}".rstrip("0").removesuffix(".")


def listed(names: Iterable[str]) -> str:
    """Returns ``a, b and c``."""
    *others, last = list(names) or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


def ranges(numbers: Iterable[int]) -> str:
    """Returns ascending whole numbers as ``0-3, 5, 7-9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _signed(value: float, digits: int, *, plus: bool = False) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (_MINUS if value < 0 else "+" if plus else "") + text


def _with_interval(mean: str, interval: str) -> Markup:
    return join((escape(mean), " ", element("small", interval)))
