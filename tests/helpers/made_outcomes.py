"""Made-up outcomes and entries, for the tests of what is counted from them."""

import numpy as np
from prunings import pruning

from allrounder.calib.fidelity import Outcomes
from allrounder.manifest import Entry, EntryGraphs

LAYERS = 4


def outcomes(agrees, *, kl=None, labelled=None, correct=None, truth=None, kinds=None, images=(), tiles=None):
    """Outcomes of as many questions as ``agrees`` has; what is not given is as plain as can be."""
    agrees = np.asarray(agrees, dtype=bool)
    n = len(agrees)
    return Outcomes(
        kl=np.where(agrees, 0.0, 1.0) if kl is None else np.asarray(kl, dtype=np.float64),
        agrees=agrees,
        labelled=np.ones(n, bool) if labelled is None else np.asarray(labelled, dtype=bool),
        correct=agrees if correct is None else np.asarray(correct, dtype=bool),
        reference_correct=np.ones(n, bool) if truth is None else np.asarray(truth, dtype=bool),
        kinds=("read",) * n if kinds is None else tuple(kinds),
        layer_use=np.arange(LAYERS)[None] <= np.arange(n)[:, None],
        tiles=np.ones(n, int) if tiles is None else np.asarray(tiles),
        image_tokens=np.full(n, 20) if tiles is None else 20 * np.asarray(tiles),
        kept_tokens=np.full(n, 5) if tiles is None else 5 * np.asarray(tiles),
        images=tuple(images),
    )


def entry(policy="static", kept=(0, 1, 3)):
    graphs = EntryGraphs(vision="v", router="r", decoder="d")
    return Entry(
        pruning=pruning((5, 3), 2, kept if policy == "static" else None, "par-lite"),
        backend="onnxruntime",
        precision="fp32",
        graphs=graphs,
        fidelity=None,
        latency=None,
    )
