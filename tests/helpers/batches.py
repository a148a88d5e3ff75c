"""Ragged requests, and how a scheduler is asked them, for tests."""

from collections import defaultdict

import numpy as np

IMAGES = [np.random.default_rng(seed).integers(0, 256, (37, 53, 3), np.uint8) for seed in (3, 4, 5)]


def turn(text, images=0):
    content = [{"type": "image", "image": image} for image in IMAGES[:images]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


# No image to three, short and long, greedy and drawn, cut by stop texts, keeping more or fewer image tokens.
REQUESTS = [
    {"messages": turn("hi"), "max_new_tokens": 9},
    {"messages": turn("what is it?", 2), "max_new_tokens": 17, "temperature": 3.0, "seed": 1},
    {"messages": turn("and this, in so many words?", 1), "max_new_tokens": 3, "temperature": 5.0, "seed": 2},
    {"messages": turn("why 日本?", 3), "max_new_tokens": 20, "temperature": 4.0, "seed": 3, "top_k": 40},
    {"messages": turn("x", 1), "max_new_tokens": 1},
    {"messages": turn("who is there?", 1), "max_new_tokens": 14, "temperature": 2.0, "seed": 4, "keep": 1},
    {"messages": turn("a b c", 2), "max_new_tokens": 20, "temperature": 6.0, "seed": 5, "stop": ("e", "a", "o")},
    {"messages": turn("how many are left?", 3), "max_new_tokens": 12, "temperature": 3.0, "seed": 6, "keep": 0.6},
]


def requests_of(runtime):
    """Those, as an entry takes them: one that keeps everything knows no other keep."""
    if runtime.entry.pruning.prunes:
        return REQUESTS
    return [{name: value for name, value in each.items() if name != "keep" or value == 1} for each in REQUESTS]


def told(answer):
    """What must not depend on who else is answered, or an error."""
    if isinstance(answer, Exception):
        return repr(answer)
    return answer.text, answer.token_ids, answer.keep_indices, answer.kept_layers, answer.usage, answer.finish


def scheduled(runtime, requests, joins, slots=None, before_step=lambda step, scheduler: None):
    """Returns how each request ends where request i joins before step ``joins[i]``; pieces must add up to the text."""
    scheduler = runtime.scheduler(slots)
    numbers, ends, pieces = {}, {}, defaultdict(str)
    for step in range(10_000):
        for number, request in enumerate(requests):
            if joins[number] == step:
                numbers[scheduler.add(**request)] = number
        before_step(step, scheduler)
        events = scheduler.step()
        assert len({event.id for event in events}) == len(events)
        for event in events:
            assert event.id not in ends
            pieces[event.id] += event.piece
            if event.end is not None:
                ends[event.id] = event.end
                assert event.answer is None or event.answer.text == pieces[event.id]
        if len(ends) == len(requests):
            assert (scheduler.pending, scheduler.step()) == (0, [])
            return [ends[number] for number in sorted(ends, key=numbers.get)]
    raise AssertionError("it does not end")
