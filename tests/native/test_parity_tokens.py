"""C++ and Python, token for token: fifty held-out questions, three versions, at once and streamed.

Both runtimes run the same files with the same library and the same threads, so every field of an answer is equal but
its timing: text, tokens, prompt ids, keep indices, kept layers, finish.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from native_bundles import facts, manifest_file

from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.manifest import Entry, Manifest
from allrounder.native.client import NativeRuntime
from allrounder.runtime import Runtime

pytestmark = pytest.mark.usefixtures("reads_bundles", "native_library")

QUESTIONS = 50
NEW_TOKENS = 24
VERSIONS = ("full", "par-lite", "par-nano")


@pytest.fixture(scope="module")
def questions():
    """Images and questions that neither model nor router saw in training."""
    return [(np.asarray(example.image), example.question) for example in examples(Split.TEST, QUESTIONS)]


class Wanted(NamedTuple):
    """What Python says: the answer's facts, the pieces of its stream, and the ids on either side of the image."""

    facts: dict[str, object]
    pieces: list[str]
    prompt: Any


@pytest.fixture(scope="module")
def wanted(demo_bundle, questions):
    """Python's answers by version."""
    answers = {}
    for version in VERSIONS:
        with Runtime.load(demo_bundle, version=version, threads=1) as runtime:
            answers[version] = [_ask_python(runtime, *each) for each in questions]
    return answers


def _ask_python(runtime, rgb, question) -> Wanted:
    stream = runtime.stream(rgb, question, max_new_tokens=NEW_TOKENS)
    pieces = list(stream)
    return Wanted(facts(stream.answer), pieces, runtime._engine.prompt(question))


@pytest.mark.parametrize("version", VERSIONS)
def test_fifty_questions(demo_bundle, questions, wanted, version):
    with NativeRuntime(demo_bundle, version=version, threads=1) as runtime:
        found = [facts(runtime.generate(*each, max_new_tokens=NEW_TOKENS)) for each in questions]
    assert found == [each.facts for each in wanted[version]]
    assert len({each["text"] for each in found}) > QUESTIONS / 5, "answers that are all alike would prove little"


@pytest.mark.parametrize("version", VERSIONS)
def test_fifty_questions_streamed(demo_bundle, questions, wanted, version):
    with NativeRuntime(demo_bundle, version=version, threads=1) as runtime:
        for each, expected in zip(questions, wanted[version], strict=True):
            told = []
            found = runtime.generate(*each, max_new_tokens=NEW_TOKENS, piece=lambda *piece, to=told: to.append(piece))
            assert facts(found) == expected.facts
            assert [text for text, _ in told] == expected.pieces
            counts = [count for _, count in told]
            assert counts == sorted(counts)
            assert counts[-1] <= len(found.token_ids)


@pytest.mark.parametrize("version", VERSIONS)
def test_token_ids_in_place_of_a_question(demo_bundle, questions, wanted, version):
    with NativeRuntime(demo_bundle, version=version, threads=1, ids_only=True) as runtime:
        for (rgb, _), expected in list(zip(questions, wanted[version], strict=True))[::10]:
            told = []
            found = runtime.generate(
                rgb,
                None,
                **expected.prompt._asdict(),
                max_new_tokens=NEW_TOKENS,
                piece=lambda *piece, to=told: to.append(piece),
            )
            assert facts(found) == expected.facts | {"text": ""}
            assert told == [("", count + 1) for count in range(len(found.token_ids))]


def test_both_runtimes_speak_of_the_same_entry(demo_bundle):
    data = manifest_file(demo_bundle).read_bytes()
    for version in VERSIONS:
        with (
            NativeRuntime(demo_bundle, version=version, threads=1, ids_only=True) as native,
            Runtime.load(demo_bundle, version=version, threads=1) as python,
        ):
            assert native.version == version
            assert msgspec.json.decode(native.entry, type=Entry) == python.entry
            assert native.entry == msgspec.json.encode(python.entry)
            assert json.loads(native.manifest) == json.loads(data)
            assert msgspec.json.decode(native.manifest, type=Manifest).entries


@pytest.mark.parametrize("version", ["par-lite", "par-nano"])
def test_eight_threads_at_once_are_eight_one_after_another(demo_bundle, questions, wanted, version):
    with (
        NativeRuntime(demo_bundle, version=version, threads=1) as runtime,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(lambda each: facts(runtime.generate(*each, max_new_tokens=NEW_TOKENS)), questions[:32]))
    assert found == [each.facts for each in wanted[version][:32]]


@pytest.mark.parametrize("version", VERSIONS)
def test_shared_weights_give_the_same_as_in_python(demo_bundle, questions, version):
    with (
        NativeRuntime(demo_bundle, version=version, threads=1, weights="shared") as native,
        Runtime.load(demo_bundle, version=version, threads=1, weights="shared") as python,
    ):
        for rgb, question in questions[:5]:
            found, expected = (each.generate(rgb, question, max_new_tokens=NEW_TOKENS) for each in (native, python))
            assert facts(found) == facts(expected)
