"""Several requests at once answer as each does alone, whoever joins and leaves; on tiny graphs."""

import os
import threading

import fake_bundle
import numpy as np
import pytest
from batches import REQUESTS, requests_of, scheduled, told, turn
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.engines.slots import ArraySlots
from allrounder.errors import BackendError, ImageInvalid, InputInvalid, PromptTooLong, RequestCancelled, RuntimeClosed
from allrounder.runtime import Cancellation, Engine, Runtime
from allrounder.runtime.cache import Pool

LONG = {"max_new_tokens": 20, "temperature": 8.0, "seed": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_bundle.write_bundle(tmp_path_factory.mktemp("scheduler") / "bundle")


@pytest.fixture(scope="module", params=fake_bundle.KEPT_LAYERS)
def runtime(folder, request):
    with Runtime.load(folder, version=request.param, threads=1) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def alone(runtime):
    return [told(runtime.chat(**request)) for request in requests_of(runtime)]


@pytest.fixture
def own(folder):
    """A runtime that a test may close."""
    with Runtime.load(folder, version="t2-l2", threads=1) as runtime:
        yield runtime


JOINS = {
    "at once": [0] * 8,
    "one by one": list(range(8)),
    "late": [0, 0, 3, 4, 4, 9, 15, 60],
    "backwards": [*range(8)][::-1],
}


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("joins", JOINS.values(), ids=JOINS)
def test_requests_answer_as_each_alone(runtime, alone, joins, slots):
    assert [told(answer) for answer in scheduled(runtime, requests_of(runtime), joins, slots)] == alone
    assert len({tokens for _, tokens, *_ in alone}) == len(alone)


@given(
    order=st.permutations(range(8)),
    joins=st.lists(st.integers(0, 30), min_size=8, max_size=8),
    cancelled=st.dictionaries(st.integers(0, 7), st.integers(0, 30), max_size=3),
    slots=st.integers(1, 8),
)
@settings(max_examples=20, deadline=None)
def test_whoever_comes_goes_or_is_cancelled_changes_no_other(runtime, alone, order, joins, cancelled, slots):
    cancels = {number: Cancellation() for number in cancelled}
    requests = [requests_of(runtime)[number] | {"cancel": cancels.get(number)} for number in order]

    def before_step(step, scheduler):
        for number, when in cancelled.items():
            if when == step:
                cancels[number].cancel()

    for number, end in zip(order, scheduled(runtime, requests, joins, slots, before_step), strict=True):
        if isinstance(end, RequestCancelled):
            assert number in cancelled
        else:
            assert told(end) == alone[number]


def keep_the_clocks_of_who_left(patch):
    right = Pool.remove

    def wrong(pool, slot):
        left, last = pool._clocks[slot], pool._clocks[-1]
        right(pool, slot)
        if slot < len(pool._clocks):
            pool._clocks[slot] = left._replace(free_slots=last.free_slots)

    patch.setattr(Pool, "remove", wrong)


def keep_the_caches_of_who_left(patch):
    patch.setattr(ArraySlots, "move", lambda *_: None)


@pytest.mark.parametrize("plant", [keep_the_clocks_of_who_left, keep_the_caches_of_who_left])
def test_a_fault_after_a_move_is_seen(runtime, alone, monkeypatch, plant):
    plant(monkeypatch)
    ends = [told(end) for end in scheduled(runtime, requests_of(runtime), [0] * 8)]
    assert sum(end != wanted for end, wanted in zip(ends, alone, strict=True)) > 1


def test_a_step_gives_each_running_request_one_token_and_runs_one_prompt(own, monkeypatch):
    did = []
    prefill, advance = Pool.prefill, Pool.advance
    monkeypatch.setattr(Pool, "prefill", lambda *a: did[-1].append("prompt") or prefill(*a))
    monkeypatch.setattr(Pool, "advance", lambda pool, ids: did[-1].append(len(ids)) or advance(pool, ids))
    scheduler = own.scheduler(3)
    for _ in range(5):
        scheduler.add(turn("what?", 1), **LONG | {"max_new_tokens": 6})
    while scheduler.pending:
        did.append([])
        scheduler.step()
    joined = [["prompt"], [1, "prompt"], [2, "prompt"]]
    full = [[3], [3], [3, "prompt"], [3, "prompt"], [3]]  # the first ends in the sixth step, which lets another in
    assert did == [*joined, *full, [2], [2], [2], [1]]


def test_the_pool_is_as_long_as_its_longest_sequence_wants_and_goes_with_the_last(own):
    scheduler, texts = own.scheduler(4), ("a", "b" * 30, "c" * 8)
    for text, tokens in zip(texts, (4, 9, 30), strict=True):
        scheduler.add(turn(text), max_new_tokens=tokens, temperature=8.0, seed=1)
    wanted = [len(f"USER: {text} ASSISTANT:") + tokens - 1 for text, tokens in zip(texts, (4, 9, 30), strict=True)]
    per_row = 4 * 2 * 2 * fake_bundle.HIDDEN  # slots, layers, keys and values
    for longest in (wanted[0], max(wanted[:2]), max(wanted)):
        scheduler.step()
        assert scheduler._pool.numbers == per_row * longest
    ended = scheduler.finish()
    assert [len(ended[each].token_ids) for each in (1, 2)] == [9, 30]
    assert scheduler._pool.numbers == 0
    scheduler.add(turn("a"), max_new_tokens=4)
    scheduler.step()
    assert scheduler._pool.numbers == per_row * wanted[0]


def test_a_pool_that_is_twice_too_long_shrinks_around_those_that_stay(own):
    short = {"messages": turn("a"), "max_new_tokens": 12, "temperature": 8.0, "seed": 2}
    wanted = told(own.chat(**short))
    scheduler, sizes = own.scheduler(4), []
    scheduler.add(turn("b" * 40, 3), max_new_tokens=3)
    first, second = scheduler.add(**short), None
    ended = {}
    while scheduler.pending:
        ended |= {event.id: event.end for event in scheduler.step() if event.end}
        sizes.append(scheduler._pool.numbers)
        if 0 in ended and second is None:
            second = scheduler.add(**short)
    assert told(ended[first]) == told(ended[second]) == wanted
    assert 0 < sizes[-2] * 2 <= max(sizes)


def test_what_one_leaves_in_its_slot_is_nothing_to_the_next(own, monkeypatch):
    """Rows that no attention should see still must not be NaN."""
    short = {"messages": turn("a"), "max_new_tokens": 20, "temperature": 8.0, "seed": 2}
    wanted, remove = told(own.chat(**short)), Pool.remove

    def poisoned(pool, slot):
        remove(pool, slot)
        for slots in pool._caches.values():
            slots.row(len(pool._clocks)).numpy()[...] = np.nan

    monkeypatch.setattr(Pool, "remove", poisoned)
    scheduler = own.scheduler(2)
    scheduler.add(turn("b", 3), **LONG)
    scheduler.add(turn("c" * 20, 1), max_new_tokens=2)
    scheduler.step()
    scheduler.step()
    scheduler.step()
    assert scheduler.pending == 1
    again = scheduler.add(**short)
    assert told(scheduler.finish()[again]) == wanted


def test_a_request_fails_alone(own, monkeypatch):
    good = [{"messages": turn(text, 1), **LONG} for text in ("a", "b")]
    wanted = [told(own.chat(**request)) for request in good]
    prefill = Engine.prefill

    def failing(engine, layout, *args, **kwargs):
        text = fake_bundle.tokenizer().decode(layout.text_ids)
        if "bad" in text:
            raise BackendError("the library failed")
        state = prefill(engine, layout, *args, **kwargs)
        return (
            state._replace(logits=state.logits * np.nan)
            if layout.text_tokens == len("USER: \nnan ASSISTANT:")
            else state
        )

    monkeypatch.setattr(Engine, "prefill", failing)
    requests = [good[0], {"messages": turn("bad", 1)}, {"messages": turn("nan", 1)}, good[1]]
    ends = scheduled(own, requests, [0, 0, 0, 0])
    assert [told(ends[0]), told(ends[3])] == wanted
    assert [str(end) for end in ends[1:3]] == ["the library failed", str(ends[2])]
    assert "not numbers" in str(ends[2])


def test_where_the_library_fails_on_new_tokens_all_that_run_end_and_others_come(own, monkeypatch):
    wanted = told(own.chat(turn("c"), **LONG))
    scheduler, advance = own.scheduler(2), Pool.advance
    for text in ("a", "b", "c"):
        scheduler.add(turn(text), **LONG)
    scheduler.step()
    scheduler.step()
    monkeypatch.setattr(Pool, "advance", lambda *_: (_ for _ in ()).throw(BackendError("it failed")))
    events = scheduler.step()
    assert sorted(event.id for event in events if isinstance(event.error, BackendError)) == [0, 1]
    monkeypatch.setattr(Pool, "advance", advance)
    assert {key: told(end) for key, end in scheduler.finish().items()} == {2: wanted}


@pytest.mark.parametrize("slots", [0, -1, 9, 2.0, True, "2"])
def test_impossible_slots_are_refused(runtime, slots):
    with pytest.raises(InputInvalid, match=r"slots.*wanted: 1 to 8.*--max-batch"):
        runtime.scheduler(slots)
    assert (runtime.scheduler().slots, runtime.scheduler(3).slots) == (8, 3)


@pytest.mark.parametrize(
    ("messages", "options", "error"),
    [
        ([], {}, InputInvalid),
        (turn("x" * 100), {}, PromptTooLong),
        (turn("a"), {"max_new_tokens": 99}, PromptTooLong),
        (turn("a"), {"beams": 4}, InputInvalid),
        ([{"role": "user", "content": [{"type": "image", "image": "none.png"}]}], {}, ImageInvalid),
    ],
)
def test_what_is_no_request_is_refused_at_once(runtime, messages, options, error):
    scheduler = runtime.scheduler()
    with pytest.raises(error) as raised:
        scheduler.add(messages, **options)
    assert scheduler.pending == 0
    with pytest.raises(error, match=str(raised.value).split(";", maxsplit=1)[0]) as noted:
        runtime.generate_batch([REQUESTS[0], {"messages": messages, **options}])
    assert noted.value.__notes__ == ["in request 1 of the batch"]


def test_a_batch_answers_in_order_within_the_limit(runtime, alone):
    assert [told(answer) for answer in runtime.generate_batch(requests_of(runtime))] == alone
    assert runtime.generate_batch([]) == []
    with pytest.raises(InputInvalid, match=r"got: 9; wanted: up to 8.*--max-batch"):
        runtime.generate_batch([REQUESTS[0]] * 9)
    for wrong in (None, {}, {"max_new_tokens": 3}, turn("a")):
        with pytest.raises(InputInvalid, match="no such thing"):
            runtime.generate_batch([wrong])
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(RequestCancelled) as raised:
        runtime.generate_batch([REQUESTS[0], {"messages": turn("a"), "cancel": cancel}])
    assert raised.value.__notes__ == ["in request 1 of the batch"]


def test_what_the_caller_changes_after_the_call_changes_nothing(runtime, alone):
    scheduler = runtime.scheduler()
    image = REQUESTS[4]["messages"][0]["content"][0]["image"].copy()
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "x"}]}]
    key = scheduler.add(messages, max_new_tokens=1)
    image[...] = 0
    messages[0]["content"].clear()
    assert told(scheduler.finish()[key]) == alone[4]


