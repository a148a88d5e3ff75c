"""Freezing: a model and a router directory become a directory of graphs and weights.

Graphs are named by their content and weights by their sources, so that writing one again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import onnx

from allrounder import __version__
from allrounder.chat.literals import literals_of
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.errors import InputInvalid
from allrounder.export.graph.decoder import decoder_graph
from allrounder.export.graph.pruned_spec import pruned_spec
from allrounder.export.graph.writer import Placed, content_name, serialized
from allrounder.export.router import PREFIX, RouterShape, router_graph, router_tensors
from allrounder.export.tokenizer import write_tokenizer
from allrounder.export.vision import vision_graph
from allrounder.export.weights import layout as weights
from allrounder.export.weights.model_files import write_model
from allrounder.hashing import file_record
from allrounder.images.plan import ImagePlan
from allrounder.manifest import (
    SCHEMA,
    ChatTemplate,
    FileRecord,
    Frozen,
    FrozenVersion,
    Limits,
    Model,
    Precision,
    SharedGraphs,
    encode,
)
from allrounder.progress import Progress, note, silent
from allrounder.pruning import PruningConfig, PruningKey
from allrounder.router.checkpoint import RECORD, load_router
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_text, model_directory
from allrounder.vlm.spec import ModelSpec

__all__ = ["FROZEN", "GRAPHS", "FreezeOptions", "Freezer", "default_limits"]

FROZEN = "frozen.json"
GRAPHS = "graphs"
_NOT_LITERAL = "the chat template is more than literal strings: C++ programs must give rendered text, or token ids"


@dataclass(frozen=True, slots=True)
class FreezeOptions:
    """How to freeze."""

    precision: Precision = "fp32"
    limits: Limits | None = None  # None: `default_limits` of the model
    name: str | None = None  # of the model; None: that of the model's directory
    reuse: OpenBundle | None = None  # its weights files are hard-linked where they are the same


@dataclass(slots=True)
class _State:
    """What was written so far."""

    graphs: SharedGraphs | None = None
    chat: ChatTemplate | None = None
    model: Model | None = None
    fixed: list[str] = field(default_factory=list)  # files that all versions share
    versions: dict[PruningKey, FrozenVersion] = field(default_factory=dict)
    records: dict[str, FileRecord] = field(default_factory=dict)


def default_limits(spec: ModelSpec, plan: ImagePlan) -> Limits:
    """Returns limits that fit the model: up to 8 images, 512 new tokens, 2048 of text, batches of 8.

    Each is what a request may ask for by itself; together they may exceed the model's longest sequence, which is
    checked request by request.
    """
    longest = spec.decoder.max_positions
    rest = longest - plan.tokens
    new = max(1, min(512, rest // 3))
    images = max(1, min(8, (longest - 1) // plan.tokens))
    return Limits(
        images=images,
        image_tokens=min(images * plan.most_tokens, longest - 1),
        text_tokens=max(1, min(2048, rest - new)),
        new_tokens=new,
        batch=8,
    )


class Freezer:
    """Writes a frozen directory.

    Args:
        model_dir: A model directory or hub id.
        router_dir: Of that model, or None where nothing but unpruned versions are frozen.
        out: Absent or empty.
        options: See `FreezeOptions`.
        progress: Gets weights and versions.

    Raises:
        ModelUnreadable, ModelUnsupported, RouterMismatch: The sources are unusable or do not belong together.
        InputInvalid: ``out`` is not empty, or the limits exceed what the model was made for.
    """

    def __init__(
        self,
        model_dir: Path | str,
        router_dir: Path | str | None,
        out: Path | str,
        options: FreezeOptions | None = None,
        progress: Progress = silent,
    ) -> None:
        self._out, self._options, self._progress = Path(out), options or FreezeOptions(), progress
        if self._out.exists() and any(self._out.iterdir()):
            raise InputInvalid("the directory to freeze into is not empty", got=self._out, remedy="give another place")
        self._directory = model_directory(model_dir)
        self._checkpoint = Checkpoint(self._directory)
        self.spec = self._checkpoint.spec
        self._text = load_text(self._directory, self.spec)
        self._limits = _checked_limits(self._options.limits or default_limits(self.spec, self._text.images), self.spec)
        self._router_dir = Path(router_dir) if router_dir is not None else None
        self._element = weights.ELEMENT_TYPES[self._options.precision]
        self._vlm = weights.lay_out(
            "model",
            self._options.precision,
            self._checkpoint.digest,
            weights.model_tensors(self.spec),
            self._checkpoint.shape,
        )
        self._state = _State()

    def shared(self) -> None:
        """Writes what all versions share: weights, vision and router graphs, tokenizer, the model's files.

        Raises:
            GraphInvalid: A weight does not fit the precision.
            BundleCorrupt: The bundle to reuse is damaged.
        """
        (self._out / GRAPHS / weights.FOLDER).mkdir(parents=True, exist_ok=True)
        processor: Any = self._text.processor
        write_model(self._checkpoint, self._out)  # beside what `frozen.json` lists: bundles do not take it
        self._weights(self._vlm, self._checkpoint.read)
        vision = self._graph("vision", vision_graph(self.spec, self._text.images, self._vlm.tensors, self._element))
        tokenizer = write_tokenizer(processor, self._text.tokenizer_json, self._text.chat, self._out)
        router, digest = self._router() if self._router_dir is not None else (None, None)
        self._state.fixed += [f"{GRAPHS}/{weights.FOLDER}/{self._vlm.name}", vision, *tokenizer]
        self._state.fixed += [router] if router else []
        self._state.graphs = SharedGraphs(vision=vision, router=router)
        literals = literals_of(self._text.chat)
        if literals is None:
            note(self._progress, _NOT_LITERAL)
        self._state.chat = msgspec.structs.replace(self._text.chat, literals=literals)
        self._state.model = self._model(digest)

    def add(self, pruning: PruningConfig) -> FrozenVersion:
        """Writes the decoder of one version; the same version, K and policy once more replaces the first.

        Raises:
            InvalidBudget: The model cannot be pruned so, or static layers are not listed.
            InputInvalid: The version prunes, and there is no router.
        """
        pruned = pruned_spec(self.spec, pruning)
        if self._router_dir is None and pruning.routes:
            raise InputInvalid(
                "this version needs a router",
                got=pruning.version,
                remedy="give a router directory, or build the version full",
            )
        decoder = self._graph("decoder", decoder_graph(pruned, self._vlm.tensors, self._element))
        version = FrozenVersion(pruning=pruning, decoder=decoder)
        self._state.versions.pop(pruning.key, None)  # `frozen.json` lists versions in the order of their last call
        self._state.versions[pruning.key] = version
        self._progress(f"freezing {pruning.version}", 1, 1)
        return version

    def finish(self) -> Frozen:
        """Writes `frozen.json` over what is there now and returns it; more versions may follow, then call it again.

        Raises:
            InputInvalid: `shared` was not called.
        """
        state = self._state
        if state.graphs is None or state.model is None or state.chat is None:
            raise InputInvalid("nothing is frozen yet", remedy="call shared() first")
        versions = tuple(state.versions.values())
        files = sorted({*state.fixed, *(each.decoder for each in versions)})
        frozen = Frozen(
            schema=SCHEMA,
            producer=f"allrounder {__version__}",
            precision=self._options.precision,
            model=state.model,
            chat=state.chat,
            limits=self._limits,
            graphs=state.graphs,
            versions=versions,
            files={name: self._record(name) for name in files},
        )
        partial = self._out / f"{FROZEN}.partial"
        partial.write_bytes(encode(frozen))
        partial.replace(self._out / FROZEN)
        return frozen

    def _router(self) -> tuple[str, str]:
        """Writes the router's weights and graph; returns the graph's path and the digest of the router's record."""
        assert self._router_dir is not None
        router = load_router(self._router_dir, model_spec=self.spec, model_digest=self._checkpoint.digest)
        state = router.state_dict()
        digest = file_record(self._router_dir / RECORD).sha256
        shape = RouterShape(router.attention, len(router.layers), router.scope)
        layout = weights.lay_out(
            "router",
            self._options.precision,
            digest,
            router_tensors(self.spec, shape),
            lambda name: tuple(state[name.removeprefix(PREFIX)].shape),
        )
        self._weights(layout, lambda name: state[name.removeprefix(PREFIX)])
        self._state.fixed.append(f"{GRAPHS}/{weights.FOLDER}/{layout.name}")
        places: dict[str, Placed] = self._vlm.tensors | layout.tensors
        return self._graph("router", router_graph(self.spec, shape, places, self._element)), digest

    def _weights(self, layout: weights.WeightsFile, read: weights.Read) -> None:
        relative, reused = f"{GRAPHS}/{weights.FOLDER}/{layout.name}", self._options.reuse
        path = self._out / relative
        if path.exists():
            return
        record = reused.manifest.files.get(relative) if reused else None
        if reused and record and weights.link(layout, reused.path / relative, path):
            self._state.records[relative] = record  # as it was verified where the bundle was opened
        else:
            weights.write(layout, read, path, self._progress)

    def _graph(self, kind: str, model: onnx.ModelProto) -> str:
        """Writes a graph under the name of its content and returns its path relative to the frozen directory."""
        data = serialized(model)
        name = f"{GRAPHS}/{content_name(kind, data)}"
        (self._out / name).write_bytes(data)
        return name

    def _record(self, name: str) -> FileRecord:
        """Returns hash and size of a file; each is read once, since none changes under its name."""
        if name not in self._state.records:
            self._state.records[name] = file_record(self._out / name)
        return self._state.records[name]

    def _model(self, router: str | None) -> Model:
        return Model(
            name=self._options.name or self._directory.resolve().name,
            digest=self._checkpoint.digest,
            router=router,
            images=self._text.images,
            image_token_id=self.spec.image_token_id,
            layers=self.spec.decoder.layers,
            hidden=self.spec.decoder.hidden,
            vocabulary=self.spec.decoder.vocabulary,
            max_positions=self.spec.decoder.max_positions,
            stop_ids=self._text.stop_ids,
        )


def _checked_limits(limits: Limits, spec: ModelSpec) -> Limits:
    longest = spec.decoder.max_positions
    one_image = limits.text_tokens + spec.image_tokens + limits.new_tokens
    if max(one_image, limits.image_tokens + 1) > longest:
        raise InputInvalid(
            "the limits exceed the model's longest sequence",
            got=f"{limits.text_tokens} text + {spec.image_tokens} image + {limits.new_tokens} new tokens, "
            f"and {limits.image_tokens} image tokens in all",
            wanted=f"at most {longest}",
            remedy="lower the limits",
        )
    return limits
