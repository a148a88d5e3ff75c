"""The limits of a build: what flags give, and for the rest what fits the model."""

from __future__ import annotations

from allrounder.calib.trial import TRIAL
from allrounder.chat.messages import question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.commands.pipeline.request import LimitFlags
from allrounder.errors import InputInvalid
from allrounder.export.freezer import default_limits
from allrounder.images.plan import ImagePlan
from allrounder.images.planning import plan_images
from allrounder.manifest import Limits
from allrounder.vlm.model import ModelText
from allrounder.vlm.spec import ModelSpec

__all__ = ["build_limits", "check_takes_questions"]


def build_limits(flags: LimitFlags, spec: ModelSpec, plan: ImagePlan, known: Limits | None) -> Limits:
    """Returns the limits of a bundle.

    Args:
        flags: What was given.
        spec: The model.
        plan: Its image plan.
        known: Of the bundle that is built into, if it is of this model: what no flag gives stays as it is there.

    Raises:
        InputInvalid: The model's longest sequence does not hold what the flags give.
    """
    defaults = default_limits(spec, plan)
    longest, rest = spec.decoder.max_positions, spec.decoder.max_positions - plan.tokens
    images, text, new, batch = flags if known is None else _filled(flags, known)
    images = defaults.images if images is None else images
    batch = defaults.batch if batch is None else batch
    if new is None:
        new = defaults.new_tokens if text is None else max(1, min(defaults.new_tokens, rest - text))
    if text is None:
        text = max(1, min(2048, rest - new))
    image_tokens = images * plan.tokens
    if text + new > rest or image_tokens >= longest:
        raise InputInvalid(
            "the limits exceed the model's longest sequence",
            where=", ".join(flags.given) or "the model",
            got=f"{text} text + {plan.tokens} image + {new} new tokens, {image_tokens} image tokens in all",
            wanted=f"text, one image and new tokens up to {longest}, and image tokens below {longest}",
            remedy="give lower ones",
        )
    image_tokens = min(images * plan.most_tokens, longest - 1)
    return Limits(images=images, image_tokens=image_tokens, text_tokens=text, new_tokens=new, batch=batch)


def check_takes_questions(limits: Limits, text: ModelText) -> None:
    """Checks that the shortest question fits, with template and marks of its image: every build asks it.

    Raises:
        InputInvalid: It does not.
    """
    encoder, tile = ChatEncoder(text.tokenizer_json, text.chat), (text.images.size, text.images.size)
    (image,) = plan_images(text.images, [tile])
    marks = len(encoder.image_ids(image.content)) - image.tokens
    needed = len(encoder.ids(question(TRIAL))) - 1 + marks
    if limits.text_tokens < needed:
        raise InputInvalid(
            "no question fits into so few text tokens",
            where="--max-text-tokens",
            got=limits.text_tokens,
            wanted=f"{needed} or more: the model's template and its marks of an image count",
        )


def _filled(flags: LimitFlags, known: Limits) -> LimitFlags:
    found = (known.images, known.text_tokens, known.new_tokens, known.batch)
    return LimitFlags(*(there if flag is None else flag for flag, there in zip(flags, found, strict=True)))
