"""Plans: which flows can be frozen, and what of them a graph depends on."""

import pytest

from allrounder.errors import InvalidBudget
from allrounder.export.decode import decode_graph
from allrounder.export.flow import make_plan
from allrounder.export.prefill import prefill_graph
from allrounder.export.weights import host_tensors, lay_out
from allrounder.export.writer import content_name, serialized
from allrounder.hosts.checkpoint import Checkpoint
from allrounder.hosts.random import write_random_checkpoint
from allrounder.versions import Budget


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    checkpoint = Checkpoint(write_random_checkpoint(tmp_path_factory.mktemp("host"), "llama-gqa-tied"))
    layout = lay_out("host", "fp32", "digest", host_tensors(checkpoint.spec), checkpoint.shape)
    return checkpoint.spec, layout.tensors


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 1, 1), (1, 0, 2), (0, 1, 5), (0, 1, -1), (0, 2, 3), ()], ids=repr)
def test_plans_that_do_not_fit_are_refused(host, kept):
    with pytest.raises(InvalidBudget):
        make_plan(host[0], Budget(4, 3), 2, kept)


@pytest.mark.parametrize(("tokens", "layers", "gather_layer"), [(0, 3, 2), (17, 3, 2), (4, 1, 2), (4, 6, 2), (4, 3, 5)])
def test_impossible_budgets_are_refused(host, tokens, layers, gather_layer):
    with pytest.raises(InvalidBudget):
        make_plan(host[0], Budget(tokens, layers), gather_layer, None)


def test_routed_decode_graphs_are_shared_between_versions(host):
    spec, weights = host

    def decode(tokens, layers, gather_layer=2):
        return serialized(decode_graph(make_plan(spec, Budget(tokens, layers), gather_layer, None), weights, 1))

    assert decode(4, 3) == decode(8, 4) == decode(1, 2)
    assert decode(4, 3) != decode(4, 3, gather_layer=1)
    assert decode(4, 3) != decode(spec.visual_tokens, 3)  # without a second clock


def test_graphs_are_named_by_what_they_contain(host):
    spec, weights = host
    first, again, other = (
        serialized(prefill_graph(make_plan(spec, Budget(tokens, 3), 2, None), weights, 1)) for tokens in (4, 4, 5)
    )
    assert first == again
    assert content_name("prefill", first) == content_name("prefill", again) != content_name("prefill", other)


def test_a_frozen_graph_holds_the_planned_layers_only(host):
    spec, weights = host
    plan = make_plan(spec, Budget(4, 3), 1, (0, 2, 4))
    for model in (prefill_graph(plan, weights, 1), decode_graph(plan, weights, 1)):
        assert sum(node.op_type == "Attention" for node in model.graph.node) == 3
        assert "If" not in {node.op_type for node in model.graph.node}
        names = [tensor.name for tensor in model.graph.initializer]
        assert {name.split(".")[2] for name in names if name.startswith("decoder.layers.")} == {"0", "2", "4"}


def test_an_unpruned_version_has_no_scores_and_no_second_clock(host):
    spec, weights = host
    depth = spec.decoder.layers
    plan = make_plan(spec, Budget(spec.visual_tokens, depth), 2, tuple(range(depth)))
    prefill, decode = prefill_graph(plan, weights, 1), decode_graph(plan, weights, 1)
    assert [value.name for value in prefill.graph.input] == [
        "prefix_ids",
        "visual",
        "suffix_ids",
        "suffix_lengths",
        "room",
    ]
    assert "keep" not in [value.name for value in prefill.graph.output]
    assert [value.name for value in decode.graph.input][:2] == ["input_ids", "positions"]
    assert "slots" not in [value.name for value in decode.graph.input]
    assert not prefill.functions


def test_a_tied_head_is_the_embedding_table(host):
    spec, weights = host
    plan = make_plan(spec, Budget(4, 3), 2, None)
    model = prefill_graph(plan, weights, 1)
    (head,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert head.input[1] == "decoder.embed_tokens.weight"
    assert "decoder.lm_head.weight" not in weights
