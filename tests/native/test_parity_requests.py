"""C++ and Python on everything a request may say: sampling, stop texts, images of any size, limits, and refusals."""

import ctypes
import itertools

import numpy as np
import pytest
from native_bundles import facts

from allrounder import errors
from allrounder.chat.messages import question
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.native import c_api
from allrounder.native.client import NativeRuntime
from allrounder.native.lowering import Prompt, lowered_request
from allrounder.runtime import LatencyTarget, Runtime

pytestmark = pytest.mark.usefixtures("native_library")

VERSION = "par-lite"
ODD_SIZES = [(1, 1), (1, 200), (200, 1), (37, 53), (191, 193), (1, 2), (500, 3), (640, 480)]
ODD_QUESTIONS = [
    "what is it?",
    "what is it ?",
    " leading and trailing \t\n",
    "naïve cafe\N{COMBINING ACUTE ACCENT} 日本語 \N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{WOMAN}",
    "<image> </s> <s> <pad> USER: ASSISTANT:",
    "12345 + 67890 = ???",
    "don't I'VE we'll",
    "a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}c\r\n\r\nd",
    "zero\0byte",
]


@pytest.fixture(scope="module")
def both(demo_bundle):
    """The runtimes of both languages: C++, Python."""
    with (
        NativeRuntime(demo_bundle, version=VERSION, threads=1) as native,
        Runtime.load(demo_bundle, version=VERSION, threads=1) as python,
    ):
        yield native, python


@pytest.fixture(scope="module")
def example():
    """An image and a question of the test split."""
    found = next(examples(Split.TEST, 1))
    return np.asarray(found.image), found.question


@pytest.mark.parametrize("question", ODD_QUESTIONS, ids=ascii)
def test_any_question(both, example, question):
    found, wanted = (each.generate(example[0], question, max_new_tokens=6) for each in both)
    assert facts(found) == facts(wanted)


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_a_image_of_any_size(both, size):
    rgb = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    found, wanted = (each.generate(rgb, "what is it?", max_new_tokens=6) for each in both)
    assert facts(found) == facts(wanted)


SAMPLING = [
    {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    for temperature, top_k, top_p in itertools.product((0.7, 5.0), (0, 7, 10**6), (1.0, 0.3))
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_the_same_seed_draws_the_same_tokens_again(both, example, sampling):
    native, _ = both
    for seed in (0, 1, 2**31, 2**64 - 1):
        options = {**sampling, "seed": seed, "max_new_tokens": 12}
        first, again = (native.generate(*example, **options) for _ in range(2))
        assert facts(first) == facts(again)


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}], ids=str)
def test_sampling_that_leaves_one_token_is_python_s_greedy_answer(both, example, sampling):
    native, python = both
    found = native.generate(*example, **{"temperature": 5.0, "seed": 3, **sampling}, max_new_tokens=12)
    assert facts(found) == facts(python.generate(*example, max_new_tokens=12))


def test_seeds_differ_and_no_seed_draws_afresh(both, example):
    native, _ = both
    hot = {"temperature": 8.0, "max_new_tokens": 8}
    seeded = {native.generate(*example, seed=seed, **hot).token_ids for seed in range(4)}
    fresh = {native.generate(*example, **hot).token_ids for _ in range(4)}
    assert len(seeded) == 4
    assert len(fresh) > 1


def test_stop_texts(both, example):
    """Every stretch of the answer as a stop text, and ones that never come; streamed, nothing of it gets out."""
    native, python = both
    text = python.generate(*example, max_new_tokens=24).text
    cuts = [text[low : low + size] for low in range(0, len(text), 2) for size in (1, 2, 5)]
    stops = [(cut,) for cut in cuts] + [("never", text[-3:]), (text, text[:4]), (text + "!",), ("\N{GRINNING FACE}",)]
    assert len(text) > 4
    for stop in stops:
        pieces = []
        options = {"stop": stop, "max_new_tokens": 24}
        found = native.generate(*example, **options, piece=lambda each, _, to=pieces: to.append(each))
        stream = python.stream(*example, **options)
        assert pieces == list(stream)
        assert facts(found) == facts(stream.answer)


@pytest.mark.parametrize("count", [1, 2, 3, 490])
def test_the_length_of_an_answer(both, example, count):
    found, wanted = (each.generate(*example, max_new_tokens=count) for each in both)
    assert facts(found) == facts(wanted)
    assert len(found.token_ids) <= count
    assert (found.timing.tpot_ms is None) == (len(found.token_ids) == 1)
    assert found.timing.ttft_ms > 0


