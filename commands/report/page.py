"""The page, rendered and written."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from allrounder.calib.fidelity import same_answer
from allrounder.calib.report.tiles import tables
from allrounder.calib.tables import ranges
from allrounder.commands.report import images, rows
from allrounder.commands.report.samples import Sample
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.fidelity_report import FidelityReport

__all__ = ["check_installed", "page", "write_page"]

_TEMPLATES = Path(__file__).parent / "templates"
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10}, "\N{REPLACEMENT CHARACTER}")


def check_installed() -> None:
    """Checks that what draws the page is there.

    Raises:
        EngineUnavailable: It is not.
    """
    if find_spec("matplotlib") is None:
        raise EngineUnavailable(
            "the fidelity report's page needs matplotlib", where="--page", remedy="pip install 'allrounder[report]'"
        )


def write_page(report: FidelityReport, out: Path, samples: Sequence[Sample], about: str) -> None:
    """Writes the report as one self-contained HTML file; a kill leaves the old file or the new one.

    ``about`` says in a sentence whose figures these are, such as "Figures of the demo model, not of LLaVA-1.5-7B".

    Raises:
        EngineUnavailable: Matplotlib is not installed.
        InputInvalid: ``out`` cannot be written.
    """
    text = page(report, samples, about)
    temporary = out.with_name(out.name + ".next")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        temporary.replace(out)
    except OSError as error:
        raise InputInvalid("the page cannot be written", where=out, got=error, wanted="such as report.html") from error


def page(report: FidelityReport, samples: Sequence[Sample], about: str) -> str:
    """Returns the page's HTML.

    Raises:
        EngineUnavailable: Matplotlib is not installed.
    """
    check_installed()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html").render(
        report=report,
        samples=samples,
        about=about,
        rows=rows,
        tiles=tables(report),
        images=images,
        number=_number,
        count=_count,
        ranges=ranges,
        same_answer=same_answer,
    )
    return text.translate(_CONTROLS) + "\n"


def _number(value: float, digits: int = 1, sign: str = "") -> str:
    """Returns a figure with a true minus sign, and without one where it rounds to zero."""
    return f"{value:{sign}z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _count(tokens: float) -> str:
    """Returns a mean number of image tokens, with a digit behind the point where it is no whole one."""
    return f"{tokens:,.0f}" if tokens == int(tokens) else f"{tokens:,.1f}"
