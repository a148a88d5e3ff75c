"""The build itself: the stages in their order, from a host directory to what the backend publishes.

What it is: one function that calls the stages, and the decisions between them: what is frozen as a reference only,
what the layer vote reads, which figures are measured, which are copied from the router's card, and which are kept.
What it knows: the stages' entry points. What it does not know: arguments, graphs, or how anything is measured.

Order: read the host -> freeze what all versions share, and `full` as the reference -> vote (frozen policy) ->
freeze the versions -> verify -> stage -> try -> fidelity -> latency -> publish. Nothing at the place changes before the
last step, and what a killed build leaves beside it is swept by the next one. What is staged is always a bundle; whether
it is published as it is, or something else is made of what was measured, is the backend's business.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from allrounder.bundle import OpenBundle, open_bundle
from allrounder.calib import fidelity, latency
from allrounder.calib.card import copy_figures, summarize
from allrounder.calib.trial import try_engines
from allrounder.calib.votes import layer_order, plan_from
from allrounder.card import CARD, Card, read_card
from allrounder.commands.build_request import BuildRequest
from allrounder.engines.backends import Asked, Backend, BuildOptions, Built, backend
from allrounder.engines.bundle import Staging, set_figures, set_recommendations
from allrounder.engines.folders import beside
from allrounder.errors import CalibrationError, EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer, FreezeRequest
from allrounder.export.verify import verify
from allrounder.hosts.checkpoint import Checkpoint
from allrounder.hosts.generation import unheeded_note
from allrounder.hosts.host import host_directory
from allrounder.hosts.spec import HostSpec
from allrounder.manifest import Entry, Fidelity
from allrounder.native import ort_ops
from allrounder.progress import Progress
from allrounder.prompts import Prompt, PromptSet, read_prompts
from allrounder.router.checkpoint import RECORD, read_record
from allrounder.runtime.backend import BACKENDS, why_not
from allrounder.runtime.backend import backend as runtime_backend
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.memory import available_bytes, fits, needed_bytes
from allrounder.runtime.options import EngineOptions
from allrounder.versions import FULL, Version, check_flow, parse_budget, resolve

__all__ = ["QUESTIONS", "BuildReport", "build_bundle", "voters"]

QUESTIONS = 64  # prompts of the quick fidelity, and as many others for the vote
# Fidelity runs one question after another: weights mapped once for all engines cost it little and save a lot.
_MAPPED = EngineOptions(weights="shared")


class BuildReport(msgspec.Struct, frozen=True):
    """What was built: the entries asked for, as they stand in what was published, and where the time went."""

    bundle: str  # or whatever directory the backend writes
    entries: tuple[Built, ...]
    seconds: float
    phases: dict[str, float]


@dataclass(slots=True)
class _Clock:
    """Seconds per phase, each told as it ends."""

    say: Callable[[str], None]
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.phases[phase] = round(self.phases.get(phase, 0.0) + time.monotonic() - started, 2)
        self.say(f"{phase}: {self.phases[phase]:.1f} s")


@dataclass(frozen=True, slots=True)
class _Job:
    """A request with everything that is read before anything is written."""

    request: BuildRequest
    host: Path
    spec: HostSpec
    versions: tuple[Version, ...]
    place: Path
    backend: Backend
    prompts: PromptSet | None
    card: Card | None  # the router's, where its figures may be copied
    plans: dict[str, tuple[int, ...]]  # by version, the frozen plans that the card was measured with
    progress: Progress
    clock: _Clock
    say: Callable[[str], None]

    @property
    def needs_vote(self) -> bool:
        known = {FULL, *self.plans}
        return self.request.layer_policy == "frozen" and any(version.name not in known for version in self.versions)

    def build(self, frozen: Path, staging: Staging, requests: Sequence[FreezeRequest]) -> tuple[Entry, ...]:
        """Builds what was frozen for ``requests`` into a staged bundle."""
        only = frozenset((request.version.name, request.gather_layer, request.layer_policy) for request in requests)
        options = BuildOptions(only=only, force=self.request.force, native_op=self.request.native_op)
        return self.backend.build(frozen, staging, options)


def build_bundle(request: BuildRequest, progress: Progress, say: Callable[[str], None]) -> BuildReport:
    """Builds what ``request`` asks for and publishes it.

    Args:
        request: What to build.
        progress: Told the steps within a phase.
        say: Told phases and notes, one line each.

    Raises:
        AllRounderError: Whatever the stages refuse; the bundle at its place is then what it was.
    """
    started = time.monotonic()
    job = _read(request, progress, say)
    opened = job.backend.opened(job.place, force=request.force, progress=progress)
    with opened as output, beside(output.place) as work:
        staging = output.staging
        options = FreezeOptions(request.precision, name=_name(request.host), reuse=staging.base and staging.base.path)
        freezer = Freezer(job.host, request.router, work / "frozen", options, progress)
        with job.clock("freeze"):
            freezer.shared()
        reference = _reference(job, freezer, work)
        order = _vote(job, reference, work) if job.needs_vote and reference else ()
        with job.clock("freeze"):
            requests = [_freeze_request(job, version, order) for version in job.versions]
            for freeze_request in requests:
                freezer.add(freeze_request)
            freezer.finish()
        with job.clock("verify"):
            verify(work / "frozen", job.host, request.router, progress, proved=_proved(job, staging))
        with job.clock("stage"):
            entries = job.build(work / "frozen", staging, requests)
        with job.clock("try"):
            new = [entry for entry in entries if entry.key not in staging.reused]
            try_engines(open_bundle(staging.path, progress=job.progress), new, _MAPPED, say)
        _calibrate(job, staging, entries, reference)
        with job.clock("publish"):
            built = output.publish(work / "frozen", entries)
            for note in output.notes:
                say(f"note: {note}")
    return BuildReport(
        bundle=str(job.place),
        entries=built,
        seconds=round(time.monotonic() - started, 2),
        phases=job.clock.phases,
    )


def _read(request: BuildRequest, progress: Progress, say: Callable[[str], None]) -> _Job:
    """Reads and checks all inputs, the cheap ones first."""
    prompts = read_prompts(request.calib) if request.calib else None
    card = _card(request, say)
    built_by = backend(request.backend)
    if request.native_op and ort_ops() is None:
        say("note: the native gather op is not installed here: the entries ask for it, and are measured without it")
    host = host_directory(request.host)
    spec = Checkpoint(host).spec
    # A pruned checkpoint carries the author's word with it.
    if request.backend != "checkpoint" and (note := unheeded_note(host, spec.decoder.max_positions)):
        say(note)
    tokens, layers = spec.visual_tokens, spec.decoder.layers
    versions = [resolve(name, tokens=tokens, layers=layers) for name in request.versions]
    versions += [parse_budget(request.budget, tokens=tokens, layers=layers)] if request.budget else []
    for version in versions:
        gather_layer = 0 if version.name == FULL else request.gather_layer
        check_flow(version.budget, tokens=tokens, layers=layers, gather_layer=gather_layer)
    wanted = tuple(dict.fromkeys(versions))
    built_by.check(_asked(request, wanted))
    plans = _plans(request, card, wanted)
    if plans:
        say(f"note: the layer plans of {', '.join(plans)} are those of the router's card; no vote is needed")
    place = request.out or Path(built_by.PLACE.format(model=_name(request.host), version=wanted[0].name))
    job = _Job(request, host, spec, wanted, place, built_by, prompts, card, plans, progress, _Clock(say), say)
    if prompts is None:
        if job.needs_vote:
            raise CalibrationError(
                "a frozen layer plan is a vote over prompts, and there are none",
                where="--layer-policy frozen",
                wanted='a file of {"image": "relative/path.png", "question": "..."} lines',
                remedy="give --calib FILE, or --layer-policy routed",
            )
        if card is None:
            say("note: no prompts (--calib FILE), so no fidelity is measured: the runtime ranks engines by budget")
    elif card is None and len(prompts.prompts) < QUESTIONS:
        say(f"note: only {len(prompts.prompts)} prompts (of {QUESTIONS} wanted): fidelity has wide intervals")
    return job


def _asked(request: BuildRequest, versions: Sequence[Version]) -> Asked:
    names = tuple(version.name for version in versions)
    flow = (request.gather_layer, request.layer_policy, request.precision)
    return Asked(request.backend, names, *flow, request.words)


def _card(request: BuildRequest, say: Callable[[str], None]) -> Card | None:
    """Returns the card beside the router, where there is one and nobody gave prompts of their own.

    Raises:
        CalibrationError: It cannot be read.
    """
    path = request.router / CARD if request.router else None
    if path is None or not path.exists():
        return None
    if request.own_prompts:
        say(f"note: fidelity is measured on {request.calib}; the router's card, {path}, is not read")
        return None
    return read_card(path)


def _plans(request: BuildRequest, card: Card | None, versions: Sequence[Version]) -> dict[str, tuple[int, ...]]:
    """Returns the frozen plans that the card was measured with, where it is of this router and gather layer."""
    if card is None or request.router is None or request.layer_policy != "frozen":
        return {}
    record = hashlib.sha256((request.router / RECORD).read_bytes()).hexdigest()
    ours = (record, read_record(request.router).host, request.gather_layer)
    if ours != (card.router, card.host, card.gather_layer):
        return {}
    rows = {version.name: (version.budget, card.row(version.name, "frozen")) for version in versions}
    return {
        name: row.layer_plan
        for name, (budget, row) in rows.items()
        if row is not None and row.layer_plan is not None and (row.tokens, row.layers) == budget
    }


def _proved(job: _Job, staging: Staging) -> frozenset[str]:
    """Returns the graphs that the bundle already holds: they were verified when they were built into it."""
    return frozenset() if staging.base is None or job.request.force else frozenset(staging.base.manifest.files)


def _name(host: str) -> str:
    """Returns what the model is called: the last part of its directory or hub id."""
    return Path(host).resolve().name if Path(host).is_dir() else host.rpartition("/")[2]


def _freeze_request(job: _Job, version: Version, order: Sequence[int]) -> FreezeRequest:
    """Returns how a version is frozen; `full` is always frozen, whole, and gathers nowhere."""
    if version.name == FULL:
        return FreezeRequest(version, 0, "frozen", tuple(range(job.spec.decoder.layers)))
    gather_layer = job.request.gather_layer
    if job.request.layer_policy == "routed":
        return FreezeRequest(version, gather_layer, "routed", None)
    plan = job.plans.get(version.name) or plan_from(order, version.budget.layers, gather_layer)
    return FreezeRequest(version, gather_layer, "frozen", plan)


def _reference(job: _Job, freezer: Freezer, work: Path) -> OpenBundle | None:
    """Returns a bundle of `full` (and a version that asks the router, where there is a vote), or None without prompts.

    It is a reference only: whether `full` is published is the request's business. Where the backend's engines cannot be
    run it has no use, and what is voted on stands alone.
    """
    requests: list[FreezeRequest] = []
    if job.prompts and _runs_here(job.request.backend):
        tokens, layers = job.spec.visual_tokens, job.spec.decoder.layers
        requests.append(_freeze_request(job, resolve(FULL, tokens=tokens, layers=layers), ()))
    if job.prompts and job.needs_vote:
        requests.append(FreezeRequest(_voter(job), job.request.gather_layer, "routed", None))
    if not requests:
        return None
    with job.clock("reference"):
        for request in requests:
            freezer.add(request)
        freezer.finish()
        staging = Staging(work / "reference", progress=job.progress)
        job.build(work / "frozen", staging, requests)
        return open_bundle(staging.path, progress=job.progress)


def _runs_here(name: str) -> bool:
    """Whether what a backend builds can be run here; where the runtime has no such backend, ONNX Runtime's stand in."""
    try:
        return name not in BACKENDS or bool(runtime_backend(name))
    except EngineUnavailable:
        return False


