"""What TensorRT's parser is given computes what the frozen graphs compute: both run in ONNX Runtime on the CPU."""

from fractions import Fraction

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from prunings import pruning

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.tensorrt.form import TOKENS_TO_KEEP, dynamic_inputs, parsed_form, static_form
from allrounder.engines.tensorrt.profiles import extents, profiles
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.gather import TOKEN_GATHER
from allrounder.layout import keep_counts
from allrounder.runtime.engine import Engine, layout_feeds
from allrounder.versions import EVERYTHING

KEPT = (0, 1, 2, 4, 5, 7)


@pytest.fixture(scope="module")
def staged(tiny, tmp_path_factory):
    """An opened bundle of full, and par-lite with K = 2 and K = 0, all static."""
    folder = tmp_path_factory.mktemp("forms")
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    freezer.add(pruning((EVERYTHING, 8), 0, tuple(range(8)), "full"))
    for prune_layer in (2, 0):
        freezer.add(pruning((Fraction(1, 4), 6), prune_layer, KEPT, "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        yield open_bundle(staging.path)


def sizes(bundle, entry, kind):
    return extents(entry, bundle.manifest) if kind == "decoder" else {}


def graph_paths(entry):
    """The graphs that become plans."""
    paths = msgspec.structs.asdict(entry.graphs)
    return {name: path for name, path in paths.items() if path}


def forms(bundle, entry, make):
    """Each graph's kind, and its form."""
    for kind, path in graph_paths(entry).items():
        yield kind, make(onnx.load(bundle.path / path, load_external_data=False), sizes(bundle, entry, kind))


def feeds_of(engine, images, keep):
    """What a prompt's decoder graph is given, but for caches."""
    layout = engine.layout(question("what is it?", images))
    generator = np.random.default_rng(images)
    prepared = engine.prepare([generator.integers(0, 256, (56, 56, 3), np.uint8) for _ in range(images)])
    scores = engine.route(layout, embeds := engine.embed(prepared))
    return {
        **layout_feeds(layout),
        "image_embeds": embeds.numpy(),
        "token_scores": scores.token_scores if scores else np.zeros(0, np.float32),
        "keep_counts": np.array(keep_counts(layout, keep), np.int64),
        "slots": np.zeros(1, np.int64),
        "kept_slots": np.zeros(1, np.int64),
        "logits_to_keep": np.ones(1, np.int64),
    }


def step_of(first, kept_first, rows, count):
    """The same of new tokens."""
    none = np.zeros(0, np.int64)
    return {
        "input_ids": np.array([range(3, 3 + count)], np.int64),
        "image_embeds": np.zeros((0, 32), np.float32),
        **dict.fromkeys(("image_index", "image_of", "keep_counts"), none),
        "position_ids": np.arange(rows, rows + count)[None, None],
        "token_scores": np.zeros(0, np.float32),
        "slots": np.array([first]),
        "kept_slots": np.array([kept_first]),
        "logits_to_keep": np.array([count]),
    }


def run(session, feeds, caches):
    names = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    results = dict(zip(outputs, session.run(None, {name: (feeds | caches)[name] for name in names}), strict=True))
    grown = {name.replace("_out.", "."): value for name, value in results.items() if "_out." in name}
    return {name: value for name, value in results.items() if "_out." not in name}, grown


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("images", [0, 1, 2])
def test_static_forms_compute_what_the_frozen_graphs_compute(staged, which, images):
    """Prompts of any number of images and keep rules, then one new token and several, in caches of full capacity."""
    entry = staged.manifest.entries[which]
    path = staged.path / entry.graphs.decoder
    form = static_form(onnx.load(path, load_external_data=False), sizes(staged, entry, "decoder"))
    written = path.with_suffix(f".{which}.static.onnx")
    written.write_bytes(form.SerializeToString())
    frozen, static = (onnxruntime.InferenceSession(each) for each in (path, written))
    empty = {
        each.name: np.zeros(each.shape, np.float32) for each in static.get_inputs() if each.name.startswith("cache_")
    }
    engine = Engine.open(staged, entry)
    for keep in (Fraction(1, 4), Fraction(1, 16), 3) if entry.pruning.prunes else (EVERYTHING,):
        feeds, caches, other = feeds_of(engine, images, keep), empty, empty
        rows, tokens, kept = feeds["input_ids"].shape[1], 16 * images, int(feeds["keep_counts"].sum())
        below, beyond = rows, rows - tokens + kept
        for count in (0, 1, 3):  # the prompt, then new tokens
            feeds = step_of(below, beyond, rows, count) if count else feeds
            if count:
                below, beyond, rows = below + count, beyond + count, rows + count
            wanted, caches = run(frozen, feeds, caches)
            lengths = {"logits_to_keep": feeds["logits_to_keep"], TOKENS_TO_KEEP: feeds["keep_counts"]}
            sized = {name: np.zeros(int(value.sum()), np.int64) for name, value in lengths.items()}
            got, other = run(static, feeds | sized, other)
            assert got.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5, err_msg=name)
            for name, value in caches.items():
                np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_a_routers_attention_becomes_whole_and_computes_the_same(staged):
    entry = next(each for each in staged.manifest.entries if each.graphs.router)
    path = staged.path / entry.graphs.router
    frozen = onnx.load(path, load_external_data=False)
    form = static_form(frozen, {})
    count = [sum(node.op_type == "Attention" for node in model.graph.node) for model in (frozen, form)]
    layers = len({node.input[1] for node in frozen.graph.node if node.op_type == "Attention"})
    assert count[0] > count[1] == layers
    written = path.with_suffix(".whole.onnx")
    written.write_bytes(form.SerializeToString())
    feeds = feeds_of(Engine.open(staged, entry), 2, Fraction(1, 4))
    sessions = [onnxruntime.InferenceSession(each) for each in (path, written)]
    first, second = (
        session.run(None, {each.name: feeds[each.name] for each in session.get_inputs()}) for session in sessions
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_what_the_parser_is_given_is_the_static_form_but_for_one_permission(staged):
    for entry in staged.manifest.entries:
        for (_, parsed), (_, static) in zip(
            forms(staged, entry, parsed_form), forms(staged, entry, static_form), strict=True
        ):
            for node in parsed.graph.node:
                names = [attribute.name for attribute in node.attribute]
                assert ("TRT_decomposable" in names) == (node.op_type == "Attention")
                del node.attribute[names.index("TRT_decomposable") if "TRT_decomposable" in names else len(names) :]
            assert parsed == static


def test_the_parser_meets_none_of_what_it_reads_wrongly(staged):
    """No lengths, which it ignores; no mask beside causality; caches of static size, in and out; no size by values."""
    seen = set()
    for entry in staged.manifest.entries:
        for _, form in forms(staged, entry, parsed_form):
            graph = form.graph
            inputs = {value.name: value for value in graph.input}
            outputs = {value.name for value in graph.output}
            seen |= {node.op_type for function in form.functions for node in function.node}
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
    assert not {"If", "NonZero"} & seen


def test_every_extent_that_stays_open_has_its_range_in_every_profile(staged):
    for entry in staged.manifest.entries:
        for kind, form in forms(staged, entry, static_form):
            opened = {extent for shape in dynamic_inputs(form).values() for extent in shape if isinstance(extent, str)}
            assert (
                opened
                == {
                    "vision": {"tiles"},
                    "router": {"S", "N"},
                    "decoder": {"S", "N", "Q", *("IT" if entry.pruning.prunes else "")},
                }[kind]
            )
            for spans in profiles(kind, entry, staged.manifest):
                assert opened <= spans.keys()
                assert all(0 <= span.least <= span.usual <= span.most for span in spans.values())


def test_a_plugin_finds_the_gather(staged):
    (entry,) = (each for each in staged.manifest.entries if each.pruning.prune_layer == 2)
    form = dict(forms(staged, entry, parsed_form))["decoder"]
    (node,) = (each for each in form.graph.node if each.op_type == TOKEN_GATHER.name)
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    assert node.domain == TOKEN_GATHER.domain
    assert attributes == {"plugin_namespace": b"allrounder", "plugin_version": b"1"}
    (function,) = form.functions
    assert len(node.input) == len(function.input) == len(TOKEN_GATHER.inputs) + 1
    assert node.input[-1] == TOKENS_TO_KEEP