def test_closing_cancels_those_that_wait_and_run(own):
    scheduler = own.scheduler(2)
    for _ in range(3):
        scheduler.add(turn("a", 1), **LONG)
    scheduler.step()
    own.close()
    ends = scheduler.finish()
    assert [type(ends[key]) for key in range(3)] == [RequestCancelled] * 3
    with pytest.raises(RuntimeClosed):
        scheduler.add(turn("a"))
    for ask in (own.scheduler, lambda: own.generate_batch([REQUESTS[0]])):
        with pytest.raises(RuntimeClosed):
            ask()


@pytest.mark.parametrize("cancel", [True, False])
def test_closing_meets_a_scheduler_at_work(folder, cancel):
    runtime = Runtime.load(folder, version="full", threads=1)
    scheduler, started, ends = runtime.scheduler(2), threading.Event(), {}
    keys = [scheduler.add(turn("a", 1), max_new_tokens=32, temperature=8.0, seed=3) for _ in range(40)]

    def work():
        scheduler.step()
        started.set()
        ends.update(scheduler.finish())

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    runtime.close(cancel=cancel)
    thread.join(20)
    assert sorted(ends) == keys
    kinds = {type(end).__name__ for end in ends.values()}
    assert ("RequestCancelled" in kinds) if cancel else (len(kinds) == 1)


