"""C++ and Python on tile families: images of all aspects, one to three, from messages and from rendered text."""

import pytest
from native_bundles import facts, manifest_file
from tile_models import CASES, SIZES, asked, frozen, rgb, write_bundle

from allrounder.chat.template import render
from allrounder.manifest import Manifest, decode
from allrounder.native.client import NativeRuntime
from allrounder.runtime import Runtime
from allrounder.vlm.model import load_model
from allrounder.vlm.random.model import SHAPES, TINY_TILES, write_random_checkpoint

pytestmark = pytest.mark.usefixtures("native_library")

VERSIONS = ("full", "par-lite", "par-nano")
NEW_TOKENS = 20
FIRST = tuple({SHAPES[shape].model_type: shape for shape in reversed(TINY_TILES)}.values())  # of each family


@pytest.fixture(scope="module", params=FIRST)
def bundle(request, native_build, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    vlm = load_model(write_random_checkpoint(place / "model", request.param))
    return write_bundle(frozen(vlm, place)[1], place / "bundle")


def pictures(sizes):
    return [rgb(size, seed) for seed, size in enumerate(sizes)]


def conversation(sizes):
    messages, images = asked(len(sizes)), iter(pictures(sizes))
    for each in (each for turn in messages for each in turn["content"] if each["type"] == "image"):
        each["image"] = next(images)
    return messages


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_answers(bundle, version):
    with (
        NativeRuntime(bundle, version=version, threads=1) as native,
        Runtime.load(bundle, version=version, threads=1) as python,
    ):
        seen = set()
        for sizes in CASES:
            messages = conversation(sizes)
            found, wanted = (each.chat(messages, max_new_tokens=NEW_TOKENS) for each in (native, python))
            assert facts(found) == facts(wanted), sizes
            seen.add((wanted.usage.image_tokens, wanted.token_ids))
        assert len({tokens for tokens, _ in seen}) > 2, "images of several numbers of tiles"
        assert len({ids for _, ids in seen}) > 1, "answers that are all alike would prove little"


def test_rendered_text_and_ids(bundle):
    chat = decode(manifest_file(bundle).read_bytes(), Manifest, where=bundle).chat
    sizes = SIZES[:3]
    messages = conversation(sizes)
    with (
        NativeRuntime(bundle, version="par-lite", threads=1) as native,
        Runtime.load(bundle, version="par-lite", threads=1) as python,
    ):
        wanted = facts(python.chat(messages, max_new_tokens=NEW_TOKENS))
        by_text = native.complete(render(chat, messages), pictures(sizes), max_new_tokens=NEW_TOKENS)
        assert facts(by_text) == wanted
        by_ids = native.complete(native.encode(messages), pictures(sizes), max_new_tokens=NEW_TOKENS)
        assert facts(by_ids) == wanted