def test_the_longest_question_is_answered_and_one_token_more_is_refused(both, example):
    engine, words = both[1]._door.engine(), 0
    while True:
        words += 1
        try:
            engine.layout(question("x " * words))
        except errors.PromptTooLong:
            break
    longest = "x " * (words - 1)
    found, wanted = (each.generate(example[0], longest, max_new_tokens=2) for each in both)
    assert facts(found) == facts(wanted)
    assert len(found.prompt_ids) <= engine.limits.text_tokens
    for each in both:
        with pytest.raises(errors.PromptTooLong):
            each.generate(example[0], "x " * words, max_new_tokens=2)


def ask_raw(native, request):
    """Asks with a C request that the client would not make."""
    answer = ctypes.c_void_p()
    native._check(native._library.ar_generate(native._handle, ctypes.byref(request), ctypes.byref(answer)))
    try:
        return native._answer(answer)
    finally:
        native._library.ar_answer_free(answer)


def test_rows_that_are_further_apart_than_their_pixels(both, example):
    """A window of a larger image, as its owner holds it in memory: `row_bytes`."""
    native, python = both
    rgb, question = example
    height, width, _ = rgb.shape
    large = np.random.default_rng(9).integers(0, 256, (height + 3, width + 5, 3), np.uint8)
    large[1 : height + 1, 2 : width + 2] = rgb
    request = lowered_request(Prompt(messages=turn(rgb, question)), {"max_new_tokens": 12})
    part = request.messages[0].parts[0]  # in the request's memory
    part.row_bytes = large.strides[0]
    part.rgb = ctypes.cast(large[1:, 2:].ctypes.data, ctypes.c_char_p)
    wanted = facts(python.generate(*example, max_new_tokens=12))
    assert facts(ask_raw(native, request)) == wanted
    upside_down = np.ascontiguousarray(rgb[::-1])  # the first row lies last
    part.row_bytes = -upside_down.strides[0]
    part.rgb = ctypes.cast(upside_down[-1:].ctypes.data, ctypes.c_char_p)
    assert facts(ask_raw(native, request)) == wanted


def test_rows_that_overlap_are_refused(both, example):
    native, _ = both
    request = lowered_request(Prompt(messages=turn(*example)), {})
    part = request.messages[0].parts[0]
    for row_bytes in (1, 3 * part.width - 1, 1 - 3 * part.width):
        part.row_bytes = row_bytes
        with pytest.raises(errors.ImageInvalid, match="row_bytes"):
            ask_raw(native, request)


def turn(image, text):
    parts = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def user(*content, role="user"):
    return {"role": role, "content": list(content)}


def text(words):
    return {"type": "text", "text": words}


def image(height, width):
    return {"type": "image", "image": np.zeros((height, width, 3), np.uint8)}