def _vote(job: _Job, reference: OpenBundle, work: Path) -> tuple[int, ...]:
    """Returns the layers in the order in which the prompts want them."""
    assert job.prompts is not None, "a vote without prompts was refused"
    with job.clock("vote"):
        voter = next(entry for entry in reference.manifest.entries if entry.version != FULL)
        if why_not(voter, _MAPPED):
            job.say(f"note: {voter.precision} does not run here: layers are voted for in fp32")
            reference = _voting_in_fp32(job, work)
            (voter,) = reference.manifest.entries
        if not fits(reference, [voter], _MAPPED):
            raise CalibrationError(
                f"the layer vote cannot be run: {_memory_note(reference, [voter])}",
                remedy="build on a machine with more memory, or with --layer-policy routed",
            )
        engine = Engine.open(reference, voter, _MAPPED)
        return layer_order(engine, voters(job.prompts.prompts), job.request.gather_layer, job.progress)


def _voting_in_fp32(job: _Job, work: Path) -> OpenBundle:
    """Returns a bundle of the version that asks the router, in a precision that runs everywhere."""
    request = FreezeRequest(_voter(job), job.request.gather_layer, "routed", None)
    options = FreezeOptions("fp32", name=_name(job.request.host))
    freezer = Freezer(job.host, job.request.router, work / "voting", options, job.progress)
    freezer.shared()
    freezer.add(request)
    freezer.finish()
    verify(work / "voting", job.host, job.request.router, job.progress)
    staging = Staging(work / "voters", progress=job.progress)
    job.build(work / "voting", staging, [request])
    return open_bundle(staging.path, progress=job.progress)


