"""Verifying what all versions share: preprocess, vision, router.

What it is: one function per graph, against the stock image processor, the stock tower in parts, and the eager router.
What it knows: the names of the values where these graphs are cut. What it does not know: versions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from allrounder import tensors
from allrounder.errors import VerificationFailed
from allrounder.export.compare import Comparison
from allrounder.export.reference import StockParts
from allrounder.hosts.prompt import PromptBatch
from allrounder.progress import Progress
from allrounder.router.model import MetaRouter

__all__ = ["verify_preprocess", "verify_router", "verify_vision"]

# Pillow and ONNX Runtime round differently on a few pixels, by one step of 255, rarely two. Bilinear weights are
# coarser, and more sums lie halfway.
PIXEL_SHARE = {2: 0.01, 3: 0.002}  # by Pillow's filter: BILINEAR, BICUBIC
PIXEL_STEPS = 2.0


def verify_preprocess(comparison: Comparison, model: onnx.ModelProto, processor: Any) -> None:
    """Compares pictures with those of the stock processor.

    Raises:
        VerificationFailed: More than `PIXEL_SHARE` of the pixels differ, or one by more than `PIXEL_STEPS`.
    """
    generator = np.random.default_rng(0)
    allowed = PIXEL_SHARE[int(processor.resample)]
    step = (np.array(processor.image_std) * 255).reshape(-1, 1, 1)  # pixel values to steps of 255
    for height, width in _pictures(model):
        # Smooth and noisy at once: noise finds rounding, smooth parts find shifts.
        ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
        picture = (ramp + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)
        stock = processor(images=Image.fromarray(picture), return_tensors="np")["pixel_values"]
        found = comparison.whole(model, {tensors.IMAGE: picture})[tensors.PIXEL_VALUES]
        steps = np.abs(found.astype(np.float64) - stock) * step
        share = float((steps > 0.5).mean())
        if not (share <= allowed and steps.max() <= PIXEL_STEPS + 0.01):
            raise VerificationFailed(
                "the preprocess graph makes other pixels than the stock processor",
                where=f"{tensors.PIXEL_VALUES} of a picture of {width} x {height}",
                got=f"{share:.4%} differ, by up to {steps.max():.2f} of 255",
                wanted=f"at most {allowed:.1%}, by up to {PIXEL_STEPS:g}",
            )


def _pictures(model: onnx.ModelProto) -> tuple[tuple[int, int], ...]:
    """Returns heights and widths: small and large, wide, tall and square.

    The tall one has the right width already: Pillow 13 resizes tall pictures in another order of its two passes than
    earlier ones and the graph, which rounds differently (about a quarter of the pixels, by one step).
    """
    size = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    return (97, 133), (2 * size + 1, 3 * size), (64, 64), (size * 3 // 2, size)


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
    comparison.piece("vision", model, feeds, {tensors.VISUAL: parts.visual(states)})


def verify_router(comparison: Comparison, model: onnx.ModelProto, parts: StockParts, router: MetaRouter) -> None:
    """Compares both scores of two prompts of unequal length with those of the eager router."""
    spec, generator = parts.spec, torch.Generator().manual_seed(0)
    vocabulary = spec.decoder.vocabulary
    prompt = PromptBatch(
        torch.randint(vocabulary, (1, 3), generator=generator).repeat(2, 1),
        torch.randint(vocabulary, (2, 7), generator=generator),
        torch.tensor([4, 7]),
    )
    before, after = parts.embed(prompt.prefix_ids), parts.embed(prompt.suffix_ids)
    visual = torch.randn(2, spec.visual_tokens, spec.decoder.hidden, generator=generator) * before.std()
    with torch.no_grad():
        scores = router(torch.cat([before, visual, after], dim=1), prompt)
    feeds = {
        tensors.PREFIX_IDS: prompt.prefix_ids.numpy(),
        tensors.VISUAL: comparison.rows(visual),
        tensors.SUFFIX_IDS: prompt.suffix_ids.numpy(),
        tensors.SUFFIX_LENGTHS: prompt.suffix_lengths.numpy(),
    }
    wanted = {tensors.TOKEN_SCORES: scores.token_scores, tensors.LAYER_SCORES: scores.layer_scores}
    comparison.outputs("router", comparison.whole(model, feeds), wanted)