FINE = [user(image(4, 4), text("what?"))]
BAD_OPTIONS = {
    "a negative length": {"max_new_tokens": -1},
    "a length beyond the limit": {"max_new_tokens": 100_000},
    "an absurd length": {"max_new_tokens": 2**62},
    "a negative temperature": {"temperature": -0.5},
    "a temperature that is no number": {"temperature": float("nan")},
    "an infinite temperature": {"temperature": float("inf")},
    "a negative top_k": {"top_k": -1},
    "a negative top_p": {"top_p": -0.1},
    "a top_p above 1": {"top_p": 1.5},
    "a top_p that is no number": {"top_p": float("nan")},
    "an empty stop text": {"stop": ["fine", ""]},
    "a negative share": {"keep": -0.5},
    "more than everything": {"keep": 1.5},
    "a share that is no number": {"keep": float("nan")},
    "a count that is no whole number": {"keep": 2.5},
    "an infinite count": {"keep": float("inf")},
    "a share too small to be written": {"keep": 1e-12},
    "an unknown option": {"beams": 4},
    "a temperature and a length": {"temperature": -1.0, "max_new_tokens": 100_000},
}
BAD_MESSAGES = {
    "no message": [],
    "an empty question": [user(image(4, 4), text("")), user(text(""))],
    "white space": [user(text(" \t\n\N{IDEOGRAPHIC SPACE}"))],
    "no part": [user()],
    "a role of two words": [user(text("what?"), role="the user")],
    "an empty role": [user(text("what?"), role="")],
    "a role with a line break": [user(text("what?"), role="user\n")],
    "half a surrogate pair": [user(text("\ud800"))],
    "half of one in another turn": [user(text("what?")), user(text("\udfff x"), role="assistant"), user(text("so?"))],
    "two system messages": [user(text("a"), role="system"), user(text("b"), role="system"), user(text("c"))],
    "a part that is none": [user({"type": "audio", "audio": b""})],
    "a question beyond the limit": [user(text("word " * 3000))],
    "turns beyond the limit": [user(text("word " * 200), role=role) for role in ("user", "assistant") * 12],
    "no pixels": [user(image(0, 4), text("what?"))],
    "no columns": [user(image(4, 0), text("what?"))],
    "too narrow": [user(image(201, 1), text("what?"))],
    "too flat": [user(image(1, 201), text("what?"))],
    "one of two images too flat": [user(image(4, 4), text("what?"), image(1, 201))],
    "another shape": [user({"type": "image", "image": np.zeros((4, 4), np.uint8)}, text("what?"))],
    "other numbers": [user({"type": "image", "image": np.zeros((4, 4, 3), np.float32)}, text("what?"))],
    "too many images": [user(*[image(4, 4)] * 40, text("what?"))],
}
REFUSED = {name: (FINE, options) for name, options in BAD_OPTIONS.items()} | {
    name: (messages, {}) for name, messages in BAD_MESSAGES.items()
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_is_refused_by_the_same_error(both, case):
    messages, options = REFUSED[case]
    names = []
    for each in both:
        try:
            each.chat(messages, **options)
            names.append("nothing")
        except errors.AllRounderError as error:
            names.append(type(error).__name__)
    assert names[0] == names[1]
    assert names[0] != "nothing" or case == "two system messages", "which templates may take"
    assert len(REFUSED) >= 40


LOADS = {
    "an unknown version": ({"version": "par-huge"}, {"version": "par-huge"}),
    "version and target": (
        {"version": "full", "ttft_ms": 10.0},
        {"version": "full", "target": lambda: LatencyTarget(ttft_ms=10)},
    ),
    "a negative target": ({"ttft_ms": -1.0}, {"target": lambda: LatencyTarget(ttft_ms=-1)}),
    "a target that is no number": (
        {"tpot_ms": float("nan")},
        {"target": lambda: LatencyTarget(tpot_ms=float("nan"))},
    ),
    "an infinite target": ({"ttft_ms": float("inf")}, {"target": lambda: LatencyTarget(ttft_ms=float("inf"))}),
    "another percentile": (
        {"ttft_ms": 10.0, "percentile": 90},
        {"target": lambda: LatencyTarget(ttft_ms=10, percentile=90)},
    ),
    "a fallback without a target": ({"fallback": "fastest"}, {"fallback": "fastest"}),
    "an unknown fallback": ({"ttft_ms": 1.0, "fallback": "best"}, {"target": LatencyTarget(1.0), "fallback": "best"}),
    "unknown weights": ({"weights": "quick"}, {"weights": "quick"}),
    "negative threads": ({"threads": -1}, {"threads": -1}),
    "an unknown device": ({"device": "tpu"}, {"device": "tpu"}),
    "an odd device": ({"device": "cuda:"}, {"device": "cuda:"}),
    "a device that is not here": ({"device": "cuda:9"}, {"device": "cuda:9"}),
}


@pytest.mark.parametrize("case", LOADS)
def test_a_load_is_refused_by_the_same_error(demo_bundle, case):
    native, python = LOADS[case]
    with pytest.raises(errors.AllRounderError) as found:
        NativeRuntime(demo_bundle, **native)
    with pytest.raises(errors.AllRounderError) as wanted:
        Runtime.load(demo_bundle, **{name: value() if callable(value) else value for name, value in python.items()})
    assert type(found.value) is type(wanted.value)
    assert "\n" not in str(found.value)


def test_a_closed_runtime_says_so(demo_bundle, example):
    for each in (
        NativeRuntime(demo_bundle, version="par-nano", threads=1),
        Runtime.load(demo_bundle, version="par-nano", threads=1),
    ):
        each.close()
        each.close()
        with pytest.raises(errors.RuntimeClosed):
            each.generate(*example)


def test_what_a_callback_raises_ends_the_request(both, example):
    native, _ = both

    def refuse(text, count):
        raise LookupError(text)

    with pytest.raises(LookupError):
        native.generate(*example, piece=refuse)
    assert native.generate(*example, max_new_tokens=2).text


def test_the_library_is_of_the_headers_version(native_library):
    assert c_api.open_library().ar_version().decode().split(".")[:2] == ["0", "1"]
