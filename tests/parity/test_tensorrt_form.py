"""What TensorRT's parser is given computes what the frozen graphs compute: both run in ONNX Runtime on the CPU."""

import msgspec
import numpy as np
import onnx
import pytest
from prunings import pruning

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.tensorrt.form import dynamic_inputs, parsed_form, static_form
from allrounder.engines.tensorrt.profiles import extents
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.gather import TOKEN_GATHER
from allrounder.golden import GOLDEN, decode_golden
from allrounder.runtime.engine import Engine
from allrounder.versions import resolve

KEPT = (0, 1, 2, 4, 5, 7)


@pytest.fixture(scope="module")
def staged(tiny, tmp_path_factory):
    """An opened bundle of full, and par-lite with K = 2 and K = 0, all static."""
    folder = tmp_path_factory.mktemp("forms")
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    lite, full = (resolve(name, tokens=16, layers=8) for name in ("par-lite", "full"))
    freezer.add(pruning(full, 0, tuple(range(8)), "full"))
    freezer.add(pruning(lite, 2, KEPT, "par-lite"))
    freezer.add(pruning(lite, 0, KEPT, "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        yield open_bundle(staging.path)


def sizes(bundle, entry):
    prompts = decode_golden((bundle.path / GOLDEN).read_bytes())
    return extents(entry, bundle.manifest, len(prompts[0].prefix_ids))


def graph_paths(entry):
    """The graphs that become plans; images are prepared by ONNX Runtime."""
    paths = msgspec.structs.asdict(entry.graphs)
    return {name: path for name, path in paths.items() if path and name != "preprocess"}


def static_entry(bundle, entry):
    """The same entry with its graphs in the static form, which are written beside the others."""
    paths = {}
    for name, path in graph_paths(entry).items():
        form = static_form(onnx.load(bundle.path / path, load_external_data=False), sizes(bundle, entry))
        paths[name] = path.replace(".onnx", f".{entry.version}-{entry.pruning.prune_layer}.static.onnx")
        (bundle.path / paths[name]).write_bytes(form.SerializeToString())
    return msgspec.structs.replace(entry, graphs=msgspec.structs.replace(entry.graphs, **paths))


@pytest.mark.parametrize("which", range(3))
def test_static_forms_answer_as_the_frozen_graphs_do(staged, which):
    entry = staged.manifest.entries[which]
    rgb = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    for question in ("what is it?", "where is the red one, and how many of them are there on the left?"):
        results = []
        for each in (entry, static_entry(staged, entry)):
            engine = Engine.open(staged, each)
            prompt, image_embeds = engine.prompt(question), engine.embed_image(rgb)
            state = engine.prefill(prompt, image_embeds, engine.route(prompt, image_embeds), free_slots=9)
            steps = [engine.decode(state, ids) for ids in ([5], [3, 9, 7], [11], [2, 4, 6, 8])]
            results.append((state.keep_indices, np.concatenate([state.logits, *(step[0] for step in steps)])))
        (keep, frozen), (other, static) = results
        assert keep == other
        assert np.abs(frozen - static).max() <= 1e-5 * frozen.std()


def test_what_the_parser_is_given_is_the_static_form_but_for_one_permission(staged):
    for entry in staged.manifest.entries:
        for path in graph_paths(entry).values():
            model = onnx.load(staged.path / path, load_external_data=False)
            parsed = parsed_form(model, sizes(staged, entry))
            for node in parsed.graph.node:
                names = [attribute.name for attribute in node.attribute]
                assert ("TRT_decomposable" in names) == (node.op_type == "Attention")
                del node.attribute[names.index("TRT_decomposable") if "TRT_decomposable" in names else len(names) :]
            assert parsed == static_form(model, sizes(staged, entry))


def test_the_parser_meets_none_of_what_it_reads_wrongly(staged):
    """No lengths, which it ignores; no mask beside causality; caches are inputs of static size, and outputs."""
    seen = set()
    for entry in staged.manifest.entries:
        for path in graph_paths(entry).values():
            graph = parsed_form(onnx.load(staged.path / path, load_external_data=False), sizes(staged, entry)).graph
            inputs = {value.name: value for value in graph.input}
            outputs = {value.name for value in graph.output}
            for node in graph.node:
                seen.add(node.op_type)
                attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
                if node.op_type == "Attention":
                    assert len(node.input) <= 4
                    assert not (len(node.input) == 4 and attributes.get("is_causal"))
                if node.op_type == "TensorScatter":
                    cache = inputs[node.input[0]].type.tensor_type.shape.dim
                    assert all(dim.dim_value > 0 for dim in cache)
                    assert node.output[0] in outputs
    assert {"Attention", "TensorScatter", TOKEN_GATHER.name} <= seen
    assert "If" not in seen


def test_only_the_number_of_text_tokens_stays_open(staged):
    for entry in staged.manifest.entries:
        opened = {
            kind: dynamic_inputs(
                static_form(onnx.load(staged.path / path, load_external_data=False), sizes(staged, entry))
            )
            for kind, path in graph_paths(entry).items()
        }
        assert opened["vision"] == {}
        assert opened["prefill"] == {"suffix_ids": [1, "S"]}
        assert opened["decode"] == {"input_ids": [1, "S"]}
        if "router" in opened:
            assert opened["router"] == {"suffix_ids": [1, "S"]}


def test_a_plugin_finds_the_gather(staged):
    (entry,) = (each for each in staged.manifest.entries if each.pruning.prune_layer == 2)
    model = onnx.load(staged.path / entry.graphs.prefill, load_external_data=False)
    form = parsed_form(model, sizes(staged, entry))
    (node,) = (each for each in form.graph.node if each.op_type == TOKEN_GATHER.name)
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert node.domain == TOKEN_GATHER.domain
    assert attributes == {"k": 4, "plugin_namespace": b"allrounder", "plugin_version": b"1"}
    assert [function.name for function in form.functions] == [TOKEN_GATHER.name]
