"""Memory: what training a router will take, in bytes by part and phase, before anything is loaded.

Autograd remembers less of the frozen model than of the router: the input of a linear layer is remembered for the
gradient of its weights alone. Fragmentation, the device's context and what libraries take for themselves come on top
(on CUDA usually 1 to 2 GiB).

Phases do not overlap: references are computed before a step, so the peak is what is always there and the larger phase.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from allrounder.router.gated import ALIGNED
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.references import TOGETHER
from allrounder.versions import Budget, resolve
from allrounder.vlm.spec import ModelSpec

__all__ = ["Estimate", "Means", "Part", "estimate"]

Phase = Literal["always", "references", "step", "main memory"]
FLOAT = 4  # bytes
TEXT = 64  # rows of template and question, where nothing else is given


class Part(NamedTuple):
    """Bytes of one thing in one phase; those in main memory are not on the device, where that is another."""

    name: str
    phase: Phase
    bytes: int


class Means(NamedTuple):
    """With what a run is made: bytes of a ``weight`` of the model, the ``answer``'s and the ``text``'s tokens.

    ``image_tokens`` and ``tiles`` are those of the largest image; None: of an image that is one tile.
    """

    weight: int = FLOAT
    autocast: bool = False
    checkpoint: bool = False
    answer: int = 16
    text: int = TEXT
    cache_mib: int = 2048
    image_tokens: int | None = None
    tiles: int = 1


class Estimate(NamedTuple):
    """All parts. ``device`` is the peak on the device, ``main`` what the references take at most beside it."""

    parts: tuple[Part, ...]

    @property
    def device(self) -> int:
        """Peak bytes on the device."""
        return self._sum("always") + max(self._sum("references"), self._sum("step"))

    @property
    def main(self) -> int:
        """Bytes in main memory, which is the device's own where that is the CPU."""
        return self._sum("main memory")

    def _sum(self, phase: Phase) -> int:
        return sum(part.bytes for part in self.parts if part.phase == phase)


def estimate(spec: ModelSpec, options: TrainOptions, means: Means) -> Estimate:
    """Returns what a run takes.

    Raises:
        UnknownVersion: The options name a budget that does not exist.
        InvalidBudget: They name one that does not fit the model.
    """
    router = _router_weights(spec, options) * FLOAT
    always = [
        Part("model, frozen", "always", _model_weights(spec) * means.weight),
        Part("router, fp32", "always", router),
        Part("router's optimiser (AdamW) and gradient", "always", router * 3),
    ]
    references = Part("references: keys and values, vision tower", "references", _references(spec, means))
    gated = max(_gated(spec, options, means, budget) for budget in _budgets(spec, options, means))
    step = [
        Part("batch: rows and distributions", "step", _batch(spec, options, means)),
        Part("router: what its gradient needs", "step", _router_rows(spec, options, means)),
        Part("model under gates: what the gradient needs", "step", gated),
    ]
    cache = Part("references that are remembered, at most", "main memory", means.cache_mib << 20)
    return Estimate((*always, references, *step, cache))


def _image_tokens(spec: ModelSpec, means: Means) -> int:
    return spec.image_tokens if means.image_tokens is None else means.image_tokens


def _budgets(spec: ModelSpec, options: TrainOptions, means: Means) -> list[Budget]:
    tokens, layers = _image_tokens(spec, means), spec.decoder.layers
    return [resolve(name, tokens=tokens, layers=layers) for name in options.budgets]


def _layer_weights(spec: ModelSpec) -> int:
    one = spec.decoder
    attention = one.hidden * one.head_dim * (2 * one.heads + 2 * one.kv_heads)
    return attention + 3 * one.hidden * one.feed_forward + 2 * one.hidden


def _router_weights(spec: ModelSpec, options: TrainOptions) -> int:
    return options.router_layers * _layer_weights(spec) + (spec.decoder.layers + 2) * spec.decoder.hidden


def _model_weights(spec: ModelSpec) -> int:
    text, vision, projector = spec.decoder, spec.vision, spec.projector
    decoder = text.layers * _layer_weights(spec) + (1 if text.tied else 2) * text.vocabulary * text.hidden + text.hidden
    tower = vision.layers * (4 * vision.hidden**2 + 2 * vision.hidden * vision.feed_forward + 10 * vision.hidden)
    tower += vision.hidden * (3 * vision.patch_size**2 + vision.rows + 4)
    if vision.family == "siglip":  # its pooling head, which stock models load and do not use
        tower += 4 * vision.hidden**2 + (2 * vision.hidden + 1) * vision.feed_forward + 8 * vision.hidden
    second = 0 if projector.activation is None else projector.hidden + 1
    return decoder + tower + projector.hidden * (projector.inputs + 1 + second)


def _prompt_rows(spec: ModelSpec, means: Means) -> int:
    return _image_tokens(spec, means) + means.text


def _references(spec: ModelSpec, means: Means) -> int:
    """Keys and values of one image and of the questions about it, and the widest moment of reading it."""
    text, rows = spec.decoder, _prompt_rows(spec, means) + means.answer
    kept = 2 * text.layers * text.kv_heads * text.head_dim * means.weight
    tower = means.tiles * spec.vision.rows * 2 * spec.vision.feed_forward * means.weight
    reading = max(tower, rows * _moment(spec) * means.weight)
    return rows * kept * (1 + TOGETHER) + reading + TOGETHER * text.vocabulary * means.weight


def _moment(spec: ModelSpec) -> int:
    """Values per row that are there at once inside a layer of which nothing is remembered."""
    one = spec.decoder
    return 3 * one.hidden + max(3 * one.feed_forward, 6 * one.heads * one.head_dim)


def _batch(spec: ModelSpec, options: TrainOptions, means: Means) -> int:
    rows = (_prompt_rows(spec, means)) * spec.decoder.hidden
    read = options.batch * rows * (means.weight * 2 + FLOAT)  # embeddings, rows before K, and both in float32
    return read + options.batch * means.answer * spec.decoder.vocabulary * FLOAT


def _router_rows(spec: ModelSpec, options: TrainOptions, means: Means) -> int:
    one, rows = spec.decoder, _prompt_rows(spec, means) + spec.decoder.layers
    part = 2 if means.autocast else FLOAT
    heads = one.heads * one.head_dim
    layer = 4 * one.hidden * FLOAT + (2 * one.hidden + 5 * heads + 4 * one.feed_forward) * part
    values = options.router_layers * layer + 4 * one.hidden * FLOAT
    weights = _router_weights(spec, options) * part if means.autocast else 0  # autocast's own copy
    return options.batch * (rows * values + 3 * rows * rows * FLOAT) + weights


def _gated(spec: ModelSpec, options: TrainOptions, means: Means, budget: Budget) -> int:
    one, batch = spec.decoder, options.batch
    rows = min(round(options.window * budget.tokens), _image_tokens(spec, means)) + means.text + means.answer
    heads = one.heads * (one.head_dim // ALIGNED + 1) * ALIGNED
    wide = FLOAT if means.weight == FLOAT else FLOAT + means.weight  # a norm works in float32
    inside = 2 * one.hidden * wide + (4 * heads + 3 * one.feed_forward) * means.weight
    between = 2 * one.hidden * means.weight  # the update, and the rows that it is added to
    opened, free = budget.layers - options.prune_layer, one.layers - options.prune_layer
    remembered = free * between + (1 if means.checkpoint else opened) * inside
    gradient = _moment(spec) * means.weight  # of the layer that the gradient is in
    return batch * (rows * (remembered + gradient) + 4 * means.answer * one.vocabulary * FLOAT)