def _voter(job: _Job) -> Version:
    return next(version for version in job.versions if version.name != FULL)


def _memory_note(bundle: OpenBundle, entries: Sequence[Entry]) -> str:
    """Returns what ``entries`` need and what there is, in words."""
    needed, available = needed_bytes(bundle, entries, _MAPPED), available_bytes() or 0
    return (
        f"{entries[0].precision} on this machine needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"
    )


def voters(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Returns the prompts that vote: others than those of the quick fidelity, where there are enough of them."""
    measured = set(fidelity.quick_sample(prompts, QUESTIONS))
    others = [prompt for prompt in prompts if prompt not in measured]
    return fidelity.quick_sample(others if len(others) >= QUESTIONS // 2 else prompts, QUESTIONS)


def _calibrate(job: _Job, staging: Staging, entries: Sequence[Entry], reference: OpenBundle | None) -> None:
    """Adds what the staged bundle lacks: fidelity of the new entries, and latency of all where one is new."""
    reused = [entry for entry in entries if entry.key in staging.reused]
    for entry in reused:
        job.say(f"{entry.label} is in the bundle already, with the same graphs: left as it is (--force measures again)")
    missing = [entry for entry in entries if entry.fidelity is None]
    unable = why_not(entries[0], _MAPPED)
    if job.card and missing:
        instead = "none is measured without prompts (--calib FILE)"
        if job.prompts:
            instead = "none is measured" if unable else "a quick figure is measured"
        missing = _copied(job.card, staging, missing, instead, job.say)
    if unable:
        job.say(f"note: verified, but not run, and neither fidelity nor latency is measured: {unable}")
    elif reference and job.prompts and missing:
        with job.clock("fidelity"):
            found = _fidelity(job, open_bundle(staging.path, progress=job.progress), missing, reference)
            set_figures(staging, {entry.key: (found[entry.key], entry.latency) for entry in missing})
    # Latency is compared between entries, so a new one is timed beside all others, in one run.
    peers = [entry for entry in staging.manifest.entries if entry.backend == job.request.backend]
    if peers and not unable and len(reused) < len(entries):
        with job.clock("latency"):
            bundle = open_bundle(staging.path, progress=job.progress)
            timed = latency.measure(bundle, peers, progress=job.progress, say=job.say)
            figures = {entry.key: (entry.fidelity, figure) for entry, figure in zip(peers, timed, strict=True)}
            set_figures(staging, figures)


def _copied(
    card: Card, staging: Staging, missing: Sequence[Entry], instead: str, say: Callable[[str], None]
) -> list[Entry]:
    """Gives those of ``missing`` that the card speaks of its figures; returns the others, and says why."""
    found = copy_figures(card, missing, staging.manifest.model)
    if found.figures:
        set_figures(staging, {e.key: (found.figures[e.key], e.latency) for e in missing if e.key in found.figures})
        set_recommendations(staging, found.recommendations)
        labels = ", ".join(entry.label for entry in missing if entry.key in found.figures)
        say(
            f"fidelity of {labels} is copied from the router's card: {card.full.questions} questions, "
            f"{card.dataset.about} ({card.dataset.name})"
        )
    for label, reasons in found.refused.items():
        say(f"note: the router's card does not hold for {label} ({', '.join(reasons)}): {instead}")
    return [entry for entry in missing if entry.key not in found.figures]


def _fidelity(
    job: _Job, staged: OpenBundle, entries: Sequence[Entry], reference: OpenBundle
) -> dict[tuple[str, str, str, int, str], Fidelity | None]:
    """Returns the quick fidelity of ``entries`` against the reference, by key; None where memory does not do."""
    assert job.prompts is not None, "without prompts there is no reference"
    full = next(entry for entry in reference.manifest.entries if entry.version == FULL)
    if not fits(staged, [full, *entries], _MAPPED):
        job.say(f"note: fidelity is not measured: {_memory_note(staged, [full, *entries])}")
        return {entry.key: None for entry in entries}
    engine = Engine.open(reference, full, _MAPPED)
    contenders = [fidelity.Contender(engine) for engine in open_engines(staged, entries, _MAPPED)]
    sample = fidelity.quick_sample(job.prompts.prompts, QUESTIONS)
    outcomes = fidelity.measure(engine, contenders, sample, job.progress)
    return {
        entry.key: summarize(outcome, dataset=job.prompts.name)
        for entry, outcome in zip(entries, outcomes, strict=True)
    }
