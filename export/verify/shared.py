"""Verifying what all versions share: preprocess, vision, router."""

from __future__ import annotations

from itertools import count
from math import isqrt
from typing import Any

import numpy as np
import onnx
import PIL
import torch
from PIL import Image

from allrounder import tensors
from allrounder.errors import VerificationFailed
from allrounder.export.verify.compare import Comparison
from allrounder.export.verify.prompts import prompt_feeds, random_layout
from allrounder.export.verify.reference import StockParts
from allrounder.progress import Progress
from allrounder.router.model import MetaRouter
from allrounder.vlm.prompt import prompt_batch

__all__ = ["verify_preprocess", "verify_router", "verify_vision"]

# Pillow and ONNX Runtime round differently on a few pixels, by one step of 255, rarely two. Bilinear weights are
# coarser, and more sums lie halfway.
PIXEL_SHARE = {2: 0.01, 3: 0.002}  # by Pillow's filter: BILINEAR, BICUBIC
PIXEL_STEPS = 2.0


def verify_preprocess(comparison: Comparison, model: onnx.ModelProto, processor: Any) -> None:
    """Compares images with those of the stock processor.

    Raises:
        VerificationFailed: More than `PIXEL_SHARE` of the pixels differ, or one by more than `PIXEL_STEPS`.
    """
    generator = np.random.default_rng(0)
    allowed = PIXEL_SHARE[int(processor.resample)]
    step = (np.array(processor.image_std) * 255).reshape(-1, 1, 1)  # pixel values to steps of 255
    size = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    for height, width in _images(processor, size):
        # Smooth and noisy at once: noise finds rounding, smooth parts find shifts.
        ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
        image = (ramp + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)
        stock = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
        found = comparison.whole(model, {tensors.IMAGE: image})[tensors.PIXEL_VALUES]
        steps = np.abs(found.astype(np.float64) - stock) * step
        share = float((steps > 0.5).mean())
        if not (share <= allowed and steps.max() <= PIXEL_STEPS + 0.01):
            raise VerificationFailed(
                "the preprocess graph makes other pixels than the stock processor",
                where=f"{tensors.PIXEL_VALUES} of an image of {width} x {height}, Pillow {PIL.__version__}",
                got=f"{share:.4%} differ, by up to {steps.max():.2f} of 255",
                wanted=f"at most {allowed:.1%}, by up to {PIXEL_STEPS:g}",
            )


def _images(processor: Any, size: int) -> tuple[tuple[int, int], ...]:
    """Returns heights and widths: small and large, wide, tall and square, one of the right width.

    Tall ones lie on both sides of where Pillow's orders part (`resizing`): 3 : 1 and 4 : 3, more and less than 100 : 1.
    Sides are prime, because others meet the new ones in few different weights, and then many sums lie just halfway.
    """
    edge = int(dict(processor.size).get("shortest_edge") or size)

    def prime(least: int) -> int:
        return next(each for each in count(least) if all(each % factor for factor in range(2, isqrt(each) + 1)))

    tall = (prime(size * 6), prime(size * 2)), (prime(size * 2), prime(size * 3 // 2)), (prime(edge * 3 // 2), edge)
    narrow = () if processor.do_center_crop else ((10303, 101), (9973, 101))  # vast before a crop
    return (101, 131), (prime(size * 2), prime(size * 3)), (127, 127), *tall, *narrow


def verify_vision(comparison: Comparison, model: onnx.ModelProto, parts: StockParts, progress: Progress) -> None:
    """Compares the tower layer by layer, then selection and projector."""
    spec, generator = parts.spec.vision, torch.Generator().manual_seed(0)
    depth = max(spec.feature_layers)
    pixels = torch.randn(1, 3, spec.image_size, spec.image_size, generator=generator)
    entry = "vision.normed" if spec.class_token else "vision.positioned"
    values, states = [entry], [parts.vision_embeddings(pixels)]
    comparison.piece("vision", model, {tensors.PIXEL_VALUES: pixels.numpy()}, {entry: states[0]})
    for layer in range(depth):
        states.append(parts.vision_layer(layer, states[-1]))
        values.append(f"vision.{layer}.hidden")
        comparison.piece("vision", model, {values[layer]: comparison.rows(states[layer])}, {values[-1]: states[-1]})
        progress("verifying vision layers", layer + 1, depth)
    feeds = {values[layer]: comparison.rows(states[layer]) for layer in spec.feature_layers}
    comparison.piece("vision", model, feeds, {tensors.IMAGE_EMBEDS: parts.image_embeds(states)[0]})


def verify_router(comparison: Comparison, model: onnx.ModelProto, parts: StockParts, router: MetaRouter) -> None:
    """Compares both scores of prompts with two images, one and none with those of the eager router."""
    spec, generator = parts.spec, torch.Generator().manual_seed(0)
    for texts in ((3, 2, 4), (1, 5), (6,)):
        layout = random_layout(spec, texts, generator)
        prompt = prompt_batch([layout])
        embeddings = parts.embed(prompt.input_ids)
        image_embeds = torch.randn(layout.image_tokens, spec.decoder.hidden, generator=generator) * embeddings.std()
        embeddings[0, list(layout.image_index)] = image_embeds
        with torch.no_grad():
            scores = router(embeddings, prompt)
        feeds = prompt_feeds(layout) | {tensors.IMAGE_EMBEDS: comparison.rows(image_embeds)}
        wanted = {tensors.TOKEN_SCORES: scores.token_scores[0], tensors.LAYER_SCORES: scores.layer_scores[0]}
        comparison.outputs("router", comparison.whole(model, feeds), wanted)
