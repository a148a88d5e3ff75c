"""The kept image tokens of a pruned checkpoint: what a serving stack feeds its decoder in place of N image tokens.

The image half of a version with K = 0 is opened from a checkpoint's directory: image and question in, T rows, their
keep indices and the prompt's ids out. The prompt is ``[prefix ids | T rows | suffix ids]``. In the model a kept row has
the position that it had among all N; a stack that takes no positions counts the rows it is given, which is another,
nearby computation (docs/backends.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allrounder.engines.checkpoint.sidecar import IMAGE_FOLDER, Sidecar, open_sidecar
from allrounder.engines.options import EngineOptions
from allrounder.engines.process import own
from allrounder.engines.sessions import Session, backend
from allrounder.errors import BundleCorrupt, PromptTooLong
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.runtime.image import to_rgb
from allrounder.runtime.prompt import Prompter, PromptIds
from allrounder.tensors import (
    IMAGE,
    IMAGE_EMBEDS,
    PIXEL_VALUES,
    PREFIX_IDS,
    SUFFIX_IDS,
    SUFFIX_LENGTHS,
    TOKEN_SCORES,
)

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["KeptRows", "RowReader", "keep_indices", "open_prompter"]

_BACKEND = "onnxruntime"


class KeptRows(NamedTuple):
    """What a decoder is given for one image and one question."""

    rows: np.ndarray  # [T, H], in the precision of the graphs
    keep: tuple[int, ...]  # ascending, of 0 to N-1
    prompt: PromptIds
    image_tokens: int  # N

    @property
    def positions(self) -> np.ndarray:
        """Positions int64 [P + T + S] in the unpruned prompt; that of the first new token is the last one plus 1."""
        before, after = len(self.prompt.prefix_ids), len(self.prompt.suffix_ids)
        kept = before + np.asarray(self.keep, np.int64)
        return np.concatenate([np.arange(before), kept, before + self.image_tokens + np.arange(after)])


class RowReader:
    """The image half of a pruned checkpoint; any number of threads may read at once.

    Args:
        path: The checkpoint's directory.
        options: Of the ONNX Runtime sessions.

    Raises:
        BundleError: It is no pruned checkpoint, or what lies below `image/` is damaged.
        EngineUnavailable: ONNX Runtime, or the device, is not there.
    """

    def __init__(self, path: Path | str, options: EngineOptions | None = None) -> None:
        root, self.sidecar = open_sidecar(path, IMAGE_FOLDER)
        self._prompter = open_prompter(root, self.sidecar)
        self._prompter.check(root / IMAGE_FOLDER / GOLDEN)
        options, graphs = options or EngineOptions(), self.sidecar.graphs
        for_images = EngineOptions(threads=options.threads, weights=options.weights)  # on the CPU, as in `Engine`

        def session(graph: str) -> Session:
            chosen = for_images if graph == graphs.preprocess else options
            return own(lambda: backend(_BACKEND).open_session(root / graph, chosen), root / graph)

        self._preprocess, self._vision = session(graphs.preprocess), session(graphs.vision)
        self._router = None if graphs.router is None else session(graphs.router)

    def read(self, image: ImageLike, question: str) -> KeptRows:
        """Returns the kept rows of an image for a question.

        Args:
            image: A path, a PIL image, or uint8 RGB [height, width, 3].
            question: Plain text.

        Raises:
            ImageInvalid: The image cannot be used.
            InputInvalid: The question is no text, or empty.
            PromptTooLong: It has more tokens than the checkpoint's limit.
            BackendError: ONNX Runtime failed.
        """
        return self.between(image, self.prompt(question))

    def between(self, image: ImageLike, prompt: PromptIds) -> KeptRows:
        """Returns the kept rows of an image between the ids of a prompt that somebody else tokenised; see `read`."""
        pixel_values = self._preprocess.run({IMAGE: to_rgb(image)})[PIXEL_VALUES]
        image_embeds = self._vision.run({PIXEL_VALUES: pixel_values})[IMAGE_EMBEDS]
        tokens = self.sidecar.model.image_tokens
        if self._router is None:
            return KeptRows(image_embeds.numpy()[0].copy(), tuple(range(tokens)), prompt, tokens)
        feeds = {
            IMAGE_EMBEDS: image_embeds,
            PREFIX_IDS: np.asarray([prompt.prefix_ids], np.int64),
            SUFFIX_IDS: np.asarray([prompt.suffix_ids], np.int64),
            SUFFIX_LENGTHS: np.asarray([len(prompt.suffix_ids)], np.int64),
        }
        scores = self._router.run({name: feeds[name] for name in self._router.inputs})[TOKEN_SCORES].numpy()[0]
        keep = keep_indices(scores, self.sidecar.entry.pruning.keep)
        return KeptRows(image_embeds.numpy()[0][keep], tuple(keep.tolist()), prompt, tokens)

    def prompt(self, question: str) -> PromptIds:
        """Returns the token ids around the image; see `read` for what is refused."""
        prompt = self._prompter.ids(question)
        count, limit = len(prompt.prefix_ids) + len(prompt.suffix_ids), self.sidecar.limits.text_tokens
        if count > limit:
            raise PromptTooLong(
                "the prompt is too long",
                where="question",
                got=f"{count} text tokens, the template's included",
                wanted=f"up to {limit}",
                remedy="shorten the question",
            )
        return prompt

    def text(self, ids: tuple[int, ...]) -> str:
        """Returns the text of ``ids`` without special tokens."""
        return self._prompter.decode(ids)


def keep_indices(scores: np.ndarray, tokens: int) -> np.ndarray:
    """Returns the ``tokens`` best of ``scores`` [N], ascending, as the gather op does: ties to the lower index."""
    ordered = np.where(np.isnan(scores), -np.inf, scores)
    return np.sort(np.argsort(-ordered, kind="stable")[:tokens])


def open_prompter(root: Path, sidecar: Sidecar) -> Prompter:
    """Returns a checkpoint's prompter.

    Raises:
        BundleCorrupt: Its tokenizer cannot be read.
    """
    path = root / IMAGE_FOLDER / TOKENIZER
    try:
        return Prompter(path.read_text(encoding="utf-8"), sidecar.prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt("the tokenizer cannot be read", where=path, got=error) from error
