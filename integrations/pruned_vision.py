"""From a picture and a question to the T visual rows that a pruned checkpoint's decoder is fed with.

What it is: `PrunedVision`, which runs the graphs below `visual/` of a pruned checkpoint and applies the keep rule.
What it knows: the sidecar, the runtime's sessions. What it does not know: who serves the decoder, and how.

No torch: serving stacks differ in theirs. One object may be used by any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allrounder.errors import BackendError, BundleCorrupt
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.progress import Progress, silent
from allrounder.runtime.backend import Session, backend
from allrounder.runtime.image import to_rgb
from allrounder.runtime.options import EngineOptions
from allrounder.runtime.prompt import Prompter, PromptIds
from allrounder.sidecar import VISUAL_FOLDER, Sidecar, open_sidecar
from allrounder.tensors import IMAGE, PIXEL_VALUES, PREFIX_IDS, SUFFIX_IDS, SUFFIX_LENGTHS, TOKEN_SCORES, VISUAL

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["PrunedRows", "PrunedVision", "keep_list"]


class PrunedRows(NamedTuple):
    """What is kept of one picture: ``rows`` [T, H], and which of the N they were, ascending."""

    rows: np.ndarray
    keep_list: tuple[int, ...]


class PrunedVision:
    """The visual half of a pruned checkpoint; made by `PrunedVision.open`."""

    def __init__(self, root: Path, sidecar: Sidecar, options: EngineOptions) -> None:
        self.root, self.sidecar = root, sidecar
        self.tokens, self.hidden = sidecar.entry.tokens, sidecar.model.hidden
        graphs, open_session = sidecar.graphs, backend("onnxruntime").open_session
        self._preprocess = open_session(root / graphs.preprocess, options)
        self._vision = open_session(root / graphs.vision, options)
        self._router: Session | None = open_session(root / graphs.router, options) if graphs.router else None
        self._prompter = _prompter(root / VISUAL_FOLDER, sidecar)

    @classmethod
    def open(
        cls, checkpoint: Path | str, options: EngineOptions | None = None, progress: Progress = silent
    ) -> PrunedVision:
        """Opens the visual half of a pruned checkpoint, verified; its weights are not read.

        Raises:
            BundleError: There is no pruned checkpoint, or its files are damaged.
            EngineUnavailable, BackendError: ONNX Runtime or the device is not there, or refuses a graph.
        """
        root, sidecar = open_sidecar(checkpoint, VISUAL_FOLDER, progress)
        return cls(root, sidecar, options or EngineOptions())

    def prompt(self, question: str) -> PromptIds:
        """Returns the ids on both sides of the picture, as a bundle has them: questions hold no special token."""
        return self._prompter.ids(question)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids without special tokens."""
        return self._prompter.decode(ids)

    def text(self, question: str) -> str:
        """Returns the whole prompt as text, ``<image>`` where the picture stands."""
        prompt = self.sidecar.prompt
        return f"{prompt.before_image}<image>{prompt.after_image}{question}{prompt.after_question}"

    def rows(self, picture: ImageLike, question: str) -> PrunedRows:
        """Returns the kept rows of a picture for a question.

        Raises:
            ImageInvalid: Not a picture.
            InputInvalid: Not a question.
            BackendError: ONNX Runtime failed.
        """
        return self.rows_between(picture, self.prompt(question))

    def rows_between(self, picture: ImageLike, prompt: PromptIds) -> PrunedRows:
        """Returns the kept rows of a picture between the ids of a prompt that somebody else tokenised."""
        pixels = self._preprocess.run({IMAGE: to_rgb(picture)})[PIXEL_VALUES]
        visual = self._vision.run({PIXEL_VALUES: pixels})[VISUAL]
        rows = visual.numpy()[0]
        if self._router is None:
            return PrunedRows(rows.copy(), tuple(range(len(rows))))
        feeds = {
            VISUAL: visual,
            PREFIX_IDS: np.asarray([prompt.prefix_ids], np.int64),
            SUFFIX_IDS: np.asarray([prompt.suffix_ids], np.int64),
            SUFFIX_LENGTHS: np.asarray([len(prompt.suffix_ids)], np.int64),
        }
        scores = self._router.run({name: feeds[name] for name in self._router.inputs})[TOKEN_SCORES].numpy()[0]
        if scores.shape != rows.shape[:1]:
            raise BackendError("the router scores another number of rows", got=scores.shape, wanted=rows.shape[:1])
        keep = keep_list(scores, self.tokens)
        return PrunedRows(rows[list(keep)], keep)


def keep_list(scores: np.ndarray, tokens: int) -> tuple[int, ...]:
    """Returns the ``tokens`` best of ``scores`` [N], ascending; ties go to the lower index, NaN counts as -inf."""
    ordered = np.where(np.isnan(scores), -np.inf, scores)
    best = np.argsort(-ordered, kind="stable")[:tokens]
    return tuple(sorted(best.tolist()))


def _prompter(folder: Path, sidecar: Sidecar) -> Prompter:
    try:
        prompter = Prompter((folder / TOKENIZER).read_text(encoding="utf-8"), sidecar.prompt)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt("the tokenizer cannot be read", where=folder / TOKENIZER, got=error) from error
    prompter.check(folder / GOLDEN)
    return prompter
