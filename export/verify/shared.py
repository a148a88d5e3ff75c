"""Verifying what all versions share: pixels, vision, router."""

from __future__ import annotations

from itertools import count
from math import isqrt
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from allrounder import tensors
from allrounder.export.verify.compare import Comparison
from allrounder.export.verify.prompts import prompt_feeds, random_layout
from allrounder.export.verify.reference import StockParts
from allrounder.export.vision import PIXEL_VALUES
from allrounder.images.pixels import prepare_images, token_sources
from allrounder.images.plan import Fixed, ImagePlan
from allrounder.images.planning import Extent, plan_images
from allrounder.progress import Progress
from allrounder.router.model import MetaRouter
from allrounder.vlm.prompt import prompt_batch

__all__ = ["verify_pixels", "verify_router", "verify_vision"]


def verify_pixels(comparison: Comparison, model: onnx.ModelProto, plan: ImagePlan, processor: Any) -> None:
    """Compares the pixel values of tiles with those of the stock image processor.

    Raises:
        VerificationFailed: The image plan, or the head of the vision graph, makes others.
    """
    generator = np.random.default_rng(0)
    for height, width in _images(processor, plan):
        # Smooth and noisy at once: noise finds rounding, smooth parts find shifts.
        ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
        image = (ramp + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)
        stock = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
        tiles = prepare_images(plan, [image]).tiles
        values = np.asarray(stock, np.float32).reshape(-1, 3, plan.size, plan.size)
        comparison.piece("vision", model, {tensors.TILES: tiles}, {PIXEL_VALUES: values})


def _images(processor: Any, plan: ImagePlan) -> tuple[Extent, ...]:
    """Returns heights and widths: small and large, wide, tall and square, one of the right width.

    Tall ones lie on both sides of where Pillow filters columns first: 3 : 1 and 4 : 3, more and less than 100 : 1.
    """
    size = plan.size
    edge = int(dict(processor.size).get("shortest_edge") or size)

    def prime(least: int) -> int:
        return next(each for each in count(least) if all(each % factor for factor in range(2, isqrt(each) + 1)))

    tall = (prime(size * 6), prime(size * 2)), (prime(size * 2), prime(size * 3 // 2)), (prime(edge * 3 // 2), edge)
    whole = isinstance(plan.layout, Fixed) and not processor.do_center_crop  # vast before a crop, none on a canvas
    narrow = ((10303, 101), (9973, 101)) if whole else ()
    return (101, 131), (prime(size * 2), prime(size * 3)), (127, 127), *tall, *narrow


def verify_vision(
    comparison: Comparison, model: onnx.ModelProto, plan: ImagePlan, parts: StockParts, progress: Progress
) -> None:
    """Compares the tower layer by layer, then selection and projector, and how the tokens of an image are laid out."""
    spec, generator = parts.spec.vision, torch.Generator().manual_seed(0)
    depth = max(spec.feature_layers)
    sizes = [(plan.size, plan.size // 2 + 1)]  # padded, where there are canvases
    planned = plan_images(plan, sizes)
    pixels = torch.randn(planned[0].tiles, 3, spec.image_size, spec.image_size, generator=generator)
    entry = "vision.normed" if spec.pre_norm else "vision.positioned"
    values, states = [entry], [parts.vision_embeddings(pixels)]
    comparison.piece("vision", model, {PIXEL_VALUES: pixels.numpy()}, {entry: states[0]})
    for layer in range(depth):
        states.append(parts.vision_layer(layer, states[-1]))
        values.append(f"vision.{layer}.hidden")
        comparison.piece("vision", model, {values[layer]: comparison.rows(states[layer])}, {values[-1]: states[-1]})
        progress("verifying vision layers", layer + 1, depth)
    feeds = {values[layer]: comparison.rows(states[layer]) for layer in spec.feature_layers}
    if parts.spec.newline:
        sources = token_sources(plan, planned)
        feeds |= {tensors.TOKEN_ROWS: sources.rows, tensors.TOKEN_WEIGHTS: sources.weights}
    comparison.piece("vision", model, feeds, {tensors.IMAGE_EMBEDS: parts.image_embeds(states, sizes)})


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
