"""TensorRT's own plans answer as ONNX Runtime does on the CPU: the test that the stand-ins cannot take the place of."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from prunings import pruning

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.tensorrt.gpus import gpus
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.runtime.engine import Engine
from allrounder.versions import EVERYTHING

pytestmark = pytest.mark.gpu

pytest.importorskip("tensorrt", reason="TensorRT's Python package is not installed")
pytest.importorskip("cuda.bindings.runtime", reason="the package cuda-python is not installed")

# Of the logits' standard deviation; TensorRT adds in an order of its own.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-1}
REFERENCE = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32"}  # of ONNX Runtime, which has no bf16 on a CPU


def _frozen(tiny, folder, precision):
    """Returns a directory with `full` and frozen `par-lite`."""
    freezer = Freezer(tiny.vlm, tiny.router, folder, FreezeOptions(precision), lambda *_: None)
    freezer.shared()
    freezer.add(pruning((EVERYTHING, 8), 0, tuple(range(8)), "full"))
    freezer.add(pruning((Fraction(1, 4), 6), 2, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.finish()
    return folder


@pytest.mark.parametrize("precision", TOLERANCE)
def test_logits_of_any_number_of_images_are_those_of_onnx_runtime(tiny, tmp_path, precision):
    if not gpus():
        pytest.skip("no NVIDIA GPU")
    with Staging(tmp_path / "bundle") as staging:
        for name, wanted in (("onnxruntime", REFERENCE[precision]), ("tensorrt", precision)):
            backend(name).build(_frozen(tiny, tmp_path / name, wanted), staging, BuildOptions())
        publish(staging)
    bundle = open_bundle(tmp_path / "bundle")
    for version, images in product(("full", "par-lite"), (0, 1, 2)):
        rgb = list(np.random.default_rng(images).integers(0, 256, (images, 56, 56, 3), np.uint8))
        results = []
        for name in ("onnxruntime", "tensorrt"):
            (entry,) = (e for e in bundle.manifest.entries if (e.backend, e.version) == (name, version))
            engine = Engine.open(bundle, entry)
            layout, image_embeds = engine.layout(question("what is it?", images)), engine.embed(engine.prepare(rgb))
            # The same scores for both, so that near-ties do not decide.
            scores = results[0][0] if results else engine.route(layout, image_embeds)
            state = engine.prefill(layout, image_embeds, scores, free_slots=9)
            steps = [engine.decode(state, ids)[0] for ids in ([3], [5], [6], [5, 7, 9], [11])]
            results.append((scores, state.keep_indices, np.concatenate([state.logits, *steps])))
        (_, keep, wanted), (_, kept, got) = results
        assert kept == keep
        assert np.abs(got - wanted).max() <= TOLERANCE[precision] * wanted.std()
