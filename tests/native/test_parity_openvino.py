"""C++ and Python through OpenVINO, token for token, on engines of the demo bundle's decisions."""

import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from demo_conversations import COUNT, conversations
from native_bundles import facts, latency, manifest_file, variant

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.openvino.session import fingerprint
from allrounder.engines.options import EngineOptions
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import Manifest
from allrounder.native.client import NativeRuntime
from allrounder.runtime import Runtime

pytestmark = pytest.mark.usefixtures("native_library")

MODELS = Path(__file__).parents[2] / "models"
FEW = 6  # of images 0 to 3, and turns 1 and 2
NEW_TOKENS = 8
ENGINES = [
    ("fp32", "par-lite"),
    *(
        pytest.param(*each, marks=pytest.mark.slow)
        for each in (("fp32", "full"), ("fp32", "par-nano"), ("bf16", "par-lite"))
    ),
]


@pytest.fixture(scope="module")
def built(demo_bundle, once):
    """Finds a bundle of one engine, by precision and version; none was measured."""
    manifest = msgspec.json.decode(manifest_file(demo_bundle).read_bytes(), type=Manifest)
    prunings = {entry.version: entry.pruning for entry in manifest.entries}

    def get(precision, version):
        def make(folder):
            options = FreezeOptions(precision, manifest.limits)
            freezer = Freezer(MODELS / "demo", MODELS / "demo-router", folder / "frozen", options)
            freezer.shared()
            freezer.add(prunings[version])
            freezer.finish()
            with Staging(folder / "bundle") as staging:
                backend("openvino").build(folder / "frozen", staging, BuildOptions())
                publish(staging)

        return once(f"openvino-{precision}-{version}", make) / "bundle"

    return get


def asked(runtime, many):
    return [facts(runtime.chat(each, max_new_tokens=NEW_TOKENS)) for each in many]


def both(bundle, count):
    """What Python says, and C++, from the same library with the same threads."""
    many = conversations(count)
    with Runtime.load(bundle, threads=1) as runtime:
        wanted = asked(runtime, many)
    with NativeRuntime(bundle, threads=1) as runtime:
        together = runtime.generate_batch([{"messages": each, "max_new_tokens": NEW_TOKENS} for each in many[:8]])
        return wanted, asked(runtime, many), [facts(answer) for answer in together]


@pytest.mark.parametrize(("precision", "version"), ENGINES)
def test_a_few_conversations(built, precision, version):
    wanted, found, together = both(built(precision, version), FEW)
    assert found == wanted
    assert [each["token_ids"] for each in together] == [each["token_ids"] for each in wanted[: len(together)]]
    assert len({each["text"] for each in found}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("version", ["full", "par-lite", "par-nano"])
def test_fifty_conversations(built, version):
    wanted, found, _ = both(built("fp32", version), COUNT)
    assert found == wanted


def test_the_machine_is_the_same_in_both(built):
    """Seen by the choice: an engine whose latency Python recorded on this machine meets a target."""
    bundle = built("fp32", "par-lite")
    here = latency(fingerprint(EngineOptions(threads=1)), 5, 1)
    known = variant(bundle, bundle.parent / "known", lambda entry: msgspec.structs.replace(entry, latency=here))
    with NativeRuntime(known, ttft_ms=10, threads=1) as runtime:
        assert runtime.version == "par-lite"


def test_where_there_is_no_library_the_error_says_how_to_get_it(built, program):
    environment = os.environ | {"ALLROUNDER_OPENVINO_LIBRARY": "/nowhere/libopenvino_c.so"}
    command = [str(program("allrounder-native")), "ask", str(built("fp32", "par-lite"))]
    said = subprocess.run(command, env=environment, input="", capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "runs none of the bundle's engines" in said.stderr
    assert "/nowhere/libopenvino_c.so" in said.stderr
    assert "pip install openvino" in said.stderr
