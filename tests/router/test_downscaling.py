"""Image downscaling: within the budget, real tokens as planned, and what the stock processors do of fewer tiles."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from allrounder.errors import InvalidBudget, ModelUnsupported
from allrounder.images.pixels import pixel_values, token_sources
from allrounder.images.plan import Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect
from allrounder.images.planning import plan_images
from allrounder.images.shown import Shown, prepare_shown, whole
from allrounder.router.pruners.downscaling import downscale, reaches_below_a_tile
from allrounder.versions import EVERYTHING, VERSIONS, Keep, kept_tokens

S, SIDE = 24, 3
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
GREY = (122, 116, 104)
NEXT = ((24, 48), (48, 24), (48, 48), (24, 72), (72, 24), (96, 96))
ONEVISION = tuple((S * rows, S * columns) for rows in (1, 2, 3) for columns in (1, 2, 3))


def plan(layout: Any, tokens: int = SIDE**2, filter_: Any = "bicubic") -> ImagePlan:
    return ImagePlan(size=S, tokens=tokens, filter=filter_, scale=1 / 255, mean=MEAN, std=STD, layout=layout)


PLANS = {
    "llava": plan(Fixed(shortest=S)),
    "llava, squares": plan(Fixed(square=GREY)),
    "llava_next": plan(Canvases(canvases=NEXT)),
    "llava_onevision": plan(Canvases(canvases=ONEVISION, most=3, several=GREY)),
    "internvl": plan(NearestAspect(least=1, most=12, before="<img>", after="</img>")),
    "smolvlm": plan(LongestEdge(edge=4 * S + 5, split=True, around="<fake>", whole="<global>"), filter_="lanczos"),
    "smolvlm, whole": plan(LongestEdge(edge=4 * S, split=False, around="<fake>", whole="<global>"), filter_="lanczos"),
}
SIDES = st.integers(4, 300)
SIZES = st.lists(st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 8 * min(size)), min_size=1, max_size=3)
KEEPS = st.one_of(
    st.sampled_from([shares.tokens for shares in VERSIONS.values()]),
    st.fractions(Fraction(1, 4), 1, max_denominator=50),
    st.integers(2, 200),
)


def rgb_of(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0] * 1000 + size[1]).integers(0, 256, (*size, 3), np.uint8)


def budgets(of: ImagePlan, sizes: Any, keep: Keep) -> list[int]:
    return [kept_tokens(keep, planned.tokens) for planned in plan_images(of, sizes)]


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, keep=KEEPS)
def test_no_image_gets_more_tokens_than_the_version_keeps(name: str, sizes: Any, keep: Keep) -> None:
    of = PLANS[name]
    most = budgets(of, sizes, keep)
    shown = downscale(of, sizes, keep)
    assert shown.keep == EVERYTHING, "nothing more is dropped"
    for image, budget, whole_image in zip(shown.images, most, plan_images(of, sizes), strict=True):
        assert 1 <= image.tokens <= budget
        assert image.planned.tiles <= whole_image.tiles
        if budget == whole_image.tokens:
            assert image == (whole_image, None), "all of it is left alone"
        elif budget >= of.tokens + 1:
            assert image.given is None, "where a tile is within the budget, whole tiles are shown"
            assert image.tokens >= of.tokens
        assert [part for part in image.placed.content if isinstance(part, str)] == [
            part for part in image.planned.content if isinstance(part, str)
        ]


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, keep=KEEPS)
def test_real_tiles_and_tokens_are_as_planned(name: str, sizes: Any, keep: Keep) -> None:
    of = PLANS[name]
    shown = downscale(of, sizes, keep)
    prepared = prepare_shown(of, shown, [rgb_of(size) for size in sizes])
    assert prepared.tiles.shape == (sum(image.planned.tiles for image in shown.images), S, S, 3)
    rows = token_sources(of, prepared.planned).rows  # [N of the tower, 4], as the vision graph gathers them
    given_rows = shown.of(rows)
    assert len(given_rows) == sum(image.tokens for image in shown.images)
    assert len(given_rows) == sum(part for i in shown.images for part in i.placed.content if isinstance(part, int))
    assert given_rows.max() <= prepared.tiles.shape[0] * of.tokens


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, keeps=st.tuples(KEEPS, KEEPS))
def test_a_larger_budget_never_shows_less(name: str, sizes: Any, keeps: Any) -> None:
    of = PLANS[name]
    pairs = [(budgets(of, sizes, keep), [i.tokens for i in downscale(of, sizes, keep).images]) for keep in keeps]
    for budget, other, tokens, others in zip(pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1], strict=True):
        assert budget < other or tokens >= others
        assert other < budget or others >= tokens


@pytest.mark.parametrize("name", PLANS)
def test_below_a_tile_the_image_stands_in_the_middle_and_only_its_tokens_are_given(name: str) -> None:
    of, size = PLANS[name], (60, 60)
    newline = isinstance(of.layout, Canvases)
    (image,) = downscale(of, [size], 5).images
    assert image.given == ((0, 1, 3, 4, 9) if newline else (0, 1, 3, 4))  # 2 x 2 of 3 x 3
    (least,) = downscale(of, [size], 2).images
    assert least.given == ((4, 9) if newline else (4,))
    (tile,) = prepare_shown(of, Shown((least,), EVERYTHING), [np.full((*size, 3), 200, np.uint8)]).tiles
    inside = np.zeros((S, S), bool)
    inside[8:16, 8:16] = True
    assert (tile[inside] == 200).all()
    around = {tuple(pixel) for pixel in tile[~inside].tolist()}
    assert around == {GREY if name == "llava, squares" else (0, 0, 0)}


def test_what_cannot_be_shown_is_refused_by_name() -> None:
    with_class = plan(Fixed(), tokens=10)
    assert not reaches_below_a_tile(with_class)
    assert downscale(with_class, [(9, 9)], EVERYTHING) == whole(with_class, [(9, 9)], EVERYTHING)
    with pytest.raises(ModelUnsupported, match=r"5 of 10 tokens.*square"):
        downscale(with_class, [(9, 9)], 5)
    with pytest.raises(InvalidBudget, match="so few tokens"):
        downscale(PLANS["llava_onevision"], [(60, 60)], Fraction(1, 100))


# --- fewer tiles are what the stock processors make of other settings -------------------------------------------------


def assert_pixels(of: ImagePlan, size: tuple[int, int], keep: Keep, stock: np.ndarray) -> None:
    shown = downscale(of, [size], keep)
    tiles = prepare_shown(of, shown, [rgb_of(size)]).tiles
    np.testing.assert_allclose(pixel_values(of, tiles), stock, atol=2e-6)
    assert shown.images[0].tokens < plan_images(of, [size])[0].tokens


def settings_of(**more: Any) -> dict[str, Any]:
    return {"image_mean": MEAN, "image_std": STD, "do_convert_rgb": False, **more}


@pytest.mark.parametrize("size", [(100, 110), (60, 150), (300, 90)])
def test_fewer_canvases(size: tuple[int, int]) -> None:
    of, fewer = PLANS["llava_next"], [canvas for canvas in NEXT if canvas[0] * canvas[1] <= 3 * S * S]
    processor = LlavaNextImageProcessorPil(
        **settings_of(
            size={"shortest_edge": S},
            crop_size={"height": S, "width": S},
            image_grid_pinpoints=[list(canvas) for canvas in fewer],
            do_pad=False,
        )
    )
    keep = plan_images(msgspec.structs.replace(of, layout=Canvases(canvases=tuple(fewer))), [size])[0].tokens
    stock = processor(Image.fromarray(rgb_of(size)))["pixel_values"][0]
    assert_pixels(of, size, keep, stock)


@pytest.mark.parametrize("size", [(100, 110), (60, 150), (300, 90)])
@pytest.mark.parametrize("most", [1, 4, 7])
def test_fewer_tiles_at_most(size: tuple[int, int], most: int) -> None:
    processor = GotOcr2ImageProcessorPil(
        **settings_of(size={"height": S, "width": S}, crop_to_patches=True, min_patches=1, max_patches=most)
    )
    stock = np.stack(processor(Image.fromarray(rgb_of(size)))["pixel_values"])
    assert_pixels(PLANS["internvl"], size, len(stock) * SIDE**2, stock)


@pytest.mark.parametrize("size", [(100, 110), (60, 150), (300, 90)])
@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_a_shorter_edge(size: tuple[int, int], tiles: int) -> None:
    processor = SmolVLMImageProcessorPil(
        **settings_of(
            size={"longest_edge": tiles * S}, max_image_size={"longest_edge": S}, do_image_splitting=True, do_pad=False
        )
    )
    stock = np.stack(processor([[Image.fromarray(rgb_of(size))]])["pixel_values"][0])
    assert_pixels(PLANS["smolvlm"], size, len(stock) * SIDE**2, stock)


@pytest.mark.parametrize(
    ("kind", "of", "more"),
    [
        (LlavaNextModel, PLANS["llava_next"], {"vision_feature_select_strategy": "default"}),
        (LlavaOnevisionModel, PLANS["llava_onevision"], {}),
    ],
)
def test_one_tile_is_packed_as_the_stock_models_do(kind: Any, of: ImagePlan, more: dict[str, Any]) -> None:
    """Both put the newline's row behind the tokens of an image that has one tile alone."""
    (image,) = downscale(of, [(100, 110)], of.tokens + 1).images
    features, newline = torch.randn(1, of.tokens, 5), torch.randn(5)
    model: Any = kind.__new__(kind)
    packed, _ = kind.pack_image_features(model, [features], torch.tensor([[100, 110]]), image_newline=newline, **more)
    rows = token_sources(of, [image.planned]).rows[:, 0]
    assert torch.equal(torch.cat([features[0], newline[None]])[torch.from_numpy(rows)], packed[0])
