"""The build itself: the stages in their order, from a model directory to what the backend publishes.

Here is decided what is frozen as a reference only, what the layer ranking reads, and which figures are measured, copied
from the router's report, or kept. How each stage works, and arguments, are others' business.

Order: read the model -> freeze what all versions share, and `full` as the reference -> ranking (static layers) ->
freeze the versions -> verify -> stage -> try -> fidelity -> latency -> publish. Nothing at the place changes before the
last step, and what a killed build leaves beside it is swept by the next one. What is staged is always a bundle; whether
it is published as it is, or something else is made of what was measured, is the backend's business.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from allrounder.calib import fidelity, latency
from allrounder.calib.figures import copy_figures, summarize
from allrounder.calib.layer_ranking import layer_order, ranked
from allrounder.calib.questions import QUESTIONS, quick_sample, ranking_prompts
from allrounder.calib.trial import try_engines
from allrounder.commands.pipeline.limits import build_limits, check_takes_questions
from allrounder.commands.pipeline.request import BuildRequest
from allrounder.engines.backends import Asked, Backend, BuildOptions, Built, backend
from allrounder.engines.bundle.folders import beside
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend as runtime_backend
from allrounder.engines.sessions import why_not
from allrounder.engines.table import BACKENDS
from allrounder.errors import CalibrationError, EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.verify.verify import verify
from allrounder.fidelity_report import REPORT, ROUTER, FidelityReport, read_report
from allrounder.hashing import file_record
from allrounder.images.plan import ImagePlan
from allrounder.manifest import Entry, Fidelity, Limits
from allrounder.native import ort_ops
from allrounder.progress import Progress, note
from allrounder.prompts import PromptSet, read_prompts
from allrounder.pruning import PruningConfig, pruning_config
from allrounder.router.checkpoint import RECORD, read_record
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.memory import available_bytes, fits, needed_bytes
from allrounder.versions import FULL
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.generation import unheeded_note
from allrounder.vlm.model import load_text, model_directory
from allrounder.vlm.spec import ModelSpec

__all__ = ["BuildReport", "build_bundle"]

# Fidelity runs one question after another: weights mapped once for all engines cost it little and save a lot.
_MAPPED = EngineOptions(weights="shared")


class BuildReport(msgspec.Struct, frozen=True):
    """What was built: the entries asked for, as published, and where the time went."""

    bundle: str  # or whatever directory the backend writes
    entries: tuple[Built, ...]
    seconds: float
    phases: dict[str, float]


@dataclass(slots=True)
class _Clock:
    """Seconds per phase, each noted as it ends."""

    progress: Progress
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.phases[phase] = round(self.phases.get(phase, 0.0) + time.monotonic() - started, 2)
        note(self.progress, f"{phase}: {self.phases[phase]:.1f} s")


@dataclass(frozen=True, slots=True)
class _Job:
    """A request with everything that is read before anything is written."""

    request: BuildRequest
    vlm: Path
    digest: str  # of the model
    spec: ModelSpec
    images: ImagePlan
    prunings: tuple[PruningConfig, ...]  # static layers as far as they are known before a ranking
    place: Path
    backend: Backend
    prompts: PromptSet | None
    report: FidelityReport | None  # the router's, where its figures may be copied
    progress: Progress
    clock: _Clock

    @property
    def needs_ranking(self) -> bool:
        return any(pruning.unranked for pruning in self.prunings)

    def build(self, frozen: Path, staging: Staging, prunings: Sequence[PruningConfig]) -> tuple[Entry, ...]:
        """Builds what was frozen of ``prunings`` into a staged bundle."""
        only = frozenset(pruning.key for pruning in prunings)
        options = BuildOptions(only=only, force=self.request.force, native_op=self.request.native_op)
        return self.backend.build(frozen, staging, options)


def build_bundle(request: BuildRequest, progress: Progress) -> BuildReport:
    """Builds what ``request`` asks for and publishes it.

    ``progress`` gets the steps within a phase, and phases and notes as lines.

    Raises:
        AllRounderError: Whatever the stages refuse; the bundle at its place is then what it was.
    """
    started = time.monotonic()
    job = _read(request, progress)
    opened = job.backend.opened(job.place, force=request.force, progress=progress)
    with opened as output, beside(output.place) as work, ExitStack() as kept:
        staging = output.staging
        limits = _limits(job, staging.base)
        options = FreezeOptions(request.precision, limits, name=_name(request.vlm), reuse=staging.base)
        freezer = Freezer(job.vlm, request.router, work / "frozen", options, progress)
        with job.clock("freeze"):
            freezer.shared()
        reference = _reference(job, freezer, work, kept)
        order = _ranking(job, reference, work, kept, limits) if job.needs_ranking and reference else ()
        with job.clock("freeze"):
            prunings = [ranked(pruning, order) for pruning in job.prunings]
            for pruning in prunings:
                freezer.add(pruning)
            freezer.finish()
        with job.clock("verify"):
            verify(work / "frozen", job.vlm, request.router, progress, proved=_proved(job, staging))
        with job.clock("stage"):
            entries = job.build(work / "frozen", staging, prunings)
        with job.clock("try"):
            new = [entry for entry in entries if entry.key not in staging.reused]
            try_engines(open_bundle(staging.path, progress=job.progress), new, _MAPPED, progress)
        _calibrate(job, staging, entries, reference)
        with job.clock("publish"):
            built = output.publish(work / "frozen", entries)
            for line in output.notes:
                note(progress, f"note: {line}")
    return BuildReport(
        bundle=str(job.place),
        entries=built,
        seconds=round(time.monotonic() - started, 2),
        phases=job.clock.phases,
    )


def _read(request: BuildRequest, progress: Progress) -> _Job:
    """Reads and checks all inputs, the cheap ones first."""
    prompts = read_prompts(request.calib) if request.calib else None
    report = _report(request, progress)
    built_by = backend(request.backend)
    if request.native_op and ort_ops() is None:
        note(progress, "note: the native gather op is not installed here: entries ask for it, and run without it here")
    vlm = model_directory(request.vlm)
    checkpoint = Checkpoint(vlm)
    spec = checkpoint.spec
    text = load_text(vlm, spec)
    if request.limits.given:
        check_takes_questions(build_limits(request.limits, spec, text.images, None), text)
    # A pruned checkpoint carries the author's config with it.
    if request.backend != "checkpoint" and (unheeded := unheeded_note(vlm, spec.decoder.max_positions)):
        note(progress, unheeded)
    prunings = request.prunings(layers=spec.decoder.layers, policies=built_by.POLICIES)
    built_by.check(Asked(request.backend, prunings, request.precision, request.flags))
    prunings = _with_report_layers(request, report, prunings, progress)
    if prompts is None:
        prunings = _with_layers(request, prunings, progress)
        if report is None:
            note(progress, "note: no prompts (--calib FILE), so no fidelity: the runtime ranks engines by budget")
    elif report is None and len(prompts.prompts) < QUESTIONS:
        note(progress, f"note: only {len(prompts.prompts)} of {QUESTIONS} prompts: fidelity has wide intervals")
    place = request.out or Path(built_by.PLACE.format(model=_name(request.vlm), version=prunings[0].version))
    return _Job(
        request,
        vlm,
        checkpoint.digest,
        spec,
        text.images,
        prunings,
        place,
        built_by,
        prompts,
        report,
        progress,
        _Clock(progress),
    )


def _limits(job: _Job, base: OpenBundle | None) -> Limits:
    """Returns the limits to build with: those of the bundle that is built into, where no flag gives others."""
    same = base is not None and base.manifest.model.digest == job.digest
    return build_limits(job.request.limits, job.spec, job.images, base.manifest.limits if base and same else None)


def _with_layers(
    request: BuildRequest, prunings: Sequence[PruningConfig], progress: Progress
) -> tuple[PruningConfig, ...]:
    """Returns those of ``prunings`` that can be built without prompts: all, or the dynamic where no policy was asked.

    Raises:
        CalibrationError: Static layers were asked for, or nothing else runs, and nobody has ranked them.
    """
    unranked = [pruning for pruning in prunings if pruning.unranked]
    others = tuple(pruning for pruning in prunings if not pruning.unranked)
    if not unranked:
        return others
    what = "static layers are ranked by prompts, and there are none"
    remedy = "give --calib FILE, or a router with a report"
    if request.layer_policy is None and {pruning.version for pruning in unranked} <= {each.version for each in others}:
        note(progress, f"note: {what}: only dynamic layers are built; for static ones {remedy}")
        return others
    raise CalibrationError(
        what,
        where="--layer-policy",
        wanted='a file of {"image": "relative/path.png", "question": "..."} lines',
        remedy=f"{remedy}, or --layer-policy dynamic",
    )


def _report(request: BuildRequest, progress: Progress) -> FidelityReport | None:
    """Returns the report beside the router, where there is one and nobody gave prompts of their own.

    Raises:
        CalibrationError: It cannot be read.
    """
    path = request.router / REPORT if request.router else None
    if path is None or not path.exists():
        return None
    if request.own_prompts:
        note(progress, f"note: fidelity is measured on {request.calib}; the router's report, {path}, is not read")
        return None
    return read_report(path)


def _with_report_layers(
    request: BuildRequest, report: FidelityReport | None, prunings: Sequence[PruningConfig], progress: Progress
) -> tuple[PruningConfig, ...]:
    """Returns ``prunings``, static ones with the layers of the report, where it is of this router."""
    if report is None or request.router is None:
        return tuple(prunings)
    record = file_record(request.router / RECORD).sha256
    if (record, read_record(request.router).model_digest) != (report.router, report.model_digest):
        return tuple(prunings)
    known = {row.pruning for row in report.rows if row.pruner == ROUTER}
    by_question = {msgspec.structs.replace(pruning, kept_layers=None): pruning for pruning in known}
    found = tuple(by_question.get(pruning, pruning) for pruning in prunings)
    if names := [ours.version for ours, theirs in zip(found, prunings, strict=True) if ours != theirs]:
        note(progress, f"note: the router's report has the layers of {', '.join(names)}; no ranking is needed")
    return found


def _proved(job: _Job, staging: Staging) -> frozenset[str]:
    """Returns the graphs that the bundle already holds: they were verified when they were built into it."""
    return frozenset() if staging.base is None or job.request.force else frozenset(staging.base.manifest.files)


def _name(vlm: str) -> str:
    """Returns what the model is called: the last part of its directory or hub id."""
    return Path(vlm).resolve().name if Path(vlm).is_dir() else vlm.rpartition("/")[2]


def _reference(job: _Job, freezer: Freezer, work: Path, kept: ExitStack) -> OpenBundle | None:
    """Returns a bundle of `full` (and of a version that ranks layers, where one is to), or None without prompts.

    It is a reference only: whether `full` is published is the request's business. Where the backend's engines cannot be
    run it has no use, and what is ranked is alone in it. It is there as long as ``kept`` is open.
    """
    prunings: list[PruningConfig] = []
    if job.prompts and _runs_here(job.request.backend):
        layers = job.spec.decoder.layers
        prunings.append(pruning_config(FULL, layers=layers, prune_layer=0, layer_policy="static"))
    if job.prompts and job.needs_ranking:
        prunings.append(_ranked_by(job))
    if not prunings:
        return None
    with job.clock("reference"):
        for pruning in prunings:
            freezer.add(pruning)
        freezer.finish()
        staging = kept.enter_context(Staging(work / "reference", progress=job.progress))
        job.build(work / "frozen", staging, prunings)
        return open_bundle(staging.path, progress=job.progress)


def _runs_here(name: str) -> bool:
    """Whether what a backend builds runs here; a backend that the runtime does not have is run by ONNX Runtime."""
    try:
        return not BACKENDS[name].runs or bool(runtime_backend(name))
    except EngineUnavailable:
        return False


def _ranking(job: _Job, reference: OpenBundle, work: Path, kept: ExitStack, limits: Limits) -> tuple[int, ...]:
    """Returns the layers in the order in which the prompts want them."""
    assert job.prompts is not None, "a ranking without prompts was refused"
    with job.clock("ranking"):
        ranked_by = next(entry for entry in reference.manifest.entries if entry.version != FULL)
        if why_not(ranked_by, _MAPPED):
            note(job.progress, f"note: {ranked_by.precision} does not run here: layers are ranked in fp32")
            reference = _ranking_in_fp32(job, work, kept, limits)
            (ranked_by,) = reference.manifest.entries
        if not fits(reference, [ranked_by], _MAPPED):
            raise CalibrationError(
                f"the layer ranking cannot be run: {_memory_note(reference, [ranked_by])}",
                remedy="build on a machine with more memory, or with --layer-policy dynamic",
            )
        engine = Engine.open(reference, ranked_by, _MAPPED)
        return layer_order(engine, ranking_prompts(job.prompts.prompts), job.request.prune_layer, job.progress)


def _ranking_in_fp32(job: _Job, work: Path, kept: ExitStack, limits: Limits) -> OpenBundle:
    """Returns a bundle of the version that asks the router, in a precision that runs everywhere."""
    ranked_by = _ranked_by(job)
    options = FreezeOptions("fp32", limits, name=_name(job.request.vlm))
    freezer = Freezer(job.vlm, job.request.router, work / "ranking", options, job.progress)
    freezer.shared()
    freezer.add(ranked_by)
    freezer.finish()
    verify(work / "ranking", job.vlm, job.request.router, job.progress)
    staging = kept.enter_context(Staging(work / "ranked", progress=job.progress))
    job.build(work / "ranking", staging, [ranked_by])
    return open_bundle(staging.path, progress=job.progress)


def _ranked_by(job: _Job) -> PruningConfig:
    """Returns an engine that asks the router; which layers it runs does not matter."""
    unranked = next(pruning for pruning in job.prunings if pruning.unranked)
    return msgspec.structs.replace(unranked, layer_policy="dynamic")


def _memory_note(bundle: OpenBundle, entries: Sequence[Entry]) -> str:
    """Returns what ``entries`` need and what there is, as text."""
    needed, available = needed_bytes(bundle, entries, _MAPPED), available_bytes() or 0
    return (
        f"{entries[0].precision} on this machine needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"
    )


def _calibrate(job: _Job, staging: Staging, entries: Sequence[Entry], reference: OpenBundle | None) -> None:
    """Adds what the staged bundle lacks: fidelity of the new entries, and latency of all where one is new."""
    reused = [entry for entry in entries if entry.key in staging.reused]
    for entry in reused:
        note(job.progress, f"{entry.label} is in the bundle already: left as it is (--force measures again)")
    missing = [entry for entry in entries if entry.fidelity is None]
    unable = why_not(entries[0], _MAPPED)
    if job.report and missing:
        instead = "none is measured without prompts (--calib FILE)"
        if job.prompts:
            instead = "none is measured" if unable else "a quick figure is measured"
        missing = _copied(job.report, staging, missing, instead, job.progress)
    if unable:
        note(job.progress, f"note: verified, but not run, and neither fidelity nor latency is measured: {unable}")
    elif reference and job.prompts and missing:
        with job.clock("fidelity"):
            found = _fidelity(job, open_bundle(staging.path, progress=job.progress), missing, reference)
            staging.set_figures({entry.key: (found[entry.key], entry.latency) for entry in missing})
    # Latency is compared between entries, so a new one is timed beside all others, in one run.
    peers = [entry for entry in staging.manifest.entries if entry.backend == job.request.backend]
    if peers and not unable and len(reused) < len(entries):
        with job.clock("latency"):
            bundle = open_bundle(staging.path, progress=job.progress)
            timed = latency.measure(bundle, peers, progress=job.progress)
            figures = {entry.key: (entry.fidelity, figure) for entry, figure in zip(peers, timed, strict=True)}
            staging.set_figures(figures)


def _copied(
    report: FidelityReport, staging: Staging, missing: Sequence[Entry], instead: str, progress: Progress
) -> list[Entry]:
    """Gives those of ``missing`` that the report speaks of its figures; returns the others, and notes why."""
    found = copy_figures(report, missing, staging.manifest.model)
    if found.figures:
        staging.set_figures({e.key: (found.figures[e.key], e.latency) for e in missing if e.key in found.figures})
        staging.set_recommendations(found.recommendations)
        labels = ", ".join(entry.label for entry in missing if entry.key in found.figures)
        note(
            progress,
            f"fidelity of {labels} is copied from the router's report: {report.full.questions} questions, "
            f"{report.dataset.about} ({report.dataset.name})",
        )
    for label, reasons in found.refused.items():
        note(progress, f"note: the router's report does not hold for {label} ({', '.join(reasons)}): {instead}")
    return [entry for entry in missing if entry.key not in found.figures]


def _fidelity(
    job: _Job, staged: OpenBundle, entries: Sequence[Entry], reference: OpenBundle
) -> dict[tuple[str, str, str, int, str], Fidelity | None]:
    """Returns the quick fidelity of ``entries`` against the reference, by key; None where memory does not do."""
    assert job.prompts is not None, "without prompts there is no reference"
    full = next(entry for entry in reference.manifest.entries if entry.version == FULL)
    if not fits(staged, [full, *entries], _MAPPED):
        note(job.progress, f"note: fidelity is not measured: {_memory_note(staged, [full, *entries])}")
        return {entry.key: None for entry in entries}
    engine = Engine.open(reference, full, _MAPPED)
    contenders = [fidelity.Contender(engine) for engine in open_engines(staged, entries, _MAPPED)]
    sample = quick_sample(job.prompts.prompts, QUESTIONS)
    outcomes = fidelity.measure(engine, contenders, sample, job.progress)
    return {
        entry.key: summarize(outcome, dataset=job.prompts.name)
        for entry, outcome in zip(entries, outcomes, strict=True)
    }
