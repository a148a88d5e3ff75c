"""Random models of the tile families, and their engines, made once for a file of tests."""

from __future__ import annotations

import functools

import pytest
from tile_models import frozen, write_bundle

from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.runtime.engine import open_engines
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.random.model import write_random_checkpoint


@pytest.fixture(scope="module")
def vlms(tmp_path_factory):
    """Gives the random model of a shape."""

    @functools.cache
    def get(shape: str) -> LoadedModel:
        return load_model(write_random_checkpoint(tmp_path_factory.mktemp("tiles") / shape, shape))

    return get


@pytest.fixture(scope="module")
def built(vlms, tmp_path_factory):
    """Gives router, frozen directory and engines of a shape in a backend."""

    @functools.cache
    def sources(shape):
        place = tmp_path_factory.mktemp(f"engines-{shape}")
        return place, *frozen(vlms(shape), place)

    @functools.cache
    def get(shape, name="onnxruntime"):
        place, router, folder = sources(shape)
        bundle = open_bundle(write_bundle(folder, place / name, name))
        return router, folder, open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))

    return get
