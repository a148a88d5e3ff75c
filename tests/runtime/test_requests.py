"""Requests: answering, streaming, stopping, cancelling, many at once, closing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fake_bundle
import numpy as np
import pytest
from PIL import Image

from allrounder.errors import ImageInvalid, InputInvalid, InvalidBudget, PromptTooLong, RequestCancelled, RuntimeClosed
from allrounder.runtime import Cancellation, Engine, Runtime
from allrounder.runtime.answer import Usage

RGB = np.random.default_rng(3).integers(0, 256, (9, 6, 3), np.uint8)
QUESTIONS = ["what is it?", "who is there?", "why?", "is it 日本?", "how many are left of it?", "a", "b c", "d e f g"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_bundle.write_bundle(tmp_path_factory.mktemp("requests") / "bundle")


@pytest.fixture(params=fake_bundle.KEPT_LAYERS)
def runtime(folder, request):
    with Runtime.load(folder, version=request.param, threads=1) as runtime:
        yield runtime


def test_an_answer_says_all_there_is_to_say(runtime):
    answer = runtime.generate(RGB, "what is it?", max_new_tokens=6)
    assert len(answer.token_ids) == 6
    assert answer.finish == "length"
    assert answer.text == fake_bundle.tokenizer().decode(answer.token_ids)
    assert fake_bundle.tokenizer().decode(answer.prompt_ids) == "USER: \nwhat is it? ASSISTANT:"
    kept = runtime.entry.pruning.budget(fake_bundle.IMAGE_EMBEDS).tokens
    assert len(answer.keep_indices) == kept
    assert answer.usage == Usage(len(answer.prompt_ids), fake_bundle.IMAGE_EMBEDS, kept, 6)
    assert answer.kept_layers == runtime.entry.pruning.kept_layers


def test_times_add_up(runtime):
    started = time.perf_counter()
    timing = runtime.generate(RGB, "what is it?", max_new_tokens=6).timing
    whole = (time.perf_counter() - started) * 1000
    phases = timing.preprocess_ms + timing.vision_ms + timing.router_ms + timing.prefill_ms
    assert 0 < phases <= timing.ttft_ms
    assert timing.ttft_ms + timing.decode_ms == pytest.approx(timing.ttft_ms + 5 * timing.tpot_ms)
    assert timing.ttft_ms + timing.decode_ms <= whole
    assert runtime.generate(RGB, "what is it?", max_new_tokens=1).timing.tpot_ms is None


def test_paths_and_images_answer_like_arrays(runtime, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    answers = [runtime.generate(image, "what?", max_new_tokens=4) for image in (RGB, path, str(path), Image.open(path))]
    assert len({answer.token_ids for answer in answers}) == 1


def test_the_image_matters(runtime):
    logits = [runtime.generate(np.full_like(RGB, value), "what?", max_new_tokens=8).token_ids for value in (0, 255)]
    assert logits[0] != logits[1]


@pytest.mark.parametrize("options", [{}, {"temperature": 5.0, "seed": 4}, {"temperature": 5.0, "seed": 4, "top_k": 9}])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_stream_is_the_answer_in_pieces(runtime, question, options):
    answer = runtime.generate(RGB, question, max_new_tokens=12, **options)
    stream = runtime.stream(RGB, question, max_new_tokens=12, **options)
    assert "".join(stream) == answer.text == stream.answer.text
    assert stream.answer.token_ids == answer.token_ids
    assert stream.answer.keep_indices == answer.keep_indices


def test_a_seed_repeats_the_answer(runtime):
    def sampled(seed):
        return runtime.generate(RGB, "what?", max_new_tokens=12, temperature=8.0, seed=seed).token_ids

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_stop_token_ends_the_answer_and_is_no_text(folder, tmp_path):
    with Runtime.load(folder, version="full", threads=1) as runtime:
        free = runtime.generate(RGB, "what?", max_new_tokens=12, temperature=8.0, seed=1)
    stop = free.token_ids[4]
    first = free.token_ids.index(stop)
    copy = fake_bundle.copy_bundle(folder, tmp_path / "copy", [fake_bundle.entry("full")], stop_ids=(1, stop))
    with Runtime.load(copy, version="full", threads=1) as runtime:
        answer = runtime.generate(RGB, "what?", max_new_tokens=12, temperature=8.0, seed=1)
    assert answer.token_ids == free.token_ids[: first + 1]
    assert answer.finish == "stop"
    assert answer.text == fake_bundle.tokenizer().decode(answer.token_ids[:-1])


def test_a_stop_text_ends_the_answer_and_is_left_out(runtime):
    options = {"max_new_tokens": 16, "temperature": 8.0, "seed": 5}
    free = runtime.generate(RGB, "what?", **options).text
    stop = free[5:7]
    answer = runtime.generate(RGB, "what?", stop=(stop,), **options)
    assert answer.text == free[: free.index(stop)]
    assert answer.finish == "stop"
    assert "".join(runtime.stream(RGB, "what?", stop=[stop], **options)) == answer.text


def test_the_default_length_is_within_the_limit(runtime):
    answer = runtime.generate(RGB, "what?", temperature=9.0, seed=0)
    assert len(answer.token_ids) == fake_bundle.LIMITS.new_tokens


@pytest.mark.parametrize("ask", ["generate", "stream"])
@pytest.mark.parametrize(
    ("question", "options", "error"),
    [
        ("", {}, InputInvalid),
        (None, {}, InputInvalid),
        ("what?", {"max_new_tokens": 0}, InputInvalid),
        ("what?", {"max_new_tokens": 2.5}, InputInvalid),
        ("what?", {"max_new_tokens": fake_bundle.LIMITS.new_tokens + 1}, PromptTooLong),
        ("x" * 100, {}, PromptTooLong),
        ("what?", {"temperature": -1}, InputInvalid),
        ("what?", {"stop": "END"}, InputInvalid),
        ("what?", {"cancel": 3}, InputInvalid),
        ("what?", {"beams": 4}, InputInvalid),
    ],
)
def test_impossible_requests_are_refused_at_once(runtime, ask, question, options, error):
    with pytest.raises(error):
        getattr(runtime, ask)(RGB, question, **options)


@pytest.mark.parametrize("image", [None, "none.png", np.zeros((3, 3), np.uint8)])
def test_what_is_no_image_is_refused(runtime, image):
    with pytest.raises(ImageInvalid):
        runtime.generate(image, "what?")
    with pytest.raises(ImageInvalid):
        runtime.stream(image, "what?")


def test_many_at_once_answer_as_one_after_the_other(runtime):
    def ask(number):
        image = np.roll(RGB, number, axis=0)
        options = {"max_new_tokens": 20, "temperature": 3.0, "seed": number}
        if number % 2:
            return "".join(runtime.stream(image, QUESTIONS[number % 8], **options))
        return runtime.generate(image, QUESTIONS[number % 8], **options).text

    alone = [ask(number) for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(32))) == alone
    assert len(set(alone)) > 8


def test_cancelling_before_and_midway(runtime):
    cancel = Cancellation()
    stream = runtime.stream(RGB, "what?", max_new_tokens=20, temperature=8.0, seed=1, cancel=cancel)
    next(stream)
    cancel.cancel()
    with pytest.raises(RequestCancelled):
        for _ in stream:
            pass
    assert cancel.cancelled
    assert stream.answer is None
    with pytest.raises(RequestCancelled):
        runtime.generate(RGB, "what?", cancel=cancel)
    assert runtime.generate(RGB, "what?", max_new_tokens=2).token_ids


def endless(runtime, started, seen):
    """Asks again and again until an error ends it."""
    try:
        while True:
            runtime.generate(RGB, "what?", max_new_tokens=32, temperature=8.0)
            started.set()
    except (RequestCancelled, RuntimeClosed) as error:
        seen.append(type(error))


def test_cancelling_from_another_thread(runtime):
    cancel, seen = Cancellation(), []

    def ask():
        try:
            while True:
                runtime.generate(RGB, "what?", max_new_tokens=32, cancel=cancel)
        except RequestCancelled as error:
            seen.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.02)
    cancel.cancel()
    thread.join(5)
    assert len(seen) == 1


def test_a_dropped_stream_does_no_more_work(runtime, monkeypatch):
    calls = []
    decode = Engine.decode
    monkeypatch.setattr(Engine, "decode", lambda *a: calls.append(1) or decode(*a))
    with runtime.stream(RGB, "what?", max_new_tokens=30, temperature=8.0, seed=1) as stream:
        next(stream)
    done = len(calls)
    assert list(stream) == []
    assert len(calls) == done < 20
    runtime.close()  # nobody is waited for


@pytest.mark.parametrize("cancel", [True, False])
def test_closing_ends_running_requests_and_refuses_new_ones(folder, cancel):
    runtime = Runtime.load(folder, version="full", threads=1)
    started, seen = threading.Event(), []
    threads = [threading.Thread(target=endless, args=(runtime, started, seen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(5)
    paused = runtime.stream(RGB, "what?", max_new_tokens=20, temperature=8.0, seed=1)
    next(paused)
    runtime.close(cancel=cancel)
    for thread in threads:
        thread.join(5)
    assert len(seen) == 4
    if not cancel:
        assert set(seen) == {RuntimeClosed}  # each was allowed to end its request
    with pytest.raises(RequestCancelled):
        list(paused)
    for ask in (runtime.generate, runtime.stream):
        with pytest.raises(RuntimeClosed, match="full"):
            ask(RGB, "what?")
    runtime.close()


def test_closing_in_several_threads_at_once(folder):
    runtime = Runtime.load(folder, version="full", threads=1)
    threads = [threading.Thread(target=runtime.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def turn(*parts, role="user"):
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": role, "content": content}


def test_the_short_form_is_a_conversation_of_one_turn(runtime):
    short = runtime.generate(RGB, "what is it?", max_new_tokens=5)
    long = runtime.chat([turn(RGB, "what is it?")], max_new_tokens=5)
    assert (long.token_ids, long.prompt_ids) == (short.token_ids, short.prompt_ids)
    stream = runtime.stream_chat([turn(RGB, "what is it?")], max_new_tokens=5)
    assert ("".join(stream), stream.answer.token_ids) == (short.text, short.token_ids)


def test_conversations_of_any_shape_are_answered(runtime):
    other = RGB[::-1]
    shapes = {
        0: [{"role": "user", "content": "hello"}],
        1: [{"role": "system", "content": "be brief"}, turn("look:", RGB, "what is it?")],
        2: [turn(RGB, "one", other, "two"), turn("yes", role="assistant"), turn("and now?")],
        3: [turn(RGB), turn("a", role="assistant"), turn(other, RGB, "?")],
    }
    answers = {images: runtime.chat(messages, max_new_tokens=5) for images, messages in shapes.items()}
    kept = runtime.entry.pruning.budget(fake_bundle.IMAGE_EMBEDS).tokens
    for images, answer in answers.items():
        assert answer.usage.image_tokens == images * fake_bundle.IMAGE_EMBEDS
        assert answer.usage.kept_image_tokens == len(answer.keep_indices) == images * kept
        text = fake_bundle.tokenizer().decode(answer.prompt_ids)
        assert text.startswith("SYSTEM: be brief" if images == 1 else "USER: ")
        assert runtime.chat(shapes[images], max_new_tokens=5).token_ids == answer.token_ids
    assert answers[0].keep_indices == ()


def test_a_request_says_how_much_it_keeps(folder):
    with Runtime.load(folder, version="t2-l2", threads=1) as runtime:
        kept = {
            keep: runtime.generate(RGB, "what?", keep=keep, max_new_tokens=2).usage.kept_image_tokens
            for keep in (0.25, 0.5, 0.9, 1, 1.0, 2, 3, 400)
        }
        assert kept == {0.25: 1, 0.5: 2, 0.9: 4, 1: 4, 2: 2, 3: 3, 400: 4}
        for wrong in (0, -1, 1.5, True, "0.5", float("nan"), [2]):
            with pytest.raises(InvalidBudget, match="keep"):
                runtime.generate(RGB, "what?", keep=wrong, max_new_tokens=2)


def test_what_is_no_conversation_is_refused_before_an_image_is_read(runtime):
    nothing = np.zeros((0, 0, 3), np.uint8)  # no image; that is not what is said
    for wrong in ([], "hello", [{"role": "user"}], [{"role": "user", "content": 7}], [turn(nothing, {})]):
        with pytest.raises(InputInvalid):
            runtime.chat(wrong, max_new_tokens=2)
    too_many = fake_bundle.LIMITS.images + 1
    with pytest.raises(PromptTooLong, match=f"{too_many} images"):
        runtime.chat([turn(*[nothing] * too_many, "x")], max_new_tokens=2)


def test_without_a_wish_an_answer_is_as_long_as_the_models_longest_sequence_allows(runtime):
    answer = runtime.chat([turn(RGB, RGB, RGB, "x" * 40)])
    longest = fake_bundle.MAX_POSITIONS - answer.usage.text_tokens - answer.usage.image_tokens
    assert longest < fake_bundle.LIMITS.new_tokens
    assert answer.usage.new_tokens == longest or answer.finish == "stop"
    with pytest.raises(PromptTooLong, match="longest sequence"):
        runtime.chat([turn(RGB, RGB, RGB, "x" * 40)], max_new_tokens=longest + 1)
