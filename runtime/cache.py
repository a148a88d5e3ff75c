"""The KV pool: caches of one or more sequences, grown in place by the decoder graph.

Each sequence has a slot of the pool and clocks of its own, so that sequences of any length decode together. They come
and go between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allrounder.engines.sessions import Bound, Cell, Session, Slots, Tensor
from allrounder.errors import BackendError, InputInvalid
from allrounder.pruning import PruningConfig
from allrounder.tensors import (
    CACHE_KEY,
    CACHE_VALUE,
    IMAGE_EMBEDS,
    IMAGE_INDEX,
    IMAGE_OF,
    INPUT_IDS,
    KEEP_COUNTS,
    KEEP_INDICES,
    KEPT_SLOTS,
    LAYER_MASK,
    LOGITS,
    LOGITS_TO_KEEP,
    POSITION_IDS,
    SLOTS,
    TOKEN_SCORES,
)

__all__ = ["Clocks", "Pool", "keep_indices", "layer_mask", "pieces"]

_NO_IMAGES: dict[str, np.ndarray] = {
    IMAGE_INDEX: np.zeros(0, np.int64),
    IMAGE_OF: np.zeros(0, np.int64),
    KEEP_COUNTS: np.zeros(0, np.int64),
    TOKEN_SCORES: np.zeros(0, np.float32),
}
_FIRST_SLOTS: dict[str, np.ndarray] = {SLOTS: np.zeros(1, np.int64), KEPT_SLOTS: np.zeros(1, np.int64)}


class Rows(NamedTuple):
    """How many rows the caches of a sequence have, prompt and new tokens: below K, and from K on."""

    below: int
    beyond: int


class Clocks(NamedTuple):
    """Where a sequence's next token goes: its position counts the unpruned prompt, its slots the rows that are held."""

    position: int
    slot: int
    kept_slot: int  # in layers from K on
    free_slots: int

    @property
    def rows(self) -> Rows:
        """The rows that the sequence wants, which stay the same while it grows."""
        return Rows(self.slot + self.free_slots, self.kept_slot + self.free_slots)

    def advanced(self, count: int) -> Clocks:
        """Returns the clocks after ``count`` more tokens."""
        return Clocks(self.position + count, self.slot + count, self.kept_slot + count, self.free_slots - count)


def layer_mask(layer_scores: np.ndarray, layers: int, prune_layer: int) -> np.ndarray:
    """Returns bool [M], True where a layer is kept: layers 0 to K-1, and the L-K best of the others.

    Ties go to the lower index; NaN counts as -inf.

    Args:
        layer_scores: float32 [M].
        layers: L.
        prune_layer: K.
    """
    clean = np.where(np.isnan(layer_scores), -np.inf, layer_scores)
    order = np.argsort(-clean[prune_layer:], kind="stable")[: layers - prune_layer] + prune_layer
    mask = np.arange(len(layer_scores)) < prune_layer
    mask[order] = True
    return mask


