"""Pruned checkpoints of tiny random models, made once for a whole run."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from prunings import pruning

from allrounder.engines.backends import BuildOptions
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.checkpoint.build import write_checkpoint
from allrounder.engines.onnxruntime.build import build
from allrounder.export.freezer import Freezer
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.versions import keep_of, resolve
from allrounder.vlm.model import load_model
from allrounder.vlm.random.model import write_random_checkpoint


class Made(NamedTuple):
    frozen: Path
    checkpoint: Path


@pytest.fixture(scope="session")
def pruned(tmp_path_factory):
    """Gives the checkpoint of a shape and dtype, with one layer and most image tokens gone."""
    folder = tmp_path_factory.mktemp("pruned")

    @functools.cache
    def get(shape, dtype) -> Made:
        place = folder / f"{shape}-{dtype}"
        place.mkdir()
        directory = write_random_checkpoint(place / "model", shape, dtype=dtype)
        vlm = load_model(directory, dtype=torch.float32)
        torch.manual_seed(1)
        save_router(MetaRouter(vlm.spec, vlm.model.config.text_config), place / "router", model_digest=vlm.digest)
        freezer = Freezer(directory, place / "router", place / "frozen")
        freezer.shared()
        tokens, layers = vlm.spec.image_tokens, vlm.spec.decoder.layers
        budget = (keep_of("par-lite"), resolve("par-lite", tokens=tokens, layers=layers).layers)
        kept = tuple(layer for layer in range(layers) if layer != 1)[: budget[1]]
        freezer.add(pruning(budget, 0, kept, "par-lite"))
        freezer.finish()
        with Staging(place / "bundle") as staging:
            (entry,) = build(place / "frozen", staging, BuildOptions())
        write_checkpoint(place / "frozen", entry, place / "checkpoint")
        return Made(place / "frozen", place / "checkpoint")

    return lambda shape="llama-gqa-tied", dtype=torch.float32: get(shape, dtype)


@pytest.fixture
def image():
    """An image of noise, higher than wide."""
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (53, 37, 3), np.uint8))
