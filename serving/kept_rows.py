"""The kept image tokens of a pruned checkpoint: what a serving stack feeds its decoder in place of N image tokens.

The image half of a version with K = 0 is opened from a checkpoint's directory: images and messages in, T rows, their
keep indices and the prompt's layout out. In the model a kept row has the position that it had among all N; a stack that
takes no positions counts the rows it is given, which is another, nearby computation (docs/backends.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allrounder.chat.messages import Messages, question
from allrounder.engines.checkpoint.sidecar import IMAGE_FOLDER, Sidecar, open_sidecar
from allrounder.engines.options import EngineOptions
from allrounder.engines.process import own
from allrounder.engines.sessions import Session, backend
from allrounder.errors import BundleCorrupt, InputInvalid, PromptTooLong
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.images.pixels import PreparedImages, prepare_images
from allrounder.images.planning import PlannedImage, plan_images
from allrounder.layout import PromptLayout, keep_counts
from allrounder.runtime.cache import keep_indices
from allrounder.runtime.engine import layout_feeds, vision_feeds
from allrounder.runtime.image import to_rgb
from allrounder.runtime.prompt import Prompter
from allrounder.tensors import IMAGE_EMBEDS, IMAGE_OF, TOKEN_SCORES

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["KeptRows", "RowReader", "open_prompter"]

_BACKEND = "onnxruntime"


class KeptRows(NamedTuple):
    """What a decoder is given for the images of one prompt."""

    rows: np.ndarray  # [T, H], in the precision of the graphs; a prompt's images one after another
    keep: tuple[int, ...]  # [T], ascending, into the N image tokens
    layout: PromptLayout  # of the unpruned prompt

    @property
    def kept(self) -> np.ndarray:
        """The rows of the unpruned prompt that stay, int64 [R - N + T], ascending."""
        dropped = np.delete(np.array(self.layout.image_index, np.int64), self.keep)
        return np.delete(np.arange(self.layout.rows), dropped)

    @property
    def positions(self) -> np.ndarray:
        """Their positions in the unpruned prompt, int64 [A, R - N + T]; the layout has that of the first new token."""
        return np.array(self.layout.position_ids, np.int64)[:, self.kept]


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

        def session(graph: str) -> Session:
            return own(lambda: backend(_BACKEND).open_session(root / graph, options), root / graph)

        self._vision = session(graphs.vision)
        self._router = None if graphs.router is None else session(graphs.router)

    def read(self, image: ImageLike, text: str) -> KeptRows:
        """Returns the kept rows of an image for a question: `prepare`, `layout`, then `rows`.

        Args:
            image: A path, a PIL image, or uint8 RGB [height, width, 3].
            text: The question.
        """
        images = self.prepare([image])
        return self.rows(images, self.layout(question(text), images.planned))

    def prepare(self, images: Sequence[ImageLike]) -> PreparedImages:
        """Returns a prompt's images as the vision graph takes them.

        Raises:
            ImageInvalid: An image cannot be used.
        """
        return prepare_images(self.sidecar.model.images, [to_rgb(image) for image in images])

    def layout(self, messages: Messages, images: Sequence[PlannedImage] | None = None) -> PromptLayout:
        """Returns the layout of a conversation's prompt.

        Args:
            messages: The conversation; its images are not looked at.
            images: What they become; default: what images of one tile's size become.

        Raises:
            InputInvalid: They are no messages, the model's template refuses them, or there are other images.
            PromptTooLong: More images or text tokens than the checkpoint's limits.
        """
        ids, model, limits = self._prompter.ids(messages), self.sidecar.model, self.sidecar.limits
        if images is None:
            tile = (model.images.size, model.images.size)
            images = plan_images(model.images, [tile] * ids.count(model.image_token_id))
        layout = self._prompter.layout(ids, images)
        for what, got, most in (
            ("images", len(layout.tokens_by_image), limits.images),
            ("text tokens, the template's included", layout.text_tokens, limits.text_tokens),
        ):
            if got > most:
                raise PromptTooLong(
                    "the prompt is too long",
                    where="messages",
                    got=f"{got} {what}",
                    wanted=f"up to {most}",
                    remedy="send less",
                )
        return layout

    def rows(self, images: PreparedImages, layout: PromptLayout) -> KeptRows:
        """Returns the kept rows of images in a prompt, which somebody else may have tokenised.

        Raises:
            InputInvalid: The prompt has places for other images.
            BackendError: ONNX Runtime failed.
        """
        if (tokens := tuple(each.tokens for each in images.planned)) != layout.tokens_by_image:
            got, wanted = f"image tokens {list(tokens)}", f"{list(layout.tokens_by_image)}, as in the prompt"
            raise InputInvalid("images and prompt do not go together", where="images", got=got, wanted=wanted)
        if not tokens:
            return KeptRows(np.zeros((0, self.sidecar.model.hidden), np.float32), (), layout)
        image_embeds = self._vision.run(vision_feeds(self.sidecar.model.images, images))[IMAGE_EMBEDS]
        if self._router is None:
            return KeptRows(image_embeds.numpy().copy(), tuple(range(layout.image_tokens)), layout)
        feeds = {**layout_feeds(layout), IMAGE_EMBEDS: image_embeds}
        outputs = self._router.run({name: feeds[name] for name in self._router.inputs})
        counts = np.array(keep_counts(layout, self.sidecar.entry.pruning.keep_rule))
        keep = keep_indices(outputs[TOKEN_SCORES].numpy(), feeds[IMAGE_OF], counts)
        return KeptRows(image_embeds.numpy()[keep], tuple(keep.tolist()), layout)

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens."""
        return self._prompter.decode(ids)


def open_prompter(root: Path, sidecar: Sidecar) -> Prompter:
    """Returns a checkpoint's prompter.

    Raises:
        BundleCorrupt: Its tokenizer cannot be read.
    """
    path = root / IMAGE_FOLDER / TOKENIZER
    try:
        return Prompter(path.read_text(encoding="utf-8"), sidecar.chat)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt("the tokenizer cannot be read", where=path, got=error) from error
