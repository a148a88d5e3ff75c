"""The stopwatch: interleaved, warmed up, of the workload's size."""

from types import SimpleNamespace

import fake_bundle
import msgspec
import numpy as np
import pytest
from image_plans import fixed_plan

from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import InputInvalid
from allrounder.images.plan import Canvases, Fixed, LongestEdge
from allrounder.images.planning import plan_images
from allrounder.layout import sequential_layout
from allrounder.runtime.engine import Engine, EngineOptions, open_engines
from allrounder.runtime.measure import (
    Samples,
    default_workload,
    make_request,
    measure_latency,
    sample_latency,
    summarise,
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    bundle = open_bundle(fake_bundle.write_bundle(tmp_path_factory.mktemp("measure") / "bundle"))
    return open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))


def test_the_workload_is_within_the_limits(engines):
    workload = default_workload(engines[0])
    assert (workload.text_tokens, workload.new_tokens, workload.batch, workload.threads) == (64, 16, 1, 1)
    small = default_workload(engines[0], text_tokens=9, new_tokens=3)
    assert (small.text_tokens, small.new_tokens) == (9, 3)


class TilesEngine:
    """The side of an engine that a request is made with, of a model of tiles: 9 tokens each, marks of two ids."""

    def __init__(self, layout, longest=500, image_tokens=500):
        self.model = SimpleNamespace(
            images=msgspec.structs.replace(fixed_plan(9), layout=layout), max_positions=longest, image_token_id=7
        )
        self.limits = SimpleNamespace(text_tokens=64, new_tokens=16, image_tokens=image_tokens)
        self.options = SimpleNamespace(thread_count=1)

    def ids(self, messages):
        return (1, 2, 7, 3, 4, 5)

    def layout_of(self, ids, images):
        (image,) = images
        block = [id_ for part in image.content for id_ in ([7] * part if isinstance(part, int) else [8, 9])]
        return sequential_layout(ids, 7, [block])


CANVASES = Canvases(canvases=((14, 28), (28, 14), (28, 28)))
EDGE = LongestEdge(edge=42, split=True, around="a", whole="b")


@pytest.mark.parametrize(
    ("engine", "side", "tokens"),
    [
        (TilesEngine(Fixed()), 14, 9),
        (TilesEngine(CANVASES), 28, 9 + 6 * 7),
        (TilesEngine(CANVASES, longest=130), 14, 9 + 3 * 5),  # the larger one does not fit beside the text
        (TilesEngine(CANVASES, image_tokens=50), 14, 9 + 3 * 5),
        (TilesEngine(EDGE), 28, 10 * 9),
    ],
)
def test_the_workloads_image_has_two_by_two_tiles_where_there_are_tiles(engine, side, tokens):
    """And the request as many image tokens as such an image, marks between tiles being text."""
    workload = default_workload(engine)
    assert workload.image_size == side
    request = make_request(engine, workload)
    assert request.rgb.shape == (side, side, 3)
    assert request.layout.image_tokens == tokens
    assert request.layout.text_tokens == workload.text_tokens
    other = make_request(engine, workload, (14, 42))
    assert other.rgb.shape == (14, 42, 3)
    assert other.layout.image_tokens == plan_images(engine.model.images, [(14, 42)])[0].tokens


def test_samples_have_a_row_per_round_and_a_column_per_further_token(engines):
    workload = default_workload(engines[0], new_tokens=5)
    told = []
    samples = sample_latency(engines, workload, repeats=4, progress=lambda *step: told.append(step))
    assert len(samples) == len(engines)
    for sample in samples:
        assert sample.steps.shape == (4, 4)
        assert sample.ttft.shape == (4,)
        phases = sample.preprocess + sample.vision + sample.router + sample.prefill
        assert (phases <= sample.ttft).all()
        np.testing.assert_allclose(sample.tpot, sample.steps.mean(axis=1))
    assert told[-1][1:] == (6, 6)


def test_engines_take_turns_and_the_warm_up_is_not_counted(engines, monkeypatch):
    turns = []
    prepare = Engine.prepare
    monkeypatch.setattr(Engine, "prepare", lambda engine, rgb: turns.append(engine) or prepare(engine, rgb))
    sample_latency(engines, default_workload(engines[0], new_tokens=2), repeats=3)
    assert turns == list(engines) * 5


def test_it_ends_early_when_time_is_up_with_one_round_after_one_that_warms_up(engines, monkeypatch):
    turns = []
    prepare = Engine.prepare
    monkeypatch.setattr(Engine, "prepare", lambda engine, rgb: turns.append(engine) or prepare(engine, rgb))
    workload = default_workload(engines[0], new_tokens=2)
    samples = sample_latency(engines, workload, repeats=10_000, seconds=0.0)
    assert all(len(sample.ttft) == 1 for sample in samples)
    assert turns == list(engines) * 2


def test_figures_are_percentiles_on_this_machine(engines):
    milliseconds = np.arange(1.0, 101.0)
    samples = Samples(*(milliseconds for _ in range(5)), steps=np.stack([milliseconds, milliseconds], axis=1))
    workload = default_workload(engines[0])
    latency = summarise(engines[0], samples, workload)
    assert (latency.ttft_ms.p50, latency.ttft_ms.p95) == (50.5, 95.05)
    assert latency.tpot_ms == latency.ttft_ms
    assert latency.machine == engines[0].machine
    assert latency.machine.threads == 1
    assert latency.workload == workload


def test_latencies_come_in_the_engines_order(engines):
    latencies = measure_latency(engines, default_workload(engines[0], new_tokens=3), repeats=2)
    assert len(latencies) == 2
    assert all(0 < latency.tpot_ms.p50 <= latency.tpot_ms.p99 for latency in latencies)


@pytest.mark.parametrize(
    ("field", "value"), [("text_tokens", 65), ("new_tokens", 33), ("new_tokens", 1), ("batch", 2), ("threads", 4)]
)
def test_impossible_workloads_are_refused(engines, field, value):
    workload = msgspec.structs.replace(default_workload(engines[0]), **{field: value})
    with pytest.raises(InputInvalid, match=field):
        sample_latency(engines, workload)
