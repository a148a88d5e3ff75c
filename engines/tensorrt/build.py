"""The TensorRT backend: plans for one TensorRT and one GPU architecture, built from frozen graphs.

It places frozen graphs in the staged bundle and puts a plan in the place of each but one: images are prepared by ONNX
Runtime on the CPU, because TensorRT's `Resize` does not filter as Pillow does. A plan is named by what it was built
from and what it runs on.

Tokens may leave at any layer: caches above and below have capacities of their own, so a request may keep as many image
tokens as the version does, or fewer. Where the plugin of the gather op is installed it is built into the plan, and the
plan needs it to run; else the op's own function is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import onnx

from allrounder.engines.backends import Asked, BuildOptions
from allrounder.engines.bundle.publish import PLACE, BundleOutput, Staging, bundle_output
from allrounder.engines.entries import place_frozen
from allrounder.engines.frozen import read_frozen
from allrounder.engines.onnxruntime import build as onnxruntime
from allrounder.engines.tensorrt.form import parsed_form
from allrounder.engines.tensorrt.library import RTX_TARGETS, Library, open_library
from allrounder.engines.tensorrt.plan import PlanOptions, Source, build_plan, target
from allrounder.engines.tensorrt.plan_names import TENSORRT, Flavour, plan_name
from allrounder.engines.tensorrt.profiles import extents, profiles
from allrounder.errors import InputInvalid
from allrounder.gather import TOKEN_GATHER
from allrounder.hashing import file_record
from allrounder.manifest import Entry, EntryGraphs, Frozen
from allrounder.progress import Progress

__all__ = ["BACKEND", "PLACE", "POLICIES", "PlanOptions", "build", "check", "opened"]

BACKEND = TENSORRT.backend
POLICIES = ("static",)
_PLANNED = ("vision", "router", "decoder")
_built: dict[str, Path] = {}  # plans that this process built, while they lie there: `full` as reference, then as engine


def check(asked: Asked) -> None:
    """Refuses layers that are chosen per input; tokens may leave at any layer.

    Raises:
        InputInvalid: Dynamic layers; the remedy is the nearest command line that works.
    """
    if asked.dynamic:
        raise InputInvalid(
            "TensorRT cannot choose layers per input and save time by it",
            where=f"--backend {asked.backend}",
            got="--layer-policy dynamic: a conditional holds the weights of both branches and takes about the time of "
            "the longer one (NVIDIA/TensorRT issues 4402 and 4059)",
            wanted="layers fixed by a ranking (--layer-policy static)",
            remedy=asked.static_command(),
        )


@contextmanager
def opened(place: Path, *, force: bool, progress: Progress, flavour: Flavour = TENSORRT) -> Iterator[BundleOutput]:
    """Opens a bundle; see `allrounder.engines.bundle.publish.bundle_output`.

    Raises:
        EngineUnavailable: TensorRT is missing or too old, or there is no GPU, before any work is done.
    """
    library = open_library(flavour)
    with bundle_output(place, force=force, progress=progress) as output:
        output.notes = (_note(library),)
        yield output


def build(
    frozen_dir: str | Path,
    staging: Staging,
    options: BuildOptions,
    plans: PlanOptions | None = None,
    flavour: Flavour = TENSORRT,
) -> tuple[Entry, ...]:
    """Builds the versions of a frozen directory, or those in ``options.only``; as ONNX Runtime's `build`.

    Dynamic versions are not asked for by anybody who was checked: they are what a layer ranking is run on, and ONNX
    Runtime's engines do for that. Plans that the bundle already holds are not built again.

    Raises:
        EngineUnavailable: TensorRT is missing or too old, or there is no GPU.
        BackendError: TensorRT refuses a graph, or fails; its message is quoted.
    """
    source = Path(frozen_dir)
    frozen = read_frozen(source)
    keys = options.only or frozenset(each.pruning.key for each in frozen.versions)
    dynamic = frozenset(key for key in keys if key[2] == "dynamic")
    options = options._replace(native_op=False)
    theirs = onnxruntime.build(source, staging, options._replace(only=dynamic)) if dynamic else ()
    if keys == dynamic:
        return theirs
    writer = _Writer(open_library(flavour), frozen, staging, options, plans or PlanOptions())
    placed = place_frozen(source, staging, flavour.backend, options._replace(only=keys - dynamic))
    entries = [writer.planned(entry) for entry in placed]
    return (*theirs, *staging.put(entries, force=options.force))


class _Writer:
    """Puts plans into a staged bundle."""

    def __init__(
        self, library: Library, frozen: Frozen, staging: Staging, options: BuildOptions, plans: PlanOptions
    ) -> None:
        self._library, self._frozen, self._staging = library, frozen, staging
        self._progress, self._plans = options.progress, plans
        self._written: dict[tuple[str, str], str] = {}  # plans by graph and keep rule

    def planned(self, entry: Entry) -> Entry:
        """Returns the entry with plans in the place of its graphs."""
        paths = dict(msgspec.structs.asdict(entry.graphs))
        for kind in _PLANNED:
            if paths[kind] is not None:
                paths[kind] = self._plan(entry, kind, paths[kind])
        return msgspec.structs.replace(entry, graphs=EntryGraphs(**paths))

    def _plan(self, entry: Entry, kind: str, path: str) -> str:
        key = (path, entry.pruning.keep)
        if key not in self._written:
            self._written[key] = self._write(self._source(entry, kind, path), kind)
        return self._written[key]

    def _source(self, entry: Entry, kind: str, path: str) -> Source:
        file = self._staging.path / path
        model = onnx.load(file, load_external_data=False)
        fixed = extents(entry, self._frozen) if kind == "decoder" else {}
        return Source(parsed_form(model, fixed), file, profiles(kind, entry, self._frozen))

    def _write(self, source: Source, kind: str) -> str:
        gathers = any(node.op_type == TOKEN_GATHER.name for node in source.model.graph.node)
        built_for = target(self._library, self._plans, plugin=self._library.plugin and gathers)
        path = f"graphs/{plan_name(kind, self._digest(source), built_for, self._library.flavour)}"
        if path in self._staging.files:
            return path
        before = _built.get(path)  # of the same content: a plan's name says what it was built from
        if before and before.is_file():
            self._staging.place_file(before, path, file_record(before))
            return path
        with self._staging.new_file(path) as write:
            build_plan(self._library, source, self._plans, write, self._progress)
        _built[path] = self._staging.path / path
        return path

    def _digest(self, source: Source) -> str:
        """Returns a digest of all that a plan is made from; weights are in it by the names of their files."""
        settings = repr((source.profiles, self._plans, self._library.gpu and self._library.gpu.name))
        data = source.model.SerializeToString(deterministic=True)
        return hashlib.sha256(data + settings.encode()).hexdigest()[:12]


def _note(library: Library) -> str:
    version = ".".join(map(str, library.version))
    if library.gpu is None:
        return f"plans for {library.flavour.name} {version} on {', '.join(RTX_TARGETS)}; no GPU was asked for them"
    gather = "with the gather op's plugin" if library.plugin else "with the gather op's own function, no plugin"
    return f"plans for TensorRT {version} on SM {library.gpu.sm} ({library.gpu.name}), {gather}"
