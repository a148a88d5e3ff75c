"""Requests on real frozen graphs: threads, streams, seeds and cancelling change nothing about an answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from allrounder.commands.pipeline.random_model import build_shape
from allrounder.errors import RequestCancelled
from allrounder.progress import silent
from allrounder.runtime import Cancellation, Runtime

QUESTIONS = ("what is it?", "how many red circles are there?", "naïve 日本 </s> <image>?")
RGB = np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return build_shape("llama-gqa-tied", tmp_path_factory.mktemp("requests"), ["full", "par-lite"], silent)


@pytest.fixture(scope="module", params=["par-lite", "full"])
def runtime(bundle, request):
    with Runtime.load(bundle.path, version=request.param, threads=1) as runtime:
        yield runtime


def ask(runtime, number, **options):
    """Asks with one image, with two, or with none, by turns."""
    image = np.roll(RGB, 5 * number, axis=1)
    content = [{"type": "image", "image": image} for _ in range(number % 3)]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTIONS[number // 3 % 3]}]}]
    return runtime.chat(messages, max_new_tokens=24, **options)


def test_eight_threads_answer_as_one(runtime):
    options = [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 4}]
    alone = [ask(runtime, number, **options[number % 3]) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda number: ask(runtime, number, **options[number % 3]), range(24)))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.keep_indices, one.kept_layers) == (other.text, other.keep_indices, other.kept_layers)
    assert len({answer.token_ids for answer in alone}) > 4


def test_a_stream_is_the_answer(runtime):
    for number in range(6):
        options = {"temperature": 1.5, "seed": number, "max_new_tokens": 24}
        image, text = np.roll(RGB, 5 * number, axis=1), QUESTIONS[number % 3]
        stream = runtime.stream(image, text, **options)
        whole = runtime.generate(image, text, **options)
        assert "".join(stream) == whole.text == stream.answer.text
        assert stream.answer.token_ids == whole.token_ids


def test_a_seed_repeats(runtime):
    first, again, other = (ask(runtime, 1, temperature=2.0, seed=seed).token_ids for seed in (5, 5, 6))
    assert first == again != other


def test_cancelling_midway_leaves_the_others_alone(runtime):
    cancel = Cancellation()
    stream = runtime.stream(RGB, QUESTIONS[0], max_new_tokens=24, temperature=2.0, seed=1, cancel=cancel)
    next(stream)
    wanted = ask(runtime, 2).token_ids
    cancel.cancel()
    with pytest.raises(RequestCancelled):
        list(stream)
    assert ask(runtime, 2).token_ids == wanted
