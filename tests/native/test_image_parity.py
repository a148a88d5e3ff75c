"""Image plans in C++ and in Python, asked the same questions: same records, texts, tiles and sources of tokens.

C++ answers through `allrounder_images_probe`, a program of its tests that takes JSON lines.
"""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allrounder.errors import ImageInvalid
from allrounder.images.pixels import prepare_images, token_sources
from allrounder.images.plan import FILTERS, Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect
from allrounder.images.planning import plan_images
from allrounder.runtime.image import MAX_PIXELS

MANY = settings(max_examples=300, deadline=None)
SIDES = st.integers(1, 300)
LONG_SIDES = st.integers(1, 20_000)
COLORS = st.tuples(*[st.integers(0, 255)] * 3)
TEXTS = st.text(max_size=8)


class Probe:
    """The program, asked line by line."""

    def __init__(self, program: Any) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the probe died of {question!r:.300}"
        return json.loads(line)

    def take(self, plan: ImagePlan) -> None:
        assert self.ask(plan=msgspec.json.encode(plan).decode()) is None

    def close(self) -> None:
        with self._process:  # closes both pipes, and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def probe(program):
    made = Probe(program("allrounder_images_probe"))
    yield made
    made.close()


def plan_of(layout: Any, size: int = 24, tokens: int = 9, filter_: Any = "bicubic") -> ImagePlan:
    return ImagePlan(
        size=size, tokens=tokens, filter=filter_, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 1), layout=layout
    )


@st.composite
def plans(draw: Any) -> ImagePlan:
    size, side = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["fixed", "canvases", "aspect", "edge"]))
    color = st.none() | COLORS
    if kind == "fixed":
        layout = Fixed(square=draw(color), shortest=draw(st.none() | st.integers(size, 60)))
    elif kind == "canvases":
        shapes = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: (pair[0] * size, pair[1] * size))
        layout = Canvases(
            canvases=tuple(draw(st.lists(shapes, min_size=1, max_size=8))),
            most=draw(st.none() | st.integers(1, 12)),
            several=draw(color),
        )
    elif kind == "aspect":
        most = draw(st.integers(1, 20))
        layout = NearestAspect(least=draw(st.integers(1, most)), most=most, before=draw(TEXTS), after=draw(TEXTS))
    else:
        edge = draw(st.integers(1, 6 * size))
        layout = LongestEdge(edge=edge, split=draw(st.booleans()), around=draw(TEXTS), whole=draw(TEXTS))
    return plan_of(layout, size, side * side, draw(st.sampled_from(FILTERS)))


def sizes_of(sides: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(sides, sides).filter(lambda size: max(size) <= 200 * min(size) and size[0] * size[1] <= MAX_PIXELS)


def rgb_of(size: tuple[int, int]) -> np.ndarray:
    """Noise, half of it black and white, so that sums overshoot."""
    draw = np.random.default_rng(size[0] * 100_003 + size[1])
    noise = draw.integers(0, 256, (*size, 3), np.uint8)
    return np.where(draw.integers(0, 2, (*size, 1), bool), noise, np.where(noise < 128, 0, 255)).astype(np.uint8)


def answer_of(call: Callable[[], Any]) -> Any:
    """What the probe answers where Python returns or raises this."""
    try:
        return call()
    except ImageInvalid as error:
        return {"error": "ImageInvalid", "message": str(error)}


def expected(plan: ImagePlan, sizes: list[tuple[int, int]]) -> Any:
    def planned() -> Any:
        images = plan_images(plan, sizes)
        sources = token_sources(plan, images)
        return {
            "contents": [list(image.content) for image in images],
            "tiles": [image.tiles for image in images],
            "rows": sources.rows.tolist(),
            "weights": sources.weights.tolist(),
        }

    return answer_of(planned)


@MANY
@given(plan=plans(), sizes=st.lists(sizes_of(SIDES), min_size=1, max_size=3))
def test_texts_and_tokens(probe: Probe, plan: ImagePlan, sizes: list[tuple[int, int]]) -> None:
    probe.take(plan)
    assert probe.ask(sizes=sizes) == expected(plan, sizes)


def test_an_image_that_takes_too_much_memory(probe: Probe) -> None:
    """A square of the longest image that is taken otherwise has 40 GB; one of 16,384 pixels is the largest."""
    plan = plan_of(Fixed(square=(0, 0, 0)))
    probe.take(plan)
    for size in [(579, 115_800), (100, 16_384), (100, 16_385), (16_385, 100)]:
        assert probe.ask(sizes=[size]) == expected(plan, [size])
    assert "error" in expected(plan, [(579, 115_800)])
    assert "error" not in expected(plan, [(100, 16_384)])


GRIDS = [(rows, columns) for rows in range(1, 10) for columns in range(1, 10) if rows * columns <= 9]
STOCK = {
    "llava-next": plan_of(Canvases(canvases=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))), 336, 576),
    "llava-onevision": plan_of(
        Canvases(canvases=tuple((384 * rows, 384 * columns) for rows, columns in GRIDS), most=9), 384, 729
    ),
    "internvl": plan_of(NearestAspect(least=1, most=12, before="<img>", after="</img>"), 448, 256),
    "smolvlm": plan_of(LongestEdge(edge=2048, split=True, around="<fake>", whole="<global>"), 512, 64),
}


