"""``allrounder card``: the whole fidelity table of a host and its router, measured anew with one command.

What it is: the arguments, the order of the work, and what is printed.
What it knows: the demo's own defaults, and that finished work is kept in a folder of its own. What it does not know:
how anything is measured (`card_work`), counted (`card_costs`), summarised (`card_write`) or drawn (`page`).

Order: questions -> work bundle (freeze, vote, verify) -> chunks of questions by several processes -> costs -> card ->
page. A killed command goes on where it was: whatever is in the work folder was measured on exactly what is asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from allrounder.calib.report.plan import CardRequest
from allrounder.card import CARD
from allrounder.commands.build import demo_models
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.progress import TerminalProgress
from allrounder.versions import FULL, VERSIONS

if TYPE_CHECKING:
    from allrounder.calib.report.job import Prepared
    from allrounder.card import Card
    from allrounder.manifest import Entry

__all__ = ["CardReport", "add_arguments", "request_from", "run"]

_DEMO = "demo"
SAMPLES = 6  # pictures on the page


class CardReport(msgspec.Struct, frozen=True):
    """The last line of stdout."""

    card: str
    page: str | None
    seconds: float
    questions: int  # the card's; how many of them were measured now is told on the way


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``card`` to ``parser``."""
    parser.description = "Measure the fidelity card of a model and its router: every version, and other pruners."
    parser.add_argument("--model", default=_DEMO, help="demo, or a Hugging Face directory")
    parser.add_argument("--router", type=Path, metavar="DIR", help="its router (demo: the shipped one)")
    parser.add_argument("--calib", type=Path, metavar="FILE", help="JSONL of pictures and questions (demo: drawn)")
    parser.add_argument(
        "--vote",
        type=Path,
        metavar="FILE",
        help="JSONL of prompts that vote for static layers (demo: the shipped ones)",
    )
    parser.add_argument("--questions", type=int, default=2000, help="the first so many (default: 2000)")
    parser.add_argument(
        "--grid-questions", type=int, default=500, help="of them for the other pruners; 0: none (default: 500)"
    )
    parser.add_argument(
        "--prune-layer", type=int, default=2, metavar="K", help="the layer before which visual tokens are dropped"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu is all there is yet")
    parser.add_argument("--precision", default="fp32", help="fp32 is all that runs as such on a CPU")
    parser.add_argument(
        "--work", type=Path, default=Path("bundles/card-work"), metavar="DIR", help="finished work is kept here"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"the card (default: {CARD} in the router's directory)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="also write the card as a page")
    parser.add_argument("--page-only", action="store_true", help="measure nothing: write the page of the card at --out")
    parser.add_argument("--no-timing", action="store_true", help="no times: equal work then gives an equal card")


def run(arguments: argparse.Namespace) -> int:
    """Measures, writes, prints a table and, as the last line of stdout, one JSON object."""
    started = time.monotonic()
    request = request_from(arguments)
    from allrounder.calib.report.job import measure_card, prepare, read_known_card
    from allrounder.calib.report.write import render

    progress = TerminalProgress()
    known = read_known_card(request) if request.page_only else None
    prepared = prepare(request, progress, _say)
    card = known or measure_card(request, prepared, progress, _say)
    if request.page is not None:
        _write_page(card, prepared, request.page)
    print(render(card))
    report = CardReport(
        card=str(request.out),
        page=request.page and str(request.page),
        seconds=round(time.monotonic() - started, 1),
        questions=card.dataset.questions,
    )
    print(msgspec.json.encode(report).decode())
    return 0


def request_from(arguments: argparse.Namespace) -> CardRequest:
    """Returns what the arguments ask for, defaults filled in.

    Raises:
        InputInvalid: A path or a number is missing or impossible.
        EngineUnavailable: Another device or precision than fp32 on the CPU.
    """
    if (arguments.device, arguments.precision) != ("cpu", "fp32"):
        raise EngineUnavailable(
            "a card is measured in fp32 on the CPU",
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
    model, router, calib, vote = _sources(arguments)
    out = arguments.out or router / CARD
    for flag, file in (("--out", out), ("--page", arguments.page)):
        if file is not None:
            _make_place(file, flag)
    return CardRequest(
        model=model.resolve(),
        router=router.resolve(),
        calib=calib,
        vote=vote,
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
    """Returns host, router, questions (None: drawn) and voting prompts."""
    model, router, calib, vote = arguments.model, arguments.router, arguments.calib, arguments.vote
    if model == _DEMO:
        models = demo_models()
        shipped = models / _DEMO / "calibration" / "prompts.jsonl"
        return models / _DEMO, router or models / "demo-router", calib, vote or shipped
    missing = [flag for flag, value in (("--router", router), ("--calib", calib), ("--vote", vote)) if value is None]
    if missing:
        raise InputInvalid(
            f"a card of a model other than {_DEMO} needs {', '.join(missing)}",
            remedy="give the router, questions to measure on, and other prompts that vote for static layers",
        )
    if vote.resolve() == calib.resolve():
        raise InputInvalid("layers must not be voted on the questions that are measured", where="--vote", got=vote)
    return Path(model), router, calib, vote


def _write_page(card: Card, prepared: Prepared, file: Path) -> None:
    from allrounder.calib.report.data import typical
    from allrounder.commands.report import ask_versions, write_page

    shown = [entry for entry in prepared.entries if _on_page(entry)]
    samples = ask_versions(prepared.bundle, shown, typical(prepared.questions.prompts, SAMPLES))
    write_page(card, file, samples, about(card))


def _on_page(entry: Entry) -> bool:
    """Whether pictures show it: `full`, and the versions that choose layers per input."""
    return entry.version == FULL or (entry.version in VERSIONS and entry.pruning.layer_policy == "dynamic")


def about(card: Card) -> str:
    """Returns whose figures a card holds, in a sentence."""
    other = ", not of LLaVA-1.5-7B" if card.model == _DEMO else ""
    return f"Figures of the model {card.model}{other}, on {card.dataset.about.rstrip('. ')}."


def _say(note: str) -> None:
    print(note, file=sys.stderr, flush=True)
