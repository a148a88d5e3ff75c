"""The preprocess graph against the stock Pillow processors."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from allrounder.errors import ModelUnsupported, VerificationFailed
from allrounder.export.preprocess import image_steps, preprocess_graph
from allrounder.export.resizing import ORDERS, installed_order
from allrounder.export.verify.shared import verify_preprocess

SIZE = 56
SQUARE = {"height": SIZE, "width": SIZE}


def clip(**changes):
    return CLIPImageProcessorPil(**({"size": {"shortest_edge": SIZE}, "crop_size": SQUARE} | changes))


def llava(**changes):
    return LlavaImageProcessorPil(**({"size": {"shortest_edge": SIZE}, "crop_size": SQUARE, "do_pad": True} | changes))


PROCESSORS = {
    "clip": clip(),
    "clip-bilinear": clip(resample=2),
    "clip-larger-edge": clip(size={"shortest_edge": SIZE + 9}),
    "clip-not-normalised": clip(do_normalize=False),
    "clip-not-rescaled": clip(do_rescale=False),
    "llava-pads": llava(),
    "llava-pads-uncropped": llava(do_center_crop=False),
    "siglip": SiglipImageProcessorPil(size=SQUARE),
}


def image(height, width, *, smooth=False):
    generator = np.random.default_rng(height * 1000 + width)
    noise = generator.integers(0, 56 if smooth else 256, (height, width, 3))
    ramp = np.linspace(0, 200, height * width).reshape(height, width, 1) if smooth else 0
    return (ramp + noise).astype(np.uint8)


def graph_pixels(processor, rgb):
    model = preprocess_graph(image_steps(processor, SIZE))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": rgb})[0]


def stock_pixels(processor, rgb):
    return processor(images=Image.fromarray(rgb), return_tensors="np")["pixel_values"]


def step(processor):
    """What one step of 255 is in pixel values, per channel."""
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    deviation = np.array(processor.image_std if processor.do_normalize else [1.0] * 3)
    return (scale / deviation).reshape(-1, 1, 1)


# Height and width: enlarged, shrunk, odd remainders, the right size already.
SHAPES = [
    (97, 133),
    (40, 41),
    (56, 56),
    (112, 113),
    (56, 211),
    (167, 300),
    (83, 56),
    (337, 113),
    (131, 101),
    (1217, 89),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("name", PROCESSORS)
def test_equals_the_stock_processor(name, smooth, shape):
    processor, rgb = PROCESSORS[name], image(*shape, smooth=smooth)
    found, wanted = graph_pixels(processor, rgb), stock_pixels(processor, rgb)
    assert found.dtype == np.float32
    assert found.shape == wanted.shape == (1, 3, SIZE, SIZE)
    steps = np.abs(found - wanted) / step(processor)
    # Bilinear weights are coarser, and more sums lie halfway between two steps.
    assert (steps > 0.5).mean() <= (0.01 if processor.resample == 2 else 0.002)
    assert steps.max() <= 2.01


RULES = [  # of each order, written down once more: whether columns come first
    (None, lambda height, width, new_height, new_width: False),
    (ORDERS[1], lambda height, width, new_height, new_width: height > new_height and height > 100 * width),
    (ORDERS[0], lambda height, width, new_height, new_width: height - new_height > max(0, 2 * (width - new_width))),
]


@pytest.mark.parametrize(("order", "columns_first"), RULES, ids=["11", "12.2", "13"])
@pytest.mark.parametrize(
    "shape", [*SHAPES, (57, 55), (60, 58), (60, 57), (505, 5), (500, 5), (50, 1), (1, 1), (20, 56)]
)
def test_each_release_of_pillow_has_its_order(order, columns_first, shape):
    steps = image_steps(PROCESSORS["siglip"], SIZE)._replace(order=order, factor=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    session = onnxruntime.InferenceSession(preprocess_graph(steps).SerializeToString())
    rgb = image(*shape)
    first = (shape[1], SIZE) if columns_first(*shape, SIZE, SIZE) else (SIZE, shape[0])
    wanted = np.asarray(Image.fromarray(rgb).resize(first, 3).resize((SIZE, SIZE), 3), np.float32)
    found = session.run(None, {"image": rgb})[0][0].transpose(1, 2, 0)
    assert np.abs(found - wanted).max() <= 2
    assert (found != wanted).mean() <= 0.01


def test_the_order_is_that_of_the_installed_pillow_and_the_graph_says_it():
    release = tuple(map(int, PIL.__version__.split(".")[:2]))
    wanted = ORDERS[0] if release >= (13, 0) else ORDERS[1] if release >= (12, 2) else None
    assert installed_order() == wanted
    steps = image_steps(PROCESSORS["siglip"], SIZE)
    assert steps.order == wanted
    assert preprocess_graph(steps).doc_string == f"filters {wanted.about if wanted else 'rows first'}"
    assert image_steps(PROCESSORS["llava-pads"], SIZE).order is None  # squares are never tall


class Whole:
    """What `verify_preprocess` asks of a comparison."""

    def whole(self, model, feeds):
        return {"pixel_values": onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]}


@pytest.mark.parametrize("name", ["clip", "clip-bilinear", "clip-larger-edge", "siglip"])
def test_verify_finds_another_order(name):
    processor = PROCESSORS[name]
    steps = image_steps(processor, SIZE)
    verify_preprocess(Whole(), preprocess_graph(steps), processor)
    others = {None, *ORDERS} - {steps.order}
    if name != "siglip":  # where the middle is cropped, only vast images are narrow enough for the order of 12.2
        others = {None if steps.order == ORDERS[0] else ORDERS[0]}
    for order in others:
        with pytest.raises(VerificationFailed, match="other pixels"):
            verify_preprocess(Whole(), preprocess_graph(steps._replace(order=order)), processor)


@pytest.mark.parametrize(
    ("processor", "key"),
    [
        (clip(resample=1), "resample"),
        (clip(do_resize=False), "resample"),
        (clip(do_convert_rgb=False), "do_convert_rgb"),
        (clip(size={"shortest_edge": SIZE - 1}), "size"),
        (clip(do_center_crop=False), "size"),
        (clip(crop_size={"height": SIZE, "width": SIZE - 1}), "crop_size"),
        (clip(size={"shortest_edge": SIZE, "longest_edge": 100}), "size"),
        (SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE + 1}), "size"),
        (SiglipImageProcessorPil(size=SQUARE, do_pad=True), "do_pad"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(processor, key):
    with pytest.raises(ModelUnsupported) as caught:
        image_steps(processor, SIZE)
    assert caught.value.where == key