def test_requests_may_be_added_while_others_are_stepped(runtime):
    request = {"messages": turn("a", 1), **LONG}
    wanted, scheduler, keys = told(runtime.chat(**request)), runtime.scheduler(4), []
    threads = [threading.Thread(target=lambda: keys.append(scheduler.add(**request))) for _ in range(12)]
    for thread in threads:
        thread.start()
    ends = {}
    while len(ends) < len(threads):
        ends |= {event.id: event.end for event in scheduler.step() if event.end is not None}
    for thread in threads:
        thread.join()
    assert sorted(ends) == sorted(keys)
    assert {told(end) for end in ends.values()} == {wanted}


def test_a_forked_process_is_refused(own):
    scheduler = own.scheduler()
    scheduler.add(turn("a"), max_new_tokens=2)
    child = os.fork()
    if child == 0:
        refused = 0
        for ask in (scheduler.step, scheduler.finish, own.scheduler, lambda: scheduler.add(turn("a"))):
            try:
                ask()
            except RuntimeClosed:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert len(scheduler.finish()) == 1


def test_times_of_a_batch_are_those_of_who_waits(own):
    scheduler = own.scheduler(1)
    for _ in range(2):
        scheduler.add(turn("a", 1), **LONG)
    first, second = scheduler.finish().values()
    assert second.timing.ttft_ms > first.timing.ttft_ms + first.timing.decode_ms / 2
    both = own.generate_batch([{"messages": turn("a", 1), **LONG}, {"messages": turn("b", 1), **LONG}])
    timing = both[0].timing
    further = len(both[0].token_ids) - 1
    assert timing.tpot_ms * further >= timing.decode_ms + both[1].timing.prefill_ms  # which ran in between
    assert timing.vision_ms + timing.router_ms + timing.prefill_ms < timing.ttft_ms
