"""Hostile bundles in the real C++ loader: each ends in the error that Python gives, never in a crash.

The program is asked one question about each damaged bundle, in a process of its own. `ALLROUNDER_NATIVE_ASAN_BUILD`
names a build with the address sanitizer, which then is the one that is used; the tests' names say which it was. Loads
that reach ONNX Runtime run its own code too, unsanitized.
"""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import hostile_bundles
import hostile_json
import hostile_texts
import numpy as np
import pytest
from native_bundles import manifest_file, seal

from allrounder import errors
from allrounder.golden import GOLDEN
from allrounder.native.c_api import installed_ort
from allrounder.runtime import Runtime

ANSWERS = "answers"
VERSION = "t2-l2"
QUESTION, NEW_TOKENS = "what is it?", 2
SANITIZED = os.environ.get("ALLROUNDER_NATIVE_ASAN_BUILD")
SECONDS = 120  # on a busy machine; who hangs is caught, not who is slow

pytestmark = pytest.mark.parametrize("build", ["address sanitizer" if SANITIZED else "ordinary build"])


@pytest.fixture
def tool(program):
    """The program of the build that is to be used."""
    if not SANITIZED:
        return program("allrounder-native")
    folder = Path(SANITIZED).resolve()
    cache = (folder / "CMakeCache.txt").read_text()
    settings = [line for line in cache.splitlines() if line.startswith("ALLROUNDER_SANITIZE:")]
    assert "address" in settings[0], f"{SANITIZED} was configured without the address sanitizer"
    return folder / "tools/allrounder-native"


@pytest.fixture
def ask(tool, tmp_path):
    """Returns what the program makes of a bundle: "answers", the name of its error, or what else became of it."""
    np.zeros((4, 4, 3), np.uint8).tofile(tmp_path / "image")
    image = {"type": "image", "image": {"raw": str(tmp_path / "image"), "size": "4x4"}}
    messages = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
    line = json.dumps({"messages": messages, "max_new_tokens": NEW_TOKENS}) + "\n"
    environment = {
        "XDG_CACHE_HOME": str(tmp_path / "cache of the program"),
        "ALLROUNDER_ORT_LIBRARY": str(installed_ort()),
        "ASAN_OPTIONS": "exitcode=99:detect_leaks=0",
        "UBSAN_OPTIONS": "exitcode=99:print_stacktrace=1",
    }

    def ask(bundle):
        command = [str(tool), "ask", str(bundle), "--version", VERSION, "--threads", "1"]
        try:
            done = subprocess.run(
                command, input=line.encode(), capture_output=True, env=environment, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return "hangs"
        told = done.stderr.decode(errors="replace")
        if done.returncode not in (0, 1) or "Sanitizer" in told or "runtime error" in told:
            return f"exit {done.returncode}: {told[-1500:]}"
        if done.returncode:
            names = [line.split(":")[0] for line in told.splitlines()]  # of a message, or of what ONNX Runtime tells
            return next((name for name in reversed(names) if hasattr(errors, name)), told[-1500:])
        answer = json.loads(done.stdout)
        return answer["error"]["name"] if "error" in answer else ANSWERS

    return ask


def python(bundle):
    """Returns what Python makes of the same bundle."""
    rgb = np.zeros((4, 4, 3), np.uint8)
    try:
        with Runtime.load(bundle, version=VERSION, threads=1) as runtime:
            runtime.generate(rgb, QUESTION, max_new_tokens=NEW_TOKENS)
    except errors.AllRounderError as error:
        return type(error).__name__
    return ANSWERS


@pytest.fixture
def damaged(small_bundle, tmp_path):
    """Makes a copy of the bundle with one damage, each in a folder of its own."""
    numbers = count()

    def make(damage):
        place = tmp_path / f"case {next(numbers)}" / "bundle"
        place.parent.mkdir()
        shutil.copytree(small_bundle, place)
        damage(place)
        return place

    return make


@pytest.fixture
def differences(damaged, ask):
    """Returns where C++ and Python part, of named damages; ``also`` are names that C++ may give besides."""

    def compare(damages, also=()):
        damages = dict(damages)
        places = {name: damaged(damage) for name, damage in damages.items()}
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(places, pool.map(ask, places.values()), strict=True))
        assert len(found) > 5
        wanted = {name: python(place) for name, place in places.items()}
        return {
            name: (outcome, wanted[name])
            for name, outcome in found.items()
            if outcome != wanted[name] and not (outcome in also and hasattr(errors, outcome))
        }

    return compare


def test_a_good_bundle_answers(small_bundle, ask, build):
    assert ask(small_bundle) == ANSWERS


def test_damaged_files(small_bundle, differences, build):
    assert differences(hostile_bundles.in_files(small_bundle)) == {}


def test_changed_bytes_that_nobody_hashes_here(small_bundle, damaged, ask, build):
    """`allrounder verify` and Python's first load find them; here what they do is an answer, or an error of ours."""
    damages = dict(hostile_bundles.in_listed_bytes(small_bundle))
    assert len(damages) > 15
    found = {name: ask(damaged(damage)) for name, damage in damages.items()}
    assert set(found.values()) <= {ANSWERS, "BackendError", "BundleCorrupt", "EngineUnavailable"}, found


def test_what_lies_beside_the_files(differences, build):
    assert differences(hostile_bundles.beside_files()) == {}


def test_texts_that_are_no_manifest(small_bundle, differences, build):
    texts = hostile_json.manifests(manifest_file(small_bundle).read_bytes())
    assert differences({name: partial(seal, data=data) for name, data in texts.items()}) == {}


def test_manifests_that_say_what_cannot_be(differences, build):
    assert differences(hostile_bundles.in_manifest()) == {}


def test_literals_that_are_not_the_template_s(damaged, ask, build):
    """C++ reads them, and Python the template: golden prompts tell most of them, and what is refused has a name."""
    found = {name: ask(damaged(damage)) for name, damage in hostile_texts.in_literals().items()}
    assert set(found.values()) <= {ANSWERS, "BundleCorrupt", "InputInvalid", "PromptTooLong"}, found
    assert found["none"] == "InputInvalid"


def test_mutated_manifests(small_bundle, differences, build):
    mutated = enumerate(hostile_json.mutations(manifest_file(small_bundle).read_bytes(), 120, seed=4))
    damages = {f"{number}: {data!r}": partial(seal, data=data) for number, data in mutated}
    assert differences(damages, also=("BundleCorrupt",)) == {}, "C++ reads the chat's literals, Python its template"


def test_tokenizers(differences, build):
    """C++ refuses families that it does not speak, where the library that Python uses may."""
    assert differences(hostile_texts.in_tokenizer(), also=("EngineUnavailable", "BundleCorrupt")) == {}


def test_golden_prompts(small_bundle, differences, build):
    assert differences(hostile_texts.in_golden((small_bundle / GOLDEN).read_bytes())) == {}


def test_graphs_and_weights(small_bundle, differences, build):
    assert differences(hostile_bundles.in_graphs(small_bundle)) == {}


def test_graphs_with_other_bytes(small_bundle, damaged, ask, build):
    """What ONNX Runtime makes of them is its own affair, but it is an error of ours, or an answer."""
    found = {name: ask(damaged(damage)) for name, damage in hostile_bundles.flipped_graphs(small_bundle, 40, seed=2)}
    assert set(found.values()) <= {ANSWERS, "BackendError", "BundleCorrupt", "EngineUnavailable"}, found
