"""Recommendations in a bundle: written, kept while they hold, and gone with what they weighed."""

import msgspec
import pytest

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.fingerprint import Machine
from allrounder.manifest import Estimate, Fidelity, Latency, Percentiles, Recommendation, Workload

POINT = Estimate(mean=1.0, low=1.0, high=1.0)
NANO = Recommendation(version="par-nano", layer_policy="static", why="it is near enough.")
LITE = Recommendation(version="par-lite", layer_policy="dynamic", why="static is worse.")
TIMES = Percentiles(p50=1.0, p95=1.0, p99=1.0)
WORKLOAD = Workload(text_tokens=1, new_tokens=1, batch=1, threads=1, image_size=14)
MACHINE = Machine(cpu="", cores=1, threads=1, backend="", gpu="", driver="")


def fidelity(dataset):
    return Fidelity(retention=None, agreement=POINT, kl=POINT, questions=4, dataset=dataset, quick=True)


def entry_of(bundle, version):
    return next(entry for entry in open_bundle(bundle).manifest.entries if entry.version == version)


@pytest.fixture
def advised(bundle):
    """A bundle with recommendations for both versions."""
    with Staging(bundle) as staging:
        staging.set_recommendations([LITE, NANO])
        publish(staging)
    return bundle


def test_recommendations_are_published_and_replace_those_of_their_version(advised):
    assert open_bundle(advised).manifest.recommendations == (LITE, NANO)
    other = msgspec.structs.replace(LITE, layer_policy="static")
    with Staging(advised) as staging:
        staging.set_recommendations([other])
        publish(staging)
    assert open_bundle(advised).manifest.recommendations == (NANO, other)


def test_another_latency_leaves_them(advised):
    entry = entry_of(advised, "par-lite")
    with Staging(advised) as staging:
        latency = Latency(ttft_ms=TIMES, tpot_ms=TIMES, machine=MACHINE, workload=WORKLOAD)
        staging.set_figures({entry.key: (entry.fidelity, latency)})
        publish(staging)
    assert open_bundle(advised).manifest.recommendations == (LITE, NANO)


def test_another_fidelity_takes_the_versions_own_away(advised):
    entry = entry_of(advised, "par-lite")
    with Staging(advised) as staging:
        staging.set_figures({entry.key: (fidelity("another"), entry.latency)})
        publish(staging)
    assert open_bundle(advised).manifest.recommendations == (NANO,)


def test_another_entry_of_the_version_takes_it_away(advised, freeze):
    with Staging(advised) as staging:
        backend("onnxruntime").build(freeze("par-lite", policy="static"), staging, BuildOptions())
        publish(staging)
    assert open_bundle(advised).manifest.recommendations == (NANO,)


def test_building_again_what_is_there_leaves_them(advised, freeze):
    with Staging(advised) as staging:
        backend("onnxruntime").build(freeze("par-lite"), staging, BuildOptions())
        publish(staging)
    assert open_bundle(advised).manifest.recommendations == (LITE, NANO)
