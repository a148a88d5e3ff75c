"""Pillow filters the columns of some images before their rows: pixels are the stock processor's, at any shape.

It rounds between its two passes, so the wrong order moves pixels by up to 29 of 255.
"""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoProcessor

from allrounder.engines.bundle.reader import open_bundle
from allrounder.images.pixels import pixel_values, prepare_images

SIZES = [
    *[(1, 1), (1, 50), (50, 1), (3, 50), (50, 3), (2, 3), (200, 1), (1, 200)],  # tiny, and a pixel wide or high
    *[(28, 28), (14, 14), (57, 28), (28, 57), (29, 28), (42, 28), (28, 42)],  # the right width or height already
    *[(640, 480), (480, 640), (1600, 720), (720, 1600), (1500, 1500)],  # photographs
    *[(100, 30), (60, 20), (20, 60), (303, 3), (299, 3), (3030, 30), (190, 1), (2000, 11)],  # far taller than wide
]


def images(height, width):
    """Hard black and white, and a photograph's smoothness with a photograph's noise."""
    generator = np.random.default_rng(height * 10_000 + width)
    yield generator.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)
    ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
    yield (ramp + generator.integers(0, 56, (height, width, 3))).astype(np.uint8)


def settings(**changes):
    """Changes the image processor of a checkpoint."""
    return {"processor_config.json": lambda content: content["image_processor"].update(changes)}


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("llama-mha", {"resample": 3}),
        ("llama-mha", {"resample": 2, "size": {"shortest_edge": 33}}),
        ("llama-mha", {"resample": 3, "image_processor_type": "LlavaImageProcessor", "do_pad": True}),
        ("qwen2-siglip", {"resample": 3}),
        ("qwen2-siglip", {"resample": 2}),
    ],
    ids=["clip", "clip-cut-bilinear", "llava-pad", "siglip", "siglip-bilinear"],
)
def test_pixels_are_the_stock_processors_at_any_shape(model, build, shape, changes):
    directory = model(shape, edits=settings(**changes))
    built = build(directory)
    assert built.code == 0, built.stderr
    processor = AutoProcessor.from_pretrained(str(directory), backend="pil").image_processor
    assert processor.resample == changes["resample"]
    plan = open_bundle(built.bundle).manifest.model.images
    for size in SIZES:
        for rgb in images(*size):
            wanted = processor(images=Image.fromarray(rgb), return_tensors="np")["pixel_values"]
            found = pixel_values(plan, prepare_images(plan, [rgb]).tiles)
            np.testing.assert_allclose(found, wanted, atol=2e-6, err_msg=str(size))
