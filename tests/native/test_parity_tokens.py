"""C++ and Python, token for token: fifty conversations, three versions, at once and streamed, alone and together.

Both runtimes run the same files with the same library and the same threads, so every field of an answer is equal but
its timing: text, tokens, prompt ids, keep indices, kept layers, usage, finish.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import pytest
from demo_conversations import COUNT, conversations, images_of
from native_bundles import facts, manifest_file

from allrounder.chat.template import render
from allrounder.manifest import Entry, Manifest
from allrounder.native.client import NativeRuntime
from allrounder.runtime import Runtime

pytestmark = pytest.mark.usefixtures("native_library")

NEW_TOKENS = 16
VERSIONS = ("full", "par-lite", "par-nano")
CONVERSATIONS = conversations()


class Wanted(NamedTuple):
    """What Python says: the answer's facts, and the pieces of its stream."""

    facts: dict[str, object]
    pieces: list[str]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    """Each version in turn."""
    return request.param


@pytest.fixture(scope="module")
def wanted(demo_bundle, version):
    """Python's answers of a version."""
    with Runtime.load(demo_bundle, version=version, threads=1) as runtime:
        return [_ask_python(runtime, each) for each in CONVERSATIONS]


def _ask_python(runtime, messages) -> Wanted:
    stream = runtime.stream_chat(messages, max_new_tokens=NEW_TOKENS)
    pieces = list(stream)
    return Wanted(facts(stream.answer), pieces)


def test_fifty_conversations_of_eight_threads(demo_bundle, wanted, version):
    """Every other one is streamed, piece by piece as in Python."""

    def ask(number):
        told = []
        options = {"piece": lambda *piece: told.append(piece)} if number % 2 else {}
        found = runtime.chat(CONVERSATIONS[number], max_new_tokens=NEW_TOKENS, **options)
        counts = [count for _, count in told]
        assert counts == sorted(counts)
        assert all(count <= len(found.token_ids) for count in counts)
        return Wanted(facts(found), [text for text, _ in told] if options else wanted[number].pieces)

    with NativeRuntime(demo_bundle, version=version, threads=1) as runtime, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(COUNT)))
    assert found == wanted
    assert len({each.facts["text"] for each in found}) > COUNT / 5, "answers that are all alike would prove little"
    assert len({each.facts["usage"][1] for each in found}) == 4, "no image to three"


def test_ragged_requests_together_are_each_alone(demo_bundle, wanted, version):
    """In batches of eight, of several lengths; `par-lite` chooses layers per input and runs them one by one."""
    lengths = [1 + 3 * number % NEW_TOKENS for number in range(8)]
    with NativeRuntime(demo_bundle, version=version, threads=1) as runtime:
        for low in (0, 8):
            asked = [
                {"messages": messages, "max_new_tokens": length}
                for messages, length in zip(CONVERSATIONS[low : low + 8], lengths, strict=True)
            ]
            together = zip(runtime.generate_batch(asked), wanted[low : low + 8], lengths, strict=True)
            for found, alone, length in together:
                assert found.token_ids == alone.facts["token_ids"][:length]
                assert found.keep_indices == alone.facts["keep_indices"]


def test_rendered_text_and_ids_in_place_of_messages(demo_bundle, wanted, version):
    chat = msgspec.json.decode(manifest_file(demo_bundle).read_bytes(), type=Manifest).chat
    with (
        NativeRuntime(demo_bundle, version=version, threads=1) as runtime,
        NativeRuntime(demo_bundle, version=version, threads=1, ids_only=True) as bare,
    ):
        for messages, expected in list(zip(CONVERSATIONS, wanted, strict=True))[::17]:
            images, told = images_of(messages), []
            by_text = runtime.complete(render(chat, messages), images, max_new_tokens=NEW_TOKENS)
            assert facts(by_text) == expected.facts
            by_ids = bare.complete(
                runtime.encode(messages),
                images,
                max_new_tokens=NEW_TOKENS,
                piece=lambda *piece, to=told: to.append(piece),
            )
            assert facts(by_ids) == expected.facts | {"text": ""}
            assert told == [("", count + 1) for count in range(len(by_ids.token_ids))]


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


def test_shared_weights_give_the_same_as_in_python(demo_bundle, version):
    with (
        NativeRuntime(demo_bundle, version=version, threads=1, weights="shared") as native,
        Runtime.load(demo_bundle, version=version, threads=1, weights="shared") as python,
    ):
        for messages in CONVERSATIONS[:3]:
            found, expected = (each.chat(messages, max_new_tokens=NEW_TOKENS) for each in (native, python))
            assert facts(found) == facts(expected)
