"""Verifying decoder graphs: piece by piece, and small models whole.

A stock layer that runs once over prompt and new rows is the reference of both runs of a graph: being causal, its first
rows are the prompt's, and its keys and values fill the cache that the new rows read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
import torch

from allrounder import tensors
from allrounder.errors import GraphInvalid
from allrounder.export.graph.pruned_spec import PrunedSpec
from allrounder.export.verify.compare import Comparison
from allrounder.export.verify.extract import all_nodes
from allrounder.export.verify.prompts import prompt_feeds, random_layout
from allrounder.export.verify.reference import LayerRun, StockParts
from allrounder.layout import keep_counts
from allrounder.progress import Progress
from allrounder.router.selection import keep_indices, kept_layer_mask
from allrounder.versions import kept_tokens
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision

__all__ = ["Graph", "verify_decision", "verify_decoder"]

PROMPT, NEW, FREE = 12, 3, 2  # rows of the prompt and of new tokens in a piece, and cache slots left over
_JUNK = 100.0  # what stands in free slots must not matter, so it is large
_NAN = float("nan")


class Graph(NamedTuple):
    """A decoder graph and what it was frozen for."""

    name: str
    model: onnx.ModelProto
    pruned: PrunedSpec

    def gathered(self, layer: int) -> bool:
        """Whether a layer sees kept image tokens alone."""
        return self.pruned.prunes and layer >= self.pruned.pruning.prune_layer


class _Sample(NamedTuple):
    """What goes through one layer: prompt and new rows, and their positions."""

    positions: torch.Tensor  # int64 [1, PROMPT + NEW], with the gap that dropped tokens leave
    hidden: torch.Tensor  # [1, PROMPT + NEW, H]
    cosine: torch.Tensor  # [1, PROMPT + NEW, D / 2]
    sine: torch.Tensor

    def rows(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns hidden rows, cosine and sine of some rows."""
        return self.hidden[:, begin:end], self.cosine[:, begin:end], self.sine[:, begin:end]


class _Pass(NamedTuple):
    """A run of one layer: which rows enter, and what the stock layer gives for all."""

    sample: _Sample
    after: LayerRun
    rows: range


