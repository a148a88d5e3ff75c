"""Bundles built and published in one go, and what may lie at their place."""

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import POINTER, manifest_name, open_bundle
from allrounder.manifest import Estimate, Fidelity

FIDELITY = Fidelity(
    retention=None,
    agreement=Estimate(mean=0.5, low=0.25, high=0.75),
    kl=Estimate(mean=0.125, low=0.0, high=1.0),
    questions=64,
    dataset="test:0",
    quick=True,
)


def build(place, frozen, **options):
    """Builds and publishes in one go."""
    with Staging(place) as staging:
        backend("onnxruntime").build(frozen, staging, BuildOptions(**options))
        return publish(staging)


def versions(opened):
    return [entry.version for entry in opened.manifest.entries]


def on_disk(place):
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def assert_tidy(place):
    """Nothing lies beside the bundle, and nothing in it that the manifest does not list."""
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    opened = open_bundle(place)
    assert on_disk(place) == {*opened.manifest.files, POINTER, manifest_name(opened.digest)}
    assert all(any(folder.iterdir()) for folder in place.rglob("*") if folder.is_dir())
