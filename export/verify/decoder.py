"""Verifying prefill and decode graphs: piece by piece, and small models whole.

A stock layer run once over prompt and new rows is the reference of both graphs: being causal, its first rows are the
prompt's, and its keys and values fill the cache that decoding reads.
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
from allrounder.export.verify.reference import LayerRun, StockParts
from allrounder.progress import Progress
from allrounder.router.selection import keep_indices, kept_layer_mask
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.pruned import PrunedModel, PruningDecision

__all__ = ["Graph", "verify_decision", "verify_decoder"]

PROMPT, NEW, FREE = 12, 3, 2  # rows of the prompt and of new tokens in a piece, and cache slots left over
_NAN, _LOW = float("nan"), float("-inf")


class Graph(NamedTuple):
    """A prefill or decode graph and what it was frozen for."""

    name: str
    model: onnx.ModelProto
    pruned: PrunedSpec


class _Sample(NamedTuple):
    """What goes through one layer: prompt and new rows, and their positions."""

    positions: torch.Tensor  # int64 [1, PROMPT + NEW], with the gap that dropped tokens leave
    hidden: torch.Tensor  # [1, PROMPT + NEW, H]
    cosine: torch.Tensor  # [1, PROMPT + NEW, D / 2]
    sine: torch.Tensor


def verify_decoder(
    comparison: Comparison, prefills: list[Graph], decodes: list[Graph], parts: StockParts, progress: Progress
) -> None:
    """Compares all pieces of all graphs; layers are read from the checkpoint once, one after another."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, depth = parts.spec.decoder.vocabulary, parts.spec.decoder.layers
    ids = torch.randint(vocabulary, (1, PROMPT + NEW), generator=generator)
    for graph in prefills:
        _prompt_entry(comparison, graph, parts)
        _selection(comparison, graph)
    for graph in decodes:
        _decode_entry(comparison, graph, parts)
    positions = torch.arange(PROMPT + NEW)[None]
    positions[:, PROMPT // 2 :] += parts.spec.image_tokens
    cosine, sine = (part[..., : parts.spec.decoder.head_dim // 2] for part in parts.angles(positions))
    sample = _Sample(positions, parts.embed(ids), cosine, sine)
    for layer in range(depth):
        after = parts.decoder_layer(layer, sample.hidden, positions)
        for graph in prefills:
            if layer in graph.pruned.layers:
                _prompt_layer(comparison, graph, layer, sample, after)
        for graph in decodes:
            if layer in graph.pruned.layers:
                _decode_layer(comparison, graph, layer, sample, after)
        sample = sample._replace(hidden=after.hidden)
        progress("verifying decoder layers", layer + 1, depth)
    _heads(comparison, prefills, decodes, parts, sample.hidden)


def verify_decision(comparison: Comparison, prefill: Graph, decode: Graph, vlm: LoadedModel) -> None:
    """Compares a whole decision with the removing model: prompt, then new tokens two and one at a time."""
    pruned, batch = prefill.pruned, 1 if prefill.pruned.dynamic else 2
    generator = torch.Generator().manual_seed(1)
    vocabulary = pruned.spec.decoder.vocabulary
    prompt = PromptBatch(
        torch.randint(vocabulary, (1, 4), generator=generator).repeat(batch, 1),
        torch.randint(vocabulary, (batch, 6), generator=generator),
        torch.tensor([6, 3])[:batch],
    )
    image_embeds = torch.randn(batch, pruned.spec.image_tokens, pruned.spec.decoder.hidden, generator=generator)
    token_scores = torch.randn(batch, pruned.spec.image_tokens, generator=generator)
    layer_scores = torch.randn(batch, pruned.spec.decoder.layers, generator=generator)
    layers = pruned.pruning.kept_layers or kept_layer_mask(
        layer_scores, pruned.pruning.layers, pruned.pruning.prune_layer
    )
    decision = PruningDecision(keep_indices(token_scores, pruned.pruning.keep), layers, pruned.pruning.prune_layer)
    eager = PrunedModel(vlm)
    state = eager.prefill(image_embeds, prompt, decision)
    feeds = {
        tensors.PREFIX_IDS: prompt.prefix_ids.numpy(),
        tensors.IMAGE_EMBEDS: comparison.rows(image_embeds),
        tensors.SUFFIX_IDS: prompt.suffix_ids.numpy(),
        tensors.SUFFIX_LENGTHS: prompt.suffix_lengths.numpy(),
        tensors.FREE_SLOTS: np.array([3]),
        tensors.TOKEN_SCORES: token_scores.numpy(),
        tensors.LAYER_SCORES: layer_scores.numpy(),
    }
    found = comparison.whole(prefill.model, feeds)
    wanted = {tensors.LOGITS: state.logits}
    wanted |= {tensors.KEEP: decision.keep} if pruned.prunes else {}
    comparison.outputs(prefill.name, found, wanted)
    before = 4 + prompt.suffix_lengths.numpy()
    for done, count in ((0, 2), (2, 1)):
        ids = torch.randint(vocabulary, (batch, count), generator=generator)
        clocks = {
            tensors.INPUT_IDS: ids.numpy(),
            tensors.POSITIONS: before + pruned.spec.image_tokens + done,
            tensors.SLOTS: before + pruned.pruning.keep + done,
        }
        step = comparison.whole(decode.model, found | clocks)
        comparison.outputs(decode.name, step, {tensors.LOGITS: eager.decode(state, ids)})
        found |= {name.replace("_out.", "."): value for name, value in step.items()}


def _prompt_entry(comparison: Comparison, graph: Graph, parts: StockParts) -> None:
    """Embedding rows and positions of a prompt, and the angles below and beyond the gather."""
    spec, generator = graph.pruned.spec, torch.Generator().manual_seed(2)
    ids = torch.randint(spec.decoder.vocabulary, (2, 1, 5), generator=generator)
    image_embeds = torch.randn(1, spec.image_tokens, spec.decoder.hidden, generator=generator)
    feeds = {
        tensors.PREFIX_IDS: ids[0].numpy(),
        tensors.IMAGE_EMBEDS: comparison.rows(image_embeds),
        tensors.SUFFIX_IDS: ids[1].numpy(),
    }
    rows = torch.cat([parts.embed(ids[0]), image_embeds, parts.embed(ids[1])], dim=1)
    positions = torch.arange(rows.shape[1])[None]
    comparison.piece(graph.name, graph.model, feeds, {"embeddings": rows, "positions": positions})
    for layer in graph.pruned.layers:
        gathered = graph.pruned.prunes and layer >= graph.pruned.pruning.prune_layer
        _angles(comparison, graph, layer, {"gather.positions" if gathered else "positions": positions}, parts)


def _angles(
    comparison: Comparison, graph: Graph, layer: int, positions: dict[str, torch.Tensor], parts: StockParts
) -> None:
    _, cosine, sine = _cuts(graph, layer)
    half = parts.spec.decoder.head_dim // 2
    (where,) = positions.values()
    wanted = dict(zip((cosine, sine), (part[..., :half] for part in parts.angles(where)), strict=True))
    comparison.piece(graph.name, graph.model, {name: value.numpy() for name, value in positions.items()}, wanted)


def _selection(comparison: Comparison, graph: Graph) -> None:
    """The gather and the layer mask, with ties and NaN among the scores."""
    pruned, generator = graph.pruned, torch.Generator().manual_seed(3)
    spec = pruned.spec
    if pruned.prunes:
        scores = torch.randint(0, 4, (1, spec.image_tokens), generator=generator).float()
        scores[0, :: max(2, spec.image_tokens // 5)] = _NAN
        hidden = torch.randn(1, 3 + spec.image_tokens + 2, spec.decoder.hidden, generator=generator)
        positions = torch.arange(hidden.shape[1])[None] * 2
        split = _first(graph, lambda node: "gather.image_embeds" in node.output, "a Split into gather.image_embeds")
        feeds = {
            split.input[0]: comparison.rows(hidden),
            "positions": positions.numpy(),
            tensors.TOKEN_SCORES: scores.numpy(),
            tensors.PREFIX_IDS: np.zeros((1, 3), np.int64),
            tensors.SUFFIX_IDS: np.zeros((1, 2), np.int64),
        }
        keep = keep_indices(scores, pruned.pruning.keep)
        kept = [0, 1, 2, *(3 + keep[0]).tolist(), hidden.shape[1] - 2, hidden.shape[1] - 1]
        wanted = {"gather.hidden": hidden[:, kept], "gather.positions": positions[:, kept], tensors.KEEP: keep}
        comparison.piece(graph.name, graph.model, feeds, wanted)
    if pruned.dynamic:
        scores = torch.randint(0, 3, (1, spec.decoder.layers), generator=generator).float()
        scores[0, ::4], scores[0, 1::5] = _NAN, _LOW
        mask = kept_layer_mask(scores, pruned.pruning.layers, pruned.pruning.prune_layer)[0]
        feeds = {tensors.LAYER_SCORES: scores.numpy()}
        comparison.piece(graph.name, graph.model, feeds, {tensors.LAYER_MASK: mask})


def _decode_entry(comparison: Comparison, graph: Graph, parts: StockParts) -> None:
    """Embedding rows of new tokens, and the angles at their positions."""
    ids = torch.tensor([[1, 2, 3]])
    comparison.piece(graph.name, graph.model, {tensors.INPUT_IDS: ids.numpy()}, {"embeddings": parts.embed(ids)})
    first = graph.pruned.spec.image_tokens + 7
    _, cosine, sine = _cuts(graph, graph.pruned.layers[0])
    feeds = {tensors.INPUT_IDS: ids.numpy(), tensors.POSITIONS: np.array([first])}
    half = parts.spec.decoder.head_dim // 2
    angles = (part[..., :half] for part in parts.angles(first + torch.arange(3)[None]))
    comparison.piece(graph.name, graph.model, feeds, dict(zip((cosine, sine), angles, strict=True)))


def _prompt_layer(comparison: Comparison, graph: Graph, layer: int, sample: _Sample, after: LayerRun) -> None:
    hidden, cosine, sine = _cuts(graph, layer)
    feeds = {
        hidden: comparison.rows(sample.hidden[:, :PROMPT]),
        cosine: comparison.rows(sample.cosine[:, :PROMPT]),
        sine: comparison.rows(sample.sine[:, :PROMPT]),
        tensors.FREE_SLOTS: np.array([FREE]),
    }
    outputs = _outputs(layer, tensors.CACHE_KEY, tensors.CACHE_VALUE)
    free = torch.zeros(1, after.keys.shape[1], FREE, after.keys.shape[3])
    filled = [torch.cat([part[:, :, :PROMPT], free], dim=2) for part in (after.keys, after.values)]
    wanted = dict(zip(outputs, (after.hidden[:, :PROMPT], *filled), strict=True))
    if graph.pruned.optional(layer):
        empty = free[:, :, :0]
        skipped = dict(zip(outputs, (sample.hidden[:, :PROMPT], empty, empty), strict=True))
        comparison.piece(graph.name, graph.model, feeds | _mask(graph, layer, kept=False), skipped)
        feeds |= _mask(graph, layer, kept=True)
    comparison.piece(graph.name, graph.model, feeds, wanted)


def _decode_layer(comparison: Comparison, graph: Graph, layer: int, sample: _Sample, after: LayerRun) -> None:
    hidden, cosine, sine = _cuts(graph, layer)
    pruned = graph.pruned
    # Only the clock that counts for this layer: a graph that reads the other one cannot be cut here.
    clock = tensors.SLOTS if pruned.prunes and layer >= pruned.pruning.prune_layer else tensors.POSITIONS
    feeds = {
        hidden: comparison.rows(sample.hidden[:, PROMPT:]),
        cosine: comparison.rows(sample.cosine[:, PROMPT:]),
        sine: comparison.rows(sample.sine[:, PROMPT:]),
        tensors.INPUT_IDS: np.zeros((1, NEW), np.int64),
        clock: np.array([PROMPT]),
    }
    outputs = _outputs(layer, tensors.CACHE_KEY_OUT, tensors.CACHE_VALUE_OUT)
    wanted = {outputs[0]: after.hidden[:, PROMPT:]}
    past = {}
    for name, output, part in zip((tensors.CACHE_KEY, tensors.CACHE_VALUE), outputs[1:], after[1:], strict=True):
        # What is in the free slots must not matter, so it is large.
        slots = torch.full((1, part.shape[1], PROMPT + NEW + FREE, part.shape[3]), 100.0)
        slots[:, :, :PROMPT] = part[:, :, :PROMPT]
        past[name.format(layer=layer)] = comparison.rows(slots)
        wanted[output] = torch.cat([part, slots[:, :, PROMPT + NEW :]], dim=2)
    if pruned.optional(layer):
        empty = {name: value[:, :, :0] for name, value in past.items()}
        skipped = dict(zip(outputs, (sample.hidden[:, PROMPT:], *empty.values()), strict=True))
        comparison.piece(graph.name, graph.model, feeds | empty | _mask(graph, layer, kept=False), skipped)
        feeds |= _mask(graph, layer, kept=True)
    comparison.piece(graph.name, graph.model, feeds | past, wanted)


def _heads(
    comparison: Comparison, prefills: list[Graph], decodes: list[Graph], parts: StockParts, hidden: torch.Tensor
) -> None:
    """The last valid row's logits of a prompt, and every row's of new tokens."""
    logits = parts.logits(hidden[0])
    rows = comparison.rows(hidden)
    for graph in prefills:
        last = _first(graph, lambda node: node.name == "last.hidden", "a node last.hidden").input[0]
        feeds = {
            last: rows,
            tensors.SUFFIX_IDS: np.zeros((1, 5), np.int64),
            tensors.SUFFIX_LENGTHS: np.array([3]),
        }
        end = hidden.shape[1] - 5 + 3
        comparison.piece(graph.name, graph.model, feeds, {tensors.LOGITS: logits[end - 1 : end]})
    for graph in decodes:
        last = _first(graph, lambda node: node.name == "flat", "a node flat").input[0]
        feeds = {last: rows, tensors.INPUT_IDS: np.zeros((1, hidden.shape[1]), np.int64)}
        comparison.piece(graph.name, graph.model, feeds, {tensors.LOGITS: logits[None]})


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


def _outputs(layer: int, key: str, value: str) -> tuple[str, str, str]:
    return f"layers.{layer}.hidden", key.format(layer=layer), value.format(layer=layer)


def _mask(graph: Graph, layer: int, *, kept: bool) -> dict[str, np.ndarray]:
    """Returns a layer mask in which this layer alone is otherwise than all others."""
    mask = np.full(graph.pruned.spec.decoder.layers, not kept)
    mask[layer] = kept
    return {tensors.LAYER_MASK: mask}
