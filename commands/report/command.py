"""``allrounder report``: the whole fidelity table of a model and its router, measured anew with one command.

Arguments, order and output; the work is measured in `calib.report.work`, counted in `costs`, summarised in `write`,
and drawn in `page`.

Order: questions -> work bundle (freeze, ranking, verify) -> chunks of questions by several processes -> costs -> report
-> page. A killed command goes on where it was: whatever is in the work folder was measured on exactly what is asked
for.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from allrounder.calib.report.work_list import ReportRequest
from allrounder.commands.build import demo_models
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.fidelity_report import REPORT
from allrounder.progress import TerminalProgress
from allrounder.versions import FULL, VERSIONS

if TYPE_CHECKING:
    from allrounder.calib.report.job import Prepared
    from allrounder.fidelity_report import FidelityReport
    from allrounder.manifest import Entry

__all__ = ["ReportSummary", "add_arguments", "request_from", "run"]

_DEMO = "demo"
SAMPLES = 6  # images on the page


class ReportSummary(msgspec.Struct, frozen=True):
    """The last line of stdout."""

    report: str
    page: str | None
    seconds: float
    questions: int  # the report's; how many of them were measured now is noted on the way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``report`` to ``parser``."""
    parser.description = "Measure the fidelity report of a model and its router: every version, and other pruners."
    parser.add_argument("--model", default=_DEMO, help="demo, or a Hugging Face directory")
    parser.add_argument("--router", type=Path, metavar="DIR", help="its router (demo: the shipped one)")
    parser.add_argument("--calib", type=Path, metavar="FILE", help="JSONL of images and questions (demo: drawn)")
    parser.add_argument(
        "--rank",
        type=Path,
        metavar="FILE",
        help="JSONL of prompts that rank the layers (demo: the shipped ones)",
    )
    parser.add_argument("--questions", type=int, default=2000, help="the first so many (default: 2000)")
    parser.add_argument(
        "--grid-questions", type=int, default=500, help="of them for the other pruners; 0: none (default: 500)"
    )
    parser.add_argument(
        "--prune-layer", type=int, default=2, metavar="K", help="the layer before which image tokens are dropped"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu is all there is yet")
    parser.add_argument("--precision", default="fp32", help="fp32 is all that runs as such on a CPU")
    parser.add_argument(
        "--work", type=Path, default=Path("bundles/report-work"), metavar="DIR", help="finished work is kept here"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the report (default: {REPORT} in the router's directory)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="also write the report as a page")
    parser.add_argument(
        "--page-only", action="store_true", help="measure nothing: write the page of the report at --out"
    )
    parser.add_argument("--no-timing", action="store_true", help="no times: equal work then gives an equal report")


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes, prints a table and, as the last line of stdout, one JSON object."""
    started = time.monotonic()
    request = request_from(arguments)
    from allrounder.calib.report.job import measure_report, prepare, read_known_report
    from allrounder.calib.report.write import render

    progress = TerminalProgress()
    known = read_known_report(request) if request.page_only else None
    prepared = prepare(request, progress)
    report = known or measure_report(request, prepared, progress)
    if request.page is not None:
        _write_page(report, prepared, request.page)
    print(render(report))
    summary = ReportSummary(
        report=str(request.out),
        page=request.page and str(request.page),
        seconds=round(time.monotonic() - started, 1),
        questions=report.dataset.questions,
    )
    print(msgspec.json.encode(summary).decode())
    return 0


def request_from(arguments: argparse.Namespace) -> ReportRequest:
    """Returns what the arguments ask for, defaults filled in.

    Raises:
        InputInvalid: A path or a number is missing or impossible.
        EngineUnavailable: Another device or precision than fp32 on the CPU.
    """
    if (arguments.device, arguments.precision) != ("cpu", "fp32"):
        raise EngineUnavailable(
            "a report is measured in fp32 on the CPU",
            got=f"--device {arguments.device} --precision {arguments.precision}",
            remedy="leave both out; fp16 runs on a CPU as casts around fp32, and CUDA is not supported here yet",
        )
    numbers = {"questions": 1, "grid_questions": 0, "jobs": 1, "prune_layer": 0}
    for name, lowest in numbers.items():
        if getattr(arguments, name) < lowest:
            flag = f"--{name.replace('_', '-')}"
            raise InputInvalid("too few", where=flag, got=getattr(arguments, name), wanted=f"{lowest} or more")
    if arguments.page is not None:
        from allrounder.commands.report.page import check_installed

        check_installed()  # said before an hour of work, not after it
    if arguments.page_only and arguments.page is None:
        raise InputInvalid("there is no page to write", where="--page-only", remedy="give --page FILE.html as well")
    model, router, calib, ranking = _sources(arguments)
    out = arguments.out or router / REPORT
    for flag, file in (("--out", out), ("--page", arguments.page)):
        if file is not None:
            _make_place(file, flag)
    return ReportRequest(
        model=model.resolve(),
        router=router.resolve(),
        calib=calib,
        ranking=ranking,
        questions=arguments.questions,
        grid_questions=min(arguments.grid_questions, arguments.questions),
        prune_layer=arguments.prune_layer,
        jobs=arguments.jobs,
        work=arguments.work.resolve(),
        out=out,
        page=arguments.page,
        page_only=arguments.page_only,
        timing=not arguments.no_timing,
    )


def _make_place(file: Path, flag: str) -> None:
    """Makes the folder of a file that will be written, so that it is known before the work whether it can be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir() or not os.access(file.parent, os.W_OK):
            raise InputInvalid("this file cannot be written", where=flag, got=file, remedy="give another place")
    except OSError as error:
        raise InputInvalid("this file's folder cannot be made", where=flag, got=error) from error


def _sources(arguments: argparse.Namespace) -> tuple[Path, Path, Path | None, Path]:
    """Returns model, router, questions (None: drawn) and ranking prompts."""
    model, router, calib, ranking = arguments.model, arguments.router, arguments.calib, arguments.rank
    if model == _DEMO:
        models = demo_models()
        shipped = models / _DEMO / "calibration" / "prompts.jsonl"
        return models / _DEMO, router or models / "demo-router", calib, ranking or shipped
    missing = [flag for flag, value in (("--router", router), ("--calib", calib), ("--rank", ranking)) if value is None]
    if missing:
        raise InputInvalid(
            f"a report of a model other than {_DEMO} needs {', '.join(missing)}",
            remedy="give the router, questions to measure on, and other prompts that rank the layers",
        )
    if ranking.resolve() == calib.resolve():
        raise InputInvalid("layers must not be ranked by the questions that are measured", where="--rank", got=ranking)
    return Path(model), router, calib, ranking


def _write_page(report: FidelityReport, prepared: Prepared, file: Path) -> None:
    from allrounder.calib.report.data import typical
    from allrounder.commands.report import ask_versions, write_page

    shown = [entry for entry in prepared.entries if _on_page(entry)]
    samples = ask_versions(prepared.bundle, shown, typical(prepared.questions.prompts, SAMPLES))
    write_page(report, file, samples, about(report))


def _on_page(entry: Entry) -> bool:
    """Whether images show it: `full`, and the versions that choose layers per input."""
    return entry.version == FULL or (entry.version in VERSIONS and entry.pruning.layer_policy == "dynamic")


def about(report: FidelityReport) -> str:
    """Returns whose figures a report holds, in a sentence."""
    other = ", not of LLaVA-1.5-7B" if report.model == _DEMO else ""
    return f"Figures of the model {report.model}{other}, on {report.dataset.about.rstrip('. ')}."
