"""Which questions can be asked: counted with the image tokens that each image really has."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from image_plans import fixed_plan
from PIL import Image

from allrounder.calib.questions import check_questions, planned
from allrounder.errors import ImageInvalid, PromptsInvalid, PromptTooLong
from allrounder.images.plan import Canvases, Fixed
from allrounder.layout import sequential_layout
from allrounder.prompts import Prompt

TILE, TOKENS = 14, 9
CANVASES = Canvases(canvases=((TILE, 2 * TILE), (2 * TILE, 2 * TILE)))
SMALL, LARGE = 9 + 3 * 7, 9 + 6 * 7  # image tokens on each canvas


class Engine:
    """The side of an engine that questions are checked with: three ids of text."""

    def __init__(self, layout=CANVASES, image_tokens=99, longest=999):
        plan = msgspec.structs.replace(fixed_plan(TOKENS, TILE), layout=layout)
        self.model = SimpleNamespace(images=plan, max_positions=longest)
        self.limits = SimpleNamespace(text_tokens=9, image_tokens=image_tokens, new_tokens=4)

    def ids(self, messages):
        return (1, 7, 2, 3)

    def layout_of(self, ids, images):
        (image,) = images
        if image.tokens > self.limits.image_tokens:
            raise PromptTooLong("too many", got=f"{image.tokens} image tokens")
        return sequential_layout(ids, 7, [image.tokens])


@pytest.fixture
def prompts(tmp_path):
    """A question about an image of each canvas."""
    for name, size in (("small", (TILE, 2 * TILE)), ("large", (2 * TILE, 2 * TILE))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return [Prompt(tmp_path / f"{name}.png", "what?", None, "") for name in ("small", "large")]


def test_images_are_planned_by_their_own_size(prompts):
    assert [images[0].tokens for images in planned(Engine(), prompts)] == [SMALL, LARGE]
    assert [images[0].tokens for images in planned(Engine(Fixed()), prompts)] == [TOKENS, TOKENS]
    check_questions(Engine(), prompts)


@pytest.mark.parametrize("limits", [{"image_tokens": LARGE - 1}, {"longest": LARGE + 3 + 4 - 1}])
def test_a_large_image_that_does_not_fit_is_named_and_the_small_one_is_not(prompts, limits):
    with pytest.raises(PromptsInvalid, match=rf"1 questions.*large\.png.*{LARGE} image") as caught:
        check_questions(Engine(**limits), prompts)
    assert "small.png" not in str(caught.value)


def test_what_fits_to_the_last_token_is_asked(prompts):
    check_questions(Engine(image_tokens=LARGE, longest=LARGE + 3 + 4), prompts)


def test_an_image_that_is_none_is_refused_where_its_size_matters(prompts):
    prompts[1].image.write_bytes(b"no image")
    with pytest.raises(ImageInvalid, match=r"large\.png"):
        check_questions(Engine(), prompts)
    check_questions(Engine(Fixed()), prompts)
