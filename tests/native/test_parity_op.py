"""The native gather op in Python's runtime, with its library: the same file, with the op and without, gives the same.

Without the library: tests/runtime/test_native_op.py.
"""

import json
import logging
import subprocess
import sys

import msgspec
import native_bundles
import numpy as np
import onnx
import onnxruntime
import pytest

from allrounder import build_engine
from allrounder.chat.messages import question
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.onnxruntime import session as onnxruntime_backend
from allrounder.gather import TOKEN_GATHER
from allrounder.runtime import Runtime
from allrounder.runtime.engine import EngineOptions, open_engines

GATHERING = ("par-lite", "par-nano")
ONE = EngineOptions(threads=1)


@pytest.fixture(scope="module")
def op_library(program):
    """The built library of ONNX Runtime ops."""
    return program("liballrounder_ort_ops.so")


@pytest.fixture
def with_op(op_library, monkeypatch):
    """Makes `allrounder.native` find the library."""
    monkeypatch.setenv("ALLROUNDER_NATIVE_LIBRARY_DIR", str(op_library.parent))
    onnxruntime_backend._log_once.cache_clear()


@pytest.fixture(scope="module")
def asking(demo_bundle, tmp_path_factory):
    """The demo bundle, its pruned entries asking for the op."""
    folder = tmp_path_factory.mktemp("asking") / "bundle"
    return native_bundles.variant(
        demo_bundle, folder, lambda entry: msgspec.structs.replace(entry, native_op=entry.version in GATHERING)
    )


def engines(place):
    bundle = open_bundle(place)
    entries = [entry for entry in bundle.manifest.entries if entry.version in GATHERING]
    return open_engines(bundle, entries, ONE)


def test_the_op_changes_no_bit(demo_bundle, asking, with_op):
    plain, native = engines(demo_bundle), engines(asking)
    rgb = [np.asarray(example.image) for example in examples(Split.TEST, 4)]
    for images in (0, 1, 2):
        for one, other in zip(plain, native, strict=True):
            layout = one.layout(question("what is it?", images))
            wanted, found = (e.start(e.prepare(rgb[:images]), layout, free_slots=4) for e in (one, other))
            np.testing.assert_array_equal(found.logits, wanted.logits)
            assert (found.keep_indices, found.kept_layers) == (wanted.keep_indices, wanted.kept_layers)
            np.testing.assert_array_equal(other.decode(found, [7]), one.decode(wanted, [7]))


def test_ties_and_scores_that_are_no_numbers(demo_bundle, asking, with_op):
    plain, native = engines(demo_bundle), engines(asking)
    rgb = np.asarray(next(examples(Split.TEST, 1)).image)
    for one, other in zip(plain, native, strict=True):
        layout, image_embeds = one.layout(question("what is it?")), one.embed_image(rgb)
        scores = one.route(layout, image_embeds)
        rows = np.random.default_rng(5).integers(0, 4, (6, layout.image_tokens)).astype(np.float32)  # full of ties
        rows[1, ::3], rows[2, 100:] = np.nan, np.nan
        rows[3, ::2], rows[4, :500], rows[5] = np.inf, -np.inf, np.nan
        for row in rows:
            wanted, found = (
                e.prefill(layout, image_embeds, scores._replace(token_scores=row), free_slots=0) for e in (one, other)
            )
            assert found.keep_indices == wanted.keep_indices
            np.testing.assert_array_equal(found.logits, wanted.logits)


@pytest.mark.parametrize("registered", [False, True])
def test_the_op_takes_the_place_of_the_function(asking, op_library, tmp_path, registered):
    """Seen in the graph that ONNX Runtime made of the file."""
    entry = next(entry for entry in open_bundle(asking).manifest.entries if entry.version == "par-nano")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    if registered:
        options.register_custom_ops_library(str(op_library))
    onnxruntime.InferenceSession(asking / entry.graphs.decoder, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
    ours = [node for node in nodes if (node.domain, node.op_type) == (TOKEN_GATHER.domain, TOKEN_GATHER.name)]
    assert (len(ours), "IsNaN" in {node.op_type for node in nodes}) == ((1, False) if registered else (0, True))


@pytest.mark.parametrize("version", ["full", *GATHERING])
def test_the_library_is_loaded_for_entries_that_ask_and_no_others(asking, op_library, version):
    code = (
        "import sys, numpy; from pathlib import Path; from allrounder.runtime import Runtime\n"
        "rgb = numpy.zeros((5, 5, 3), numpy.uint8)\n"
        "with Runtime.load(sys.argv[1], version=sys.argv[2], threads=1) as runtime:\n"
        "    runtime.generate(rgb, 'what?', max_new_tokens=2)\n"
        "    print(sys.argv[3] in Path('/proc/self/maps').read_text())\n"
    )
    command = [sys.executable, "-c", code, str(asking), version, str(op_library)]
    environment = {"ALLROUNDER_NATIVE_LIBRARY_DIR": str(op_library.parent), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(version != "full")


def test_the_log_says_once_where_the_op_is_from(asking, op_library, with_op, caplog):
    with caplog.at_level(logging.INFO, logger="allrounder.runtime"):
        for version in GATHERING:
            Runtime.load(asking, version=version, threads=1).close()
    told = [record.message for record in caplog.records if "native gather op" in record.message]
    assert told == [f"the native gather op is taken from {op_library}"]


def test_build_with_the_op_measures_with_the_op(tiny, tmp_path, op_library, with_op, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="allrounder.runtime"):
        code = build_engine.main(tiny.arguments(tmp_path / "b", "--version", "full,par-lite", "--native-op"))
    out, told = capsys.readouterr()
    assert code == 0
    assert "not installed" not in told
    assert f"taken from {op_library}" in caplog.text
    report = json.loads(out.splitlines()[-1])
    assert [entry["native_op"] for entry in report["entries"]] == [False, True]
    assert {"fidelity", "latency"} <= report["phases"].keys()
