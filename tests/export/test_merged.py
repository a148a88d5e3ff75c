"""Pixel shuffle in the vision graph: the rows that the stock functions of both families give, bit by bit."""

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from allrounder.export.graph.writer import GraphWriter
from allrounder.export.vision import _merged
from allrounder.vlm.spec import VisionSpec

CHANNELS, TILES = 3, 2


def merged(features: np.ndarray, grid: int, merge: int) -> np.ndarray:
    graph = GraphWriter("merged", {}, TensorProto.FLOAT)
    spec = VisionSpec("siglip", CHANNELS, 1, 1, 1, grid, 1, "gelu", 1e-6, (1,), drop_first=False, merge=merge)
    rows = graph.input("features", TensorProto.FLOAT, ["tiles", grid * grid, CHANNELS])
    output = graph.node("Identity", [_merged(graph, spec, rows)], "output")
    graph.output("rows", TensorProto.FLOAT, ["tiles", spec.tokens, CHANNELS * merge**2], output)
    session = onnxruntime.InferenceSession(graph.model().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"features": features})[0]


def internvl(features: torch.Tensor, grid: int, merge: int) -> torch.Tensor:
    square = features.reshape(len(features), grid, grid, -1)
    shuffled = InternVLModel.pixel_shuffle(SimpleNamespace(), square, scale_factor=1 / merge)
    return shuffled.reshape(len(features), -1, shuffled.shape[-1])


@pytest.mark.parametrize(("grid", "merge"), [(2, 2), (4, 2), (6, 2), (8, 4), (3, 1)])
def test_rows_are_those_of_the_stock_functions(grid, merge):
    features = torch.arange(TILES * grid * grid * CHANNELS, dtype=torch.float32).reshape(TILES, grid * grid, CHANNELS)
    got = merged(features.numpy(), grid, merge)
    for connector in (Idefics3Connector, SmolVLMConnector):
        assert np.array_equal(got, connector.pixel_shuffle(SimpleNamespace(), features, merge).numpy())
    assert np.array_equal(got, internvl(features, grid, merge).numpy())


def test_a_square_is_read_row_by_row():
    patches = torch.arange(4, dtype=torch.float32)[None, :, None].expand(1, 4, CHANNELS).contiguous()
    assert merged(patches.numpy(), 2, 2)[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