def verify_decoder(comparison: Comparison, graphs: list[Graph], parts: StockParts, progress: Progress) -> None:
    """Compares all pieces of all graphs; layers are read from the checkpoint once, one after another."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, depth = parts.spec.decoder.vocabulary, parts.spec.decoder.layers
    ids = torch.randint(vocabulary, (1, PROMPT + NEW), generator=generator)
    for graph in graphs:
        _entry(comparison, graph, parts)
        _selection(comparison, graph)
    positions = torch.arange(PROMPT + NEW)[None]
    positions[:, PROMPT // 2 :] += parts.spec.image_tokens
    cosine, sine = (part[..., : parts.spec.decoder.head_dim // 2] for part in parts.angles(positions))
    sample = _Sample(positions, parts.embed(ids), cosine, sine)
    for layer in range(depth):
        after = parts.decoder_layer(layer, sample.hidden, positions)
        for graph in graphs:
            if layer in graph.pruned.layers:
                for rows in (range(PROMPT), range(PROMPT, PROMPT + NEW)):
                    _layer(comparison, graph, layer, _Pass(sample, after, rows))
        sample = sample._replace(hidden=after.hidden)
        progress("verifying decoder layers", layer + 1, depth)
    logits, rows = parts.logits(sample.hidden[0]), comparison.rows(sample.hidden)
    for graph in graphs:
        last = _first(graph, lambda node: node.name == "last.hidden", "a node last.hidden").input[0]
        feeds = {last: rows, tensors.LOGITS_TO_KEEP: np.array([2])}
        comparison.piece(graph.name, graph.model, feeds, {tensors.LOGITS: logits[None, -2:]})


def verify_decision(comparison: Comparison, graph: Graph, vlm: LoadedModel) -> None:
    """Compares whole requests with the removing model: prompts with two images and with none, then new tokens."""
    for texts in ((4, 3, 5), (6,)):
        _request(comparison, graph, vlm, texts)


def _request(comparison: Comparison, graph: Graph, vlm: LoadedModel, texts: tuple[int, ...]) -> None:
    pruned, spec, generator = graph.pruned, graph.pruned.spec, torch.Generator().manual_seed(1)
    pruning = pruned.pruning
    layout = random_layout(spec, texts, generator)
    image_embeds = torch.randn(layout.image_tokens, spec.decoder.hidden, generator=generator)
    scores = torch.randn(1, layout.image_tokens, generator=generator)
    layer_scores = torch.randn(1, spec.decoder.layers, generator=generator)
    prompt = prompt_batch([layout])
    mask = kept_layer_mask(layer_scores, pruning.layers, pruning.prune_layer)
    kept = mask if pruning.kept_layers is None else pruning.kept_layers
    decision = PruningDecision(keep_indices(scores, prompt.image_of, pruning.keep_rule), kept, pruning.prune_layer)
    eager = PrunedModel(vlm)
    state = eager.prefill(image_embeds[None], prompt, decision)
    dropped = layout.image_tokens - decision.keep.shape[1]
    capacity = layout.rows + 3
    held = _caches(comparison, graph, mask[0], capacity, capacity - dropped) | {tensors.LAYER_MASK: mask[0].numpy()}
    feeds = prompt_feeds(layout) | {
        tensors.IMAGE_EMBEDS: comparison.rows(image_embeds),
        tensors.TOKEN_SCORES: scores[0].numpy(),
        tensors.KEEP_COUNTS: np.array(keep_counts(layout, pruning.keep_rule), np.int64),
        tensors.SLOTS: np.array([0]),
        tensors.KEPT_SLOTS: np.array([0]),
        tensors.LOGITS_TO_KEEP: np.array([1]),
    }
    found = comparison.whole(graph.model, held | feeds)
    wanted = {tensors.LOGITS: state.logits[:, None]}
    wanted |= {tensors.KEEP_INDICES: decision.keep[0]} if pruned.prunes else {}
    comparison.outputs(graph.name, found, wanted)
    for done, count in ((0, 2), (2, 1)):
        held |= {name.replace("_out.", "."): value for name, value in found.items() if name.startswith("cache_")}
        ids = torch.randint(spec.decoder.vocabulary, (1, count), generator=generator)
        feeds = _new_tokens(comparison, spec.decoder.hidden) | {
            tensors.INPUT_IDS: ids.numpy(),
            tensors.POSITION_IDS: layout.next_position + done + np.arange(count)[None, None],
            tensors.SLOTS: np.array([layout.rows + done]),
            tensors.KEPT_SLOTS: np.array([layout.rows - dropped + done]),
            tensors.LOGITS_TO_KEEP: np.array([count]),
        }
        found = comparison.whole(graph.model, held | feeds)
        comparison.outputs(graph.name, found, {tensors.LOGITS: eager.decode(state, ids)})


def _new_tokens(comparison: Comparison, hidden: int) -> dict[str, np.ndarray]:
    """Returns the inputs that say that there are no image tokens."""
    none = np.zeros(0, np.int64)
    return {
        tensors.IMAGE_EMBEDS: np.zeros((0, hidden), comparison.dtype),
        tensors.IMAGE_INDEX: none,
        tensors.IMAGE_OF: none,
        tensors.KEEP_COUNTS: none,
        tensors.TOKEN_SCORES: np.zeros(0, np.float32),
    }


def _caches(
    comparison: Comparison, graph: Graph, mask: torch.Tensor, capacity: int, kept_capacity: int
) -> dict[str, np.ndarray]:
    decoder, caches = graph.pruned.spec.decoder, {}
    for layer in graph.pruned.layers:
        slots = kept_capacity if graph.gathered(layer) else capacity
        slots = 0 if graph.pruned.optional(layer) and not mask[layer] else slots
        for name in (tensors.CACHE_KEY, tensors.CACHE_VALUE):
            shape = (1, decoder.kv_heads, slots, decoder.head_dim)
            caches[name.format(layer=layer)] = np.full(shape, _JUNK, comparison.dtype)
    return caches


def _entry(comparison: Comparison, graph: Graph, parts: StockParts) -> None:
    """Rows of a prompt with an image, and of new tokens; angles and filled slots below and beyond the gather."""
    spec, generator = graph.pruned.spec, torch.Generator().manual_seed(2)
    layout = random_layout(spec, (5, 4), generator)
    image_embeds = torch.randn(layout.image_tokens, spec.decoder.hidden, generator=generator)
    rows = parts.embed(torch.tensor([layout.input_ids]))
    rows[0, list(layout.image_index)] = image_embeds
    feeds = prompt_feeds(layout) | {tensors.IMAGE_EMBEDS: comparison.rows(image_embeds)}
    comparison.piece(graph.name, graph.model, feeds, {"embeddings": rows})
    ids = torch.tensor([[1, 2, 3]])
    feeds = _new_tokens(comparison, spec.decoder.hidden) | {tensors.INPUT_IDS: ids.numpy()}
    comparison.piece(graph.name, graph.model, feeds, {"embeddings": parts.embed(ids)})
    positions = torch.arange(rows.shape[1])[None] * 2
    half = spec.decoder.head_dim // 2
    for layer in graph.pruned.layers:
        gathered, (_, cosine, sine) = graph.gathered(layer), _cuts(graph, layer)
        where = "gather.position_ids" if gathered else tensors.POSITION_IDS
        angles = dict(zip((cosine, sine), (part[..., :half] for part in parts.angles(positions)), strict=True))
        comparison.piece(graph.name, graph.model, {where: positions[None].numpy()}, angles)
        entering = {
            "gather.hidden" if gathered else "embeddings": comparison.rows(rows),
            _slots(graph, layer): np.array([7]),
        }
        comparison.piece(graph.name, graph.model, entering, {_filled(graph, layer): np.array([7 + rows.shape[1]])})


def _selection(comparison: Comparison, graph: Graph) -> None:
    """The gather: ties and NaN among the scores of two images; and new tokens, which all pass."""
    if not graph.pruned.prunes:
        return
    spec, generator = graph.pruned.spec, torch.Generator().manual_seed(3)
    layout = random_layout(spec, (3, 2, 4), generator)
    scores = torch.randint(0, 4, (1, layout.image_tokens), generator=generator).float()
    scores[0, :: max(2, spec.image_tokens // 5)] = _NAN
    hidden = torch.randn(1, layout.rows, spec.decoder.hidden, generator=generator)
    below = [layer for layer in graph.pruned.layers if not graph.gathered(layer)]
    entering = f"layers.{below[-1]}.hidden" if below else "embeddings"
    counts = kept_tokens(graph.pruned.pruning.keep_rule, spec.image_tokens), max(1, spec.image_tokens - 1)
    feeds = prompt_feeds(layout) | {
        entering: comparison.rows(hidden),
        tensors.TOKEN_SCORES: scores[0].numpy(),
        tensors.KEEP_COUNTS: np.array(counts),
    }
    halves = scores[0].split(spec.image_tokens)
    of = torch.zeros(1, spec.image_tokens, dtype=torch.int64)
    keep = [keep_indices(half[None], of, count)[0] for half, count in zip(halves, counts, strict=True)]
    keep[1] = keep[1] + spec.image_tokens
    index = torch.tensor(layout.image_index)
    rows = sorted({*range(layout.rows)} - {*layout.image_index} | {*index[torch.cat(keep)].tolist()})
    wanted = {
        "gather.hidden": hidden[:, rows],
        "gather.position_ids": np.array(layout.position_ids)[:, None][..., rows],
        tensors.KEEP_INDICES: torch.cat(keep),
    }
    comparison.piece(graph.name, graph.model, feeds, wanted)
    new = _new_tokens(comparison, spec.decoder.hidden) | {
        entering: comparison.rows(hidden[:, :3]),
        tensors.POSITION_IDS: np.array([[[4, 5, 6]]]),
    }
    wanted = {"gather.hidden": hidden[:, :3], "gather.position_ids": np.array([[[4, 5, 6]]])}
    comparison.piece(graph.name, graph.model, new, wanted)


def _layer(comparison: Comparison, graph: Graph, layer: int, run: _Pass) -> None:
    """Some rows through one layer, those before them in its cache."""
    begin, end, sample, after = run.rows.start, run.rows.stop, run.sample, run.after
    feeds = dict(zip(_cuts(graph, layer), map(comparison.rows, sample.rows(begin, end)), strict=True))
    # Only the clock that counts for this layer: a graph that reads the other one cannot be cut here.
    feeds |= {_slots(graph, layer): np.array([begin]), _filled(graph, layer): np.array([end])}
    outputs = (
        f"layers.{layer}.hidden",
        *(name.format(layer=layer) for name in (tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT)),
    )
    wanted, past = {outputs[0]: after.hidden[:, begin:end]}, {}
    for name, output, part in zip((tensors.CACHE_KEY, tensors.CACHE_VALUE), outputs[1:], after[1:], strict=True):
        slots = torch.full((1, part.shape[1], PROMPT + NEW + FREE, part.shape[3]), _JUNK)
        slots[:, :, :begin] = part[:, :, :begin]
        past[name.format(layer=layer)] = comparison.rows(slots)
        wanted[output] = torch.cat([part[:, :, :end], slots[:, :, end:]], dim=2)
    if graph.pruned.optional(layer):
        empty = {name: value[:, :, :0] for name, value in past.items()}
        skipped = dict(zip(outputs, (sample.hidden[:, begin:end], *empty.values()), strict=True))
        comparison.piece(graph.name, graph.model, feeds | empty | _mask(graph, layer, kept=False), skipped)
        feeds |= _mask(graph, layer, kept=True)
    comparison.piece(graph.name, graph.model, feeds | past, wanted)


def _slots(graph: Graph, layer: int) -> str:
    return tensors.KEPT_SLOTS if graph.gathered(layer) else tensors.SLOTS


def _filled(graph: Graph, layer: int) -> str:
    return "beyond.filled" if graph.gathered(layer) else "below.filled"


def _cuts(graph: Graph, layer: int) -> tuple[str, str, str]:
    """Returns the values that enter a layer: rows, cosine, sine; read off its own nodes."""
    prefix = f"layers.{layer}."
    norm, rotary = (
        _first(graph, lambda node, op=op: node.op_type == op and node.name.startswith(prefix), f"{prefix}* ({op})")
        for op in ("RMSNormalization", "RotaryEmbedding")
    )
    return norm.input[0], rotary.input[1], rotary.input[2]


def _first(graph: Graph, fits: Callable[[onnx.NodeProto], bool], wanted: str) -> onnx.NodeProto:
    found = next(filter(fits, all_nodes(graph.model.graph.node)), None)
    if found is None:
        raise GraphInvalid("a node is missing", where=graph.name, wanted=wanted)
    return found


def _mask(graph: Graph, layer: int, *, kept: bool) -> dict[str, np.ndarray]:
    """Returns a layer mask in which this layer alone is otherwise than all others."""
    mask = np.full(graph.pruned.spec.decoder.layers, not kept)
    mask[layer] = kept
    return {tensors.LAYER_MASK: mask}
