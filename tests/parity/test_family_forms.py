"""Vision graphs of every family whose images are tiles, in smaller dtypes and in TensorRT's form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tile_models import TOLERANCE, prompt_of, rgb

from allrounder import tensors
from allrounder.engines.tensorrt.form import parsed_form, static_form
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.verify.extract import run
from allrounder.export.weights.widened import widened
from allrounder.images.pixels import pixel_values, prepare_images, token_sources
from allrounder.vlm.model import load_model
from allrounder.vlm.pruned import PrunedModel
from allrounder.vlm.random.model import TINY_TILES

SIZE = (40, 150)  # a row of tiles, and the whole
WORSE = 1.5  # times what the stock model loses in a smaller dtype
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def feeds_of(vlm, sizes):
    """What the vision graph is given for images of these sizes."""
    tiles = prepare_images(vlm.images, [rgb(size) for size in sizes])
    feeds = {tensors.TILES: tiles.tiles}
    if vlm.spec.newline:
        sources = token_sources(vlm.images, tiles.planned)
        feeds |= {tensors.TOKEN_ROWS: sources.rows, tensors.TOKEN_WEIGHTS: sources.weights}
    return feeds


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("shape", TINY_TILES)
def test_smaller_dtypes_lose_no_more_than_the_stock_model_does(vlms, tmp_path, shape, precision):
    exact, sizes = vlms(shape), [(120, 130), SIZE]
    narrow = load_model(exact.source, dtype=DTYPES[precision])
    freezer = Freezer(exact.source, None, tmp_path / "frozen", FreezeOptions(precision))
    freezer.shared()
    path = tmp_path / "frozen" / "graphs" / Path(freezer.finish().graphs.vision).name
    feeds = feeds_of(exact, sizes)
    values = torch.from_numpy(pixel_values(exact.images, feeds[tensors.TILES]))
    wanted, stock = (PrunedModel(vlm).image_embeds(values, sizes).float().numpy() for vlm in (exact, narrow))
    wide = widened(onnx.load(path, load_external_data=False))
    found = run(wide, feeds, path.parent)[tensors.IMAGE_EMBEDS]
    lost = np.abs(stock - wanted).max()
    assert 0 < lost < 0.1 * wanted.std()
    assert np.abs(np.asarray(found, np.float32) - wanted).max() <= WORSE * lost


@pytest.mark.parametrize("shape", TINY_TILES)
def test_what_tensorrt_is_given_computes_what_the_frozen_graph_computes(vlms, built, tmp_path, shape):
    vlm, engines = vlms(shape), built(shape)[2]
    path = engines[0].bundle.path / engines[0].entry.graphs.vision
    model = onnx.load(path, load_external_data=False)
    form = path.with_suffix(".static.onnx")
    form.write_bytes(static_form(model, {}).SerializeToString())
    (got,) = onnxruntime.InferenceSession(form).run(None, feeds_of(vlm, [SIZE]))
    form.unlink()
    wanted = prompt_of(vlm, [SIZE])[1].numpy()
    assert np.abs(got - wanted).max() <= TOLERANCE * wanted.std()
    heads = [node for node in parsed_form(model, {}).graph.node if node.op_type == "Attention"]
    assert len(heads) == max(vlm.spec.vision.feature_layers)