def keep_indices(scores: np.ndarray, image_of: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns which image tokens stay, ascending, by the rule of `allrounder.gather`; all where there are no scores.

    Args:
        scores: float32 [N], or [0].
        image_of: int64 [N].
        counts: int64 [I]: how many stay of each image.
    """
    if not len(scores):
        return np.arange(len(image_of))
    order = np.lexsort((-np.where(np.isnan(scores), -np.inf, scores), image_of))  # stable
    tokens = np.bincount(image_of, minlength=len(counts))
    ranks = np.arange(len(order)) - (np.cumsum(tokens) - tokens)[image_of[order]]
    return np.sort(order[ranks < counts[image_of[order]]])


def pieces(feeds: Mapping[str, np.ndarray | Tensor], most_rows: int) -> list[dict[str, np.ndarray | Tensor]]:
    """Returns the feeds of a prompt in pieces of at most ``most_rows`` rows, slots included.

    Which image tokens stay is known of the whole prompt; the gather then keeps the same ones of a piece, as they are
    its best. Where none of its rows stays, one does in its place and is written over by the next piece.
    """
    ids, positions, embeds = (_array(feeds[name]) for name in (INPUT_IDS, POSITION_IDS, IMAGE_EMBEDS))
    index, image_of, scores = (_array(feeds[name]) for name in (IMAGE_INDEX, IMAGE_OF, TOKEN_SCORES))
    counts = _array(feeds[KEEP_COUNTS])
    kept, images, rows = np.zeros(len(index), bool), len(counts), ids.shape[1]
    kept[keep_indices(scores, image_of, counts)] = True
    number = -(-rows // most_rows)
    found, kept_slot = [], 0
    cuts = [rows * place // number for place in range(number + 1)]
    for first, last in itertools.pairwise(cuts):
        tokens = slice(*np.searchsorted(index, (first, last)))
        counts = np.bincount(image_of[tokens][kept[tokens]], minlength=images)
        stay = int(last - first - len(index[tokens]) + counts.sum())
        if not stay:
            counts[image_of[tokens][0]] = 1
        found.append(
            {
                INPUT_IDS: ids[:, first:last],
                POSITION_IDS: positions[:, :, first:last],
                IMAGE_EMBEDS: embeds[tokens],
                IMAGE_INDEX: index[tokens] - first,
                IMAGE_OF: image_of[tokens],
                TOKEN_SCORES: scores[tokens],
                KEEP_COUNTS: counts,
                LOGITS_TO_KEEP: feeds[LOGITS_TO_KEEP],
                SLOTS: np.array([first]),
                KEPT_SLOTS: np.array([kept_slot]),
            }
        )
        kept_slot += stay
    return found


class _Step(NamedTuple):
    """The decoder tied to memory, for a fixed number of new tokens per sequence."""

    cells: dict[str, Cell]
    logits: Cell
    bound: Bound


class Pool:
    """A KV pool, whose first slots are those in use; used by one thread at a time.

    It is as long as the longest of the sequences in it wants, and holds nothing while there are none.

    Args:
        decoder: The decoder graph.
        pruning: What it was built for.
        sequences: How many it takes at once.
        vocabulary: V.
        layer_mask: bool [M] of a dynamic entry: the layers that are run; the others hold nothing.

    Raises:
        EngineUnavailable: This backend holds one sequence alone where it runs.
    """

    def __init__(
        self,
        decoder: Session,
        pruning: PruningConfig,
        sequences: int,
        vocabulary: int,
        layer_mask: np.ndarray | None = None,
    ) -> None:
        self._decoder, self._sequences, self._vocabulary = decoder, sequences, vocabulary
        self._places: dict[str, int | None] = {}  # of each cache: which of `Rows` it has, if any
        for name in decoder.inputs:
            kind, _, layer = name.partition(".")
            if layer and kind in (CACHE_KEY.partition(".")[0], CACHE_VALUE.partition(".")[0]):
                gathered = pruning.prunes and int(layer) >= pruning.prune_layer
                kept = layer_mask is None or bool(layer_mask[int(layer)])
                self._places[name] = int(gathered) if kept else None
        if sequences > 1:
            decoder.slots(next(iter(self._places)), sequences, 0)  # refuses them before a request comes
        self._mask = {} if layer_mask is None else {LAYER_MASK: decoder.cell(layer_mask).tensor}
        self._clocks: list[Clocks] = []
        self._empty()

    @property
    def numbers(self) -> int:
        """How many numbers the keys and values of the pool are, free slots included."""
        return sum(int(np.prod(slots.first(self._sequences).shape())) for slots in self._caches.values())

    def clocks(self, slot: int = 0) -> Clocks:
        """Returns the clocks of the sequence in a slot."""
        if not 0 <= slot < len(self._clocks):
            raise InputInvalid("the slot holds no sequence", got=slot, remedy="prefill it first")
        return self._clocks[slot]

    def prefill(
        self, feeds: Mapping[str, np.ndarray | Tensor], clocks: Clocks, most_rows: int | None = None
    ) -> dict[str, Tensor]:
        """Runs a prompt into the first free slot.

        Args:
            feeds: Everything but caches, slots and the layer mask.
            clocks: Of the sequence after it.
            most_rows: How many rows the decoder takes at once; a longer prompt goes in `pieces`. None: all.

        Returns:
            The decoder's outputs but its caches.

        Raises:
            InputInvalid: No slot is free.
            BackendError: The backend's library failed; the slot stays free.
        """
        slot = len(self._clocks)
        if slot == self._sequences:
            raise InputInvalid("the pool is full", got=slot + 1, wanted=f"up to {slot} sequences")
        self._fit([*self._clocks, clocks])
        if slot < self._written:
            for slots in self._caches.values():
                slots.clear(slot)
        self._written = max(self._written, slot + 1)
        fixed = self._mask | {name: slots.row(slot) for name, slots in self._caches.items()}
        caches = {name: tensor for name, tensor in fixed.items() if name in self._caches}
        outputs: dict[str, Tensor] = {}
        parts = [{**feeds, **_FIRST_SLOTS}]
        if most_rows is not None and clocks.slot > most_rows:
            parts = pieces(feeds, most_rows)
        for part in parts:
            given = {name: self._tensor(value) for name, value in part.items()}
            outputs = self._bind(given | fixed, {}, caches).run()
        if len(parts) > 1 and KEEP_INDICES in outputs:
            kept = (_array(feeds[name]) for name in (TOKEN_SCORES, IMAGE_OF, KEEP_COUNTS))
            outputs[KEEP_INDICES] = self._tensor(keep_indices(*kept))
        self._clocks.append(clocks)
        return outputs

    def advance(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Puts ``ids`` [B][S], as many for each, behind the sequences of the pool.

        Returns:
            Their ``logits`` [B, S, V] float32.

        Raises:
            InputInvalid: Another number of sequences, no token, or more of them than there are free slots.
            BackendError: The backend's library failed.
        """
        if not ids or len(ids) != len(self._clocks):
            raise InputInvalid("the pool holds another number of sequences", got=len(ids), wanted=len(self._clocks))
        new = np.asarray(ids, np.int64)
        count = new.shape[1]
        free = min(each.free_slots for each in self._clocks)
        if not 1 <= count <= free:
            raise InputInvalid("the cache has no such free slots", where="ids", got=count, wanted=f"1 to {free} tokens")
        step = self._step
        if step is None or step.cells[INPUT_IDS].get().shape != new.shape:
            step = self._step = self._tie(*new.shape)
        firsts = np.array([each.position for each in self._clocks])
        step.cells[INPUT_IDS].set(new)
        step.cells[POSITION_IDS].set((firsts[:, None] + np.arange(count))[None])
        step.cells[SLOTS].set(np.array([each.slot for each in self._clocks]))
        step.cells[KEPT_SLOTS].set(np.array([each.kept_slot for each in self._clocks]))
        step.bound.run()
        self._clocks = [each.advanced(count) for each in self._clocks]
        return step.logits.get()

    def remove(self, slot: int) -> None:
        """Takes a sequence out of the pool; the last one moves into its slot."""
        self.clocks(slot)  # which must be there
        last = self._clocks.pop()
        if slot < len(self._clocks):
            for slots in self._caches.values():
                slots.move(len(self._clocks), slot)
            self._clocks[slot] = last
        if not self._clocks:
            self._empty()

    def _empty(self) -> None:
        self._step: _Step | None = None  # the newest alone: another costs less than a millisecond to tie
        self._caches: dict[str, Slots] = {}
        self._held = Rows(0, 0)
        self._written = 0  # slots that were ever written in these blocks

    def _fit(self, clocks: Sequence[Clocks]) -> None:
        """Makes the caches as long as these sequences want, layer by layer; or shorter, where half would do."""
        wanted = Rows(*(max(each.rows[place] for each in clocks) for place in (0, 1)))
        if all(want <= held <= 2 * want for want, held in zip(wanted, self._held, strict=True)):
            return
        self._step = None  # it holds on to the blocks
        self._held, self._written = wanted, len(self._clocks)
        for name, place in self._places.items():
            rows = 0 if place is None else wanted[place]
            if name in self._caches:
                self._caches[name] = self._caches[name].resized(len(self._clocks), rows)
            else:
                self._caches[name] = self._decoder.slots(name, self._sequences, rows)

    def _tie(self, batch: int, count: int) -> _Step:
        shapes = {INPUT_IDS: (batch, count), POSITION_IDS: (1, batch, count), SLOTS: (batch,), KEPT_SLOTS: (batch,)}
        cells = {name: self._decoder.cell(np.zeros(shape, np.int64)) for name, shape in shapes.items()}
        logits = self._decoder.cell(np.zeros((batch, count, self._vocabulary), np.float32))
        fixed = {**_NO_IMAGES, LOGITS_TO_KEEP: np.array([count])}
        given = {name: self._tensor(value) for name, value in fixed.items()} | self._mask
        given[IMAGE_EMBEDS] = self._decoder.zeros(IMAGE_EMBEDS, (0, None))
        given |= {name: cell.tensor for name, cell in cells.items()}
        caches = {name: slots.first(batch) for name, slots in self._caches.items()}
        return _Step(cells, logits, self._bind(given | caches, {LOGITS: logits.tensor}, caches))

    def _bind(self, given: Mapping[str, Tensor], outputs: Mapping[str, Tensor], caches: Mapping[str, Tensor]) -> Bound:
        """Ties the decoder to memory; in place: each cache is output where it is input."""
        if unknown := [name for name in self._decoder.inputs if name not in given]:
            raise BackendError("the decoder graph wants what this runtime does not know", got=", ".join(unknown))
        inputs = {name: given[name] for name in self._decoder.inputs}
        grown = {name.replace(".", "_out."): tensor for name, tensor in caches.items()}
        return self._decoder.bind(inputs, {**outputs, **grown})

    def _tensor(self, value: np.ndarray | Tensor) -> Tensor:
        return self._decoder.cell(value).tensor if isinstance(value, np.ndarray) else value


def _array(value: np.ndarray | Tensor) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.numpy()
