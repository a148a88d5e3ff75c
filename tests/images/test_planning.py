"""Image plans against transformers' own processors and models: tiles, pixels, numbers and order of image tokens."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from allrounder.errors import ImageInvalid
from allrounder.images.pixels import pixel_values, prepare_images, token_sources
from allrounder.images.plan import Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect
from allrounder.images.planning import PlannedImage, plan_images, token_range

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
SIDES = st.integers(1, 200)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 20 * min(size))
CANVASES = ((24, 48), (48, 24), (48, 48), (24, 72), (72, 24), (96, 96))
SQUARE = tuple(int(part * 255) for part in MEAN)


def plan(layout: Any, *, size: int = 24, tokens: int = 9, filter_: Any = "bicubic") -> ImagePlan:
    return ImagePlan(size=size, tokens=tokens, filter=filter_, scale=1 / 255, mean=MEAN, std=STD, layout=layout)


def rgb_of(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 256, (*size, 3), np.uint8)


def image(size: tuple[int, int]) -> Image.Image:  # of an array transformers guesses which axis is colour
    return Image.fromarray(rgb_of(size))


def same(of: ImagePlan, sizes: list[tuple[int, int]], stock: list[np.ndarray]) -> tuple[PlannedImage, ...]:
    """Asserts that tiles are the stock processor's, to a rounding of float32; returns the plans."""
    planned, tiles = prepare_images(of, [rgb_of(size) for size in sizes])
    np.testing.assert_allclose(pixel_values(of, tiles), np.concatenate(stock), atol=2e-6)
    assert [each.tiles for each in planned] == [len(each) for each in stock]
    return planned


def settings_of(**more: Any) -> dict[str, Any]:
    return {"image_mean": MEAN, "image_std": STD, "do_convert_rgb": False, **more}


@pytest.mark.parametrize("padded", [False, True])
@settings(max_examples=60, deadline=None)
@given(size=SIZES)
def test_llava(padded: bool, size: tuple[int, int]) -> None:
    edges = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    processor = LlavaImageProcessorPil(**settings_of(do_pad=padded, **edges))
    of = plan(Fixed(square=cast("Any", SQUARE) if padded else None, shortest=24))
    (planned,) = same(of, [size], [np.stack(processor(image(size))["pixel_values"])])
    assert (planned.tokens, planned.tiles) == (9, 1)


def packed(
    model: Any, of: ImagePlan, planned: tuple[PlannedImage, ...], sizes: list[tuple[int, int]], **more: Any
) -> None:
    """Asserts that image tokens are those that the stock model packs, whatever the tower gives."""
    config = SimpleNamespace(
        image_grid_pinpoints=[list(canvas) for canvas in CANVASES],
        vision_config=SimpleNamespace(image_size=24, patch_size=8),
    )
    features = [torch.randn(each.tiles, of.tokens, 5) for each in planned]
    newline = torch.randn(5)
    stock, lengths = model.pack_image_features(
        SimpleNamespace(config=config), features, sizes, image_newline=newline, **more
    )
    table = torch.cat([*(each.flatten(0, 1) for each in features), newline[None]])
    rows, weights = (torch.from_numpy(part) for part in token_sources(of, planned))
    torch.testing.assert_close(
        (table[rows] * weights[..., None]).sum(dim=1), torch.cat(list(stock)), atol=1e-5, rtol=1e-5
    )
    assert [each.tokens for each in planned] == [int(length) for length in lengths]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=3))
def test_llava_next(sizes: list[tuple[int, int]]) -> None:
    processor = LlavaNextImageProcessorPil(
        **settings_of(
            size={"shortest_edge": 24},
            crop_size={"height": 24, "width": 24},
            image_grid_pinpoints=[list(canvas) for canvas in CANVASES],
            do_pad=False,
        )
    )
    of = plan(Canvases(canvases=CANVASES))
    planned = same(of, sizes, [processor(image(size))["pixel_values"][0] for size in sizes])
    packed(LlavaNextModel, of, planned, sizes, vision_feature_select_strategy="default")


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=3))
def test_llava_onevision(sizes: list[tuple[int, int]]) -> None:
    processor = LlavaOnevisionImageProcessorPil(
        **settings_of(
            size={"height": 24, "width": 24}, image_grid_pinpoints=[list(canvas) for canvas in CANVASES], do_pad=False
        )
    )
    of = plan(Canvases(canvases=CANVASES, most=3, several=cast("Any", SQUARE)))
    planned = same(of, sizes, processor([[image(size) for size in sizes]])["pixel_values"])
    packed(LlavaOnevisionModel, of, planned, sizes, vision_aspect_ratio="anyres_max_3")


@settings(max_examples=100, deadline=None)
@given(size=SIZES, least=st.integers(1, 2), most=st.integers(2, 12))
def test_internvl(size: tuple[int, int], least: int, most: int) -> None:
    processor = GotOcr2ImageProcessorPil(
        **settings_of(size={"height": 24, "width": 24}, crop_to_patches=True, min_patches=least, max_patches=most)
    )
    of = plan(NearestAspect(least=least, most=most, before="<img>", after="</img>"))
    (planned,) = same(of, [size], [np.stack(processor(image(size))["pixel_values"])])
    assert planned.content == ("<img>", 9 * planned.tiles, "</img>")
    assert planned.tiles <= of.most_tiles


@pytest.mark.parametrize("kind", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
@settings(max_examples=100, deadline=None)
@given(size=SIZES, edge=st.integers(20, 120), split=st.booleans())
def test_idefics3(kind: Any, size: tuple[int, int], edge: int, split: bool) -> None:
    processor = kind(
        **settings_of(
            size={"longest_edge": edge}, max_image_size={"longest_edge": 24}, do_image_splitting=split, do_pad=False
        )
    )
    of = plan(LongestEdge(edge=edge, split=split, around="<fake>", whole="<global>"), filter_="lanczos")
    stock = processor([[image(size)]], return_row_col_info=True)
    (planned,) = same(of, [size], [np.stack(stock["pixel_values"][0])])
    text = get_image_prompt_string(stock["rows"][0][0], stock["cols"][0][0], 9, "<fake>", "<image>", "<global>")
    assert "".join(part if isinstance(part, str) else "<image>" * part for part in planned.content) == text
    assert planned.tiles <= of.most_tiles


def test_an_image_that_takes_too_much_memory() -> None:
    of = plan(Fixed(square=(0, 0, 0)))
    assert plan_images(of, [(100, 16_384)])[0].tiles == 1
    with pytest.raises(ImageInvalid, match="which becomes 115800 x 115800"):
        plan_images(of, [(579, 115_800)])


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [
        (Fixed(), (9, 9)),
        (Canvases(canvases=CANVASES), (9 + 3 * 7, 9 + 12 * 13)),
        (Canvases(canvases=CANVASES, most=3), (9 + 3 * 7, 9 + 9 * 4)),  # 12 x 12 becomes 5 x 5
        (NearestAspect(least=1, most=4, before="", after=""), (9, 5 * 9)),
        (LongestEdge(edge=72, split=True, around="", whole=""), (4 * 9, 10 * 9)),
        (LongestEdge(edge=72, split=False, around="", whole=""), (9, 9)),
    ],
)
def test_how_many_tokens_images_have_that_fill_their_tiles(layout: Any, tokens: tuple[int, int]) -> None:
    assert token_range(plan(layout)) == tokens