@pytest.mark.parametrize("name", STOCK)
@settings(max_examples=30, deadline=None)
@given(size=sizes_of(LONG_SIDES))
def test_texts_and_tokens_at_stock_sizes(probe: Probe, name: str, size: tuple[int, int]) -> None:
    probe.take(STOCK[name])
    assert probe.ask(sizes=[size]) == expected(STOCK[name], [size])


@MANY
@given(plan=plans(), size=sizes_of(st.integers(1, 150)), alone=st.booleans())
def test_tiles(probe: Probe, plan: ImagePlan, size: tuple[int, int], alone: bool) -> None:
    probe.take(plan)
    rgb = rgb_of(size)

    def tiles() -> Any:
        (planned, *_) = plan_images(plan, [size] if alone else [size, size])
        return prepare_images(plan, [rgb] if alone else [rgb, rgb]).tiles[: planned.tiles].tobytes().hex()

    assert probe.ask(cut=rgb.tobytes().hex(), size=size, alone=alone) == answer_of(tiles)


@pytest.mark.parametrize("filter_", FILTERS)
def test_resized_bytes_are_pillows(probe: Probe, filter_: str) -> None:
    probe.take(plan_of(Fixed(), filter_=filter_))
    draw = np.random.default_rng(FILTERS.index(filter_))
    for number in range(1000):
        most = 300 if number % 50 == 0 else 40
        size, to = (tuple(int(side) for side in draw.integers(1, most, 2)) for _ in range(2))
        if number % 3 == 0:  # around the border between the two orders of passes
            size = (to[0] + max(2 * (size[1] - to[1]) + int(draw.integers(-1, 3)), 1), size[1])
        rgb = rgb_of(size)
        wanted = Image.fromarray(rgb).resize(to[::-1], Image.Resampling[filter_.upper()]).tobytes().hex()
        assert probe.ask(resize=rgb.tobytes().hex(), size=size, to=to) == wanted, (size, to)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (1, 9000), (2000, 10), (24, 24), (24, 1)])
@pytest.mark.parametrize("filter_", FILTERS)
def test_resized_bytes_of_odd_shapes(probe: Probe, filter_: str, size: tuple[int, int]) -> None:
    probe.take(plan_of(Fixed(), filter_=filter_))
    rgb = rgb_of(size)
    for to in [(1, 1), (24, 24), (24, 1), (1, 24), (300, 3)]:
        wanted = Image.fromarray(rgb).resize(to[::-1], Image.Resampling[filter_.upper()]).tobytes().hex()
        assert probe.ask(resize=rgb.tobytes().hex(), size=size, to=to) == wanted, to


def python_reads(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=ImagePlan)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return False
    return True


def reads(probe: Probe, text: str) -> bool:
    """Whether the record is read, be the plan possible or not."""
    answer = probe.ask(plan=text)
    return answer is None or answer["message"].startswith("the image plan is impossible")


VALUES = ["0", "-1", "1", "255", "256", "1.0", "true", "null", '"fixed"', '"lanczos"', '"box"', "[]", "{}"]
VALUES += ["[1, 2]", "[1, 2, 3]", "[0, 0]", "[1, 2, 256]", "[[1, 2]]", "[[1, 2, 3]]", "9223372036854775808", "1e999"]
KEYS = ["size", "tokens", "filter", "scale", "mean", "std", "layout", "kind", "other"]
EVERY = [
    Fixed(square=(1, 2, 3), shortest=24),
    Canvases(canvases=((24, 24), (48, 24)), most=3, several=(0, 0, 255)),
    NearestAspect(least=1, most=2, before="a", after="b"),
    LongestEdge(edge=48, split=True, around="a", whole="b"),
]


@pytest.mark.parametrize("layout", EVERY, ids=lambda layout: type(layout).__name__)
def test_records_are_refused_alike(probe: Probe, layout: Any) -> None:
    """Any value in any place, any key left out, added or twice, in the plan and in its layout."""
    good = json.loads(msgspec.json.encode(plan_of(layout)))
    assert python_reads(json.dumps(good))
    texts = [json.dumps(good)]
    for record, inside in ((good, False), (good["layout"], True)):
        for key in [*record, *KEYS]:
            rest = {name: json.dumps(value) for name, value in record.items() if name != key}
            for values in [(), *((value,) for value in VALUES), *((json.dumps(record.get(key)), v) for v in VALUES)]:
                for front in (True, False):  # the key before all others, or behind them
                    pairs = [(key, value) for value in values]
                    pairs = [*pairs, *rest.items()] if front else [*rest.items(), *pairs]
                    text = "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
                    whole = {**{name: json.dumps(value) for name, value in good.items()}, "layout": text}
                    texts.append("{" + ", ".join(f'"{n}": {v}' for n, v in whole.items()) + "}" if inside else text)
    found = {text: reads(probe, text) for text in texts}
    assert [text for text in texts if found[text] != python_reads(text)] == []
    assert len({*found.values()}) == 2
