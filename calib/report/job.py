"""The measurement of a fidelity report, from what is asked for to the report.

The work folder: ``test-<images>/`` holds drawn questions; ``<model>-<router>-k<K>/bundle`` the engines, named by the
digests of what they are made of; beside it, by a digest of everything that outcomes depend on, the chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from allrounder import __version__
from allrounder.calib.questions import ranking_prompts
from allrounder.calib.report.bundle import Sources, build_work_bundle, entries_of
from allrounder.calib.report.costs import Asked, Times, costs, text_tokens, time_engines
from allrounder.calib.report.data import Questions, check_all, check_apart, draw_test_split, read_questions
from allrounder.calib.report.work import Assignment, read_outcomes, run_chunks
from allrounder.calib.report.work_list import (
    Chunk,
    ReportRequest,
    aggressive,
    chunks,
    digest_of_work,
    grid_size,
    wanted_engines,
    work_list,
)
from allrounder.calib.report.write import Measured, make_report
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import FidelityReport, read_report, write_report
from allrounder.hashing import file_record
from allrounder.images.planning import Extent
from allrounder.manifest import Entry
from allrounder.progress import Progress, note
from allrounder.prompts import read_prompts
from allrounder.pruning import custom_version
from allrounder.router.checkpoint import RECORD, read_record
from allrounder.router.pruners.downscaling import reaches_below_a_tile
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import image_size
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_text
from allrounder.vlm.spec import ModelSpec

__all__ = ["Prepared", "measure_report", "prepare", "read_known_report"]

MEASURED_AS = "2"  # to be counted up when pruners or fidelity are computed in another way: old chunks are then left


class Prepared(NamedTuple):
    """All that is there before anything is measured."""

    spec: ModelSpec
    questions: Questions
    bundle: OpenBundle
    entries: tuple[Entry, ...]  # `full` first
    task: Assignment
    chunks: tuple[Chunk, ...]


def prepare(request: ReportRequest, progress: Progress) -> Prepared:
    """Reads or draws the questions and builds the engines; what was done before is not done again.

    Raises:
        AllRounderError: Whatever the stages refuse.
    """
    checkpoint = Checkpoint(request.model)
    spec = checkpoint.spec
    plan, layers = load_text(request.model, spec).images, spec.decoder.layers
    tokens = plan.tokens if plan.most_tiles == 1 else None
    sources = Sources(request.model, request.router, request.prune_layer)
    read_record(request.router)
    engines = wanted_engines(tokens, layers, request.prune_layer)
    read = read_prompts(request.ranking)
    ranking = read.prompts
    questions = _questions(request)
    check_apart(questions.prompts, ranking)
    grid = grid_size(questions.prompts, request.grid_questions)
    note(progress, f"{len(questions.prompts)} questions, {grid} of them for the other pruners: {questions.about}")
    router = file_record(request.router / RECORD).sha256
    folder = request.work / f"{checkpoint.digest[:12]}-{router[:12]}-k{request.prune_layer}"
    bundle = build_work_bundle(sources, engines, ranking, folder / "bundle", progress)
    entries = entries_of(bundle, engines)
    downscales = reaches_below_a_tile(plan)
    if not downscales:
        note(progress, f"note: no downscaling, as the {plan.tokens} tokens of a tile are no square grid")
    few = custom_version(aggressive(tokens), layers)
    work = work_list(engines, few, len(questions.prompts), grid, downscales=downscales)
    model = bundle.manifest.model
    # Sorted: a bundle just published lists its files in another order than one read again.
    files = {path: each.sha256 for path, each in sorted(bundle.manifest.files.items())}
    made_of = msgspec.json.encode((files, entries))
    facts = (__version__, MEASURED_AS, model.digest, model.router or "", questions.name, read.name, made_of.decode())
    task = Assignment(
        sources=sources,
        bundle=bundle.path,
        engines=engines,
        work=work,
        prompts=questions.prompts,
        calibration=ranking_prompts(ranking),
        folder=questions.folder,
        results=folder / digest_of_work(work, questions.prompts, *facts),
    )
    return Prepared(spec, questions, bundle, entries, task, chunks(questions.prompts, grid))


def measure_report(request: ReportRequest, prepared: Prepared, progress: Progress) -> FidelityReport:
    """Measures what is not measured yet, and writes the report.

    Raises:
        AllRounderError: A worker's error, or a stage's; finished work is kept.
    """
    engine = Engine.open(prepared.bundle, prepared.entries[0], EngineOptions(weights="shared"))
    check_all(engine, prepared.questions.prompts)
    text = text_tokens(engine, prepared.questions.prompts)
    del engine
    run_chunks(prepared.task, prepared.chunks, request.jobs, progress)
    outcomes = read_outcomes(prepared.task, prepared.chunks)
    work, tokens = prepared.task.work, outcomes[0].image_tokens
    times: tuple[Times | None, ...] = (None,) * len(prepared.entries)
    if request.timing:
        times = time_engines(prepared.bundle, prepared.entries, text, _median_image(prepared, tokens), progress)
    smaller = zip(work.subjects, outcomes, strict=True)
    shown = {subject.key: found.kept_tokens for subject, found in smaller if subject.downscales}
    router_layers = read_record(request.router).router_layers
    found = costs(prepared.spec, prepared.entries, Asked(tokens, text, shown), router_layers, times)
    measured = Measured(prepared.bundle.manifest.model, prepared.entries, work, outcomes, found)
    report = make_report(measured, prepared.questions, request.prune_layer)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, request.out)
    return report


def _median_image(prepared: Prepared, tokens: np.ndarray) -> Extent | None:
    """Returns the size of the image of median N; None where every image is one tile."""
    if prepared.bundle.manifest.model.images.most_tiles == 1:
        return None
    place = int(np.argsort(tokens, kind="stable")[len(tokens) // 2])
    return image_size(prepared.questions.prompts[place].image)


def read_known_report(request: ReportRequest) -> FidelityReport:
    """Returns the report that was written before.

    Raises:
        CalibrationError: There is none, or it is not of this model and router.
    """
    report = read_report(request.out)
    vlm = Checkpoint(request.model).digest
    router = file_record(request.router / RECORD).sha256
    if (report.model_digest, report.router, report.prune_layer) != (vlm, router, request.prune_layer):
        raise CalibrationError(
            "the report is of another model, router or prune layer",
            where=request.out,
            remedy="measure it again: leave out --page-only",
        )
    return report


def _questions(request: ReportRequest) -> Questions:
    if request.calib is not None:
        return read_questions(request.calib, request.questions)
    return draw_test_split(request.work, request.questions)
