"""Batches on real frozen graphs, ONNX Runtime's and OpenVINO's: each request answers as it does alone."""

import pytest
from batches import requests_of, scheduled, told

from allrounder.commands.pipeline.random_model import build_shape
from allrounder.progress import silent
from allrounder.runtime import Engine, EngineOptions, Runtime

ENTRIES = [
    (version, backend, policy)
    for version, policy in (("full", "static"), ("par-lite", "static"), ("par-lite", "dynamic"))
    for backend in ("onnxruntime", "openvino")
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder, backends = tmp_path_factory.mktemp("batches"), ("onnxruntime", "openvino")
    return build_shape("llama-gqa-tied", folder, ["full", "par-lite"], silent, ("static", "dynamic"), backends)


@pytest.fixture(scope="module", params=ENTRIES, ids="-".join)
def runtime(bundle, request):
    entries = {(each.version, each.backend, each.pruning.layer_policy): each for each in bundle.manifest.entries}
    with Runtime(Engine.open(bundle, entries[request.param], EngineOptions(threads=1))) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def alone(runtime):
    return [told(runtime.chat(**request)) for request in requests_of(runtime)]


@pytest.mark.parametrize("slots", [8, 3])
@pytest.mark.parametrize("joins", [[0] * 8, [0, 0, 3, 4, 4, 9, 12, 30]], ids=["at once", "late"])
def test_requests_answer_as_each_alone(runtime, alone, joins, slots):
    assert [told(answer) for answer in scheduled(runtime, requests_of(runtime), joins, slots)] == alone
    assert len({tokens for _, tokens, *_ in alone}) == len(alone)


def test_a_batch_answers_in_order(runtime, alone):
    assert [told(answer) for answer in runtime.generate_batch(requests_of(runtime))] == alone


def test_layers_that_are_chosen_per_request_run_one_request_at_a_time(runtime):
    dynamic = runtime.entry.pruning.layer_policy == "dynamic"
    assert runtime.scheduler().slots == (1 if dynamic else runtime._door.engine().limits.batch)
