"""A pruned checkpoint in TensorRT Edge-LLM's own exporter (0.11), and the exported decoder run in ONNX Runtime.

The exporter is installed apart, because its pins are not ours (docs/edge.md), and named by an environment variable.
Its attention node is a plugin of TensorRT; here it gets a body, written from the exporter's descriptions of its inputs
(`onnx/export.py`, `models/ops.py`): one new sequence, packed q, k and v, rotary angles of each row as cosines beside
sines. So what is shown is that layers, weights and order are right, and that rows may have the positions that they
had. Engines need a GPU.
"""

import os
import subprocess
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from decoder_rows import decoder_rows
from onnx import parser
from transformers import LlavaForConditionalGeneration

from allrounder.engines.checkpoint.sidecar import open_sidecar
from allrounder.serving.kept_rows import RowReader

EXPORTER = os.environ.get("ALLROUNDER_EDGE_LLM_EXPORTER")
pytestmark = pytest.mark.skipif(not EXPORTER, reason="ALLROUNDER_EDGE_LLM_EXPORTER names no tensorrt-edgellm-export")
PLUGIN = "AttentionPlugin"
KEY_HEADS = {"llama-mha": 4, "llama-gqa-tied": 2, "mistral": 2, "qwen2-siglip": 2}
HEADS, SIZE = 4, 8
HALF = 1e-2  # of the logits' standard deviation; half precision moved them by 0.0006 to 0.0033


@pytest.fixture(scope="module", params=KEY_HEADS)
def exported(request, pruned, tmp_path_factory):
    """The key heads of a shape, its checkpoint, and its decoder as the exporter wrote it."""
    checkpoint = pruned(request.param, torch.float16).checkpoint  # it cannot read biases in float32
    out = tmp_path_factory.mktemp("edge")
    done = subprocess.run([EXPORTER, checkpoint, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return KEY_HEADS[request.param], checkpoint, onnx.load(out / "llm" / "model.onnx")


def body(inputs, key_heads):
    """The plugin of a sequence that has no past, in float32."""
    widths = f"{HEADS * SIZE}, {key_heads * SIZE}, {key_heads * SIZE}"
    return parser.parse_function(f"""
    <domain: "trt_edgellm", opset_import: ["" : 24]>
    {PLUGIN} ({", ".join(inputs)}) => (out, present) {{
      packed = Cast<to = 1>({inputs[0]})
      widths = Constant<value_ints = [{widths}]>()
      one = Constant<value_ints = [0]>()
      sequence = Unsqueeze(packed, one)
      q, k, v = Split<axis = -1>(sequence, widths)
      angles = Unsqueeze({inputs[3]}, one)
      cosines, sines = Split<axis = -1, num_outputs = 2>(angles)
      q_turned = RotaryEmbedding<num_heads = {HEADS}>(q, cosines, sines)
      k_turned = RotaryEmbedding<num_heads = {key_heads}>(k, cosines, sines)
      mixed = Attention<is_causal = 1, q_num_heads = {HEADS}, kv_num_heads = {key_heads}>(q_turned, k_turned, v)
      heads = Constant<value_ints = [-1, {HEADS}, {SIZE}]>()
      split = Reshape(mixed, heads)
      out = Cast<to = 10>(split)
      present = Identity({inputs[1]})
    }}""")


def run(model, key_heads, rows, positions, theta):
    """The logits [V] of the last of ``rows`` [n, H], whose positions are given."""
    (node, *_) = (node for node in model.graph.node if node.op_type == PLUGIN)
    readable = onnx.ModelProto.FromString(model.SerializeToString())
    readable.functions.append(body([f"x{number}" for number in range(len(node.input))], key_heads))
    session = onnxruntime.InferenceSession(readable.SerializeToString(), providers=["CPUExecutionProvider"])
    angles = np.outer(positions, theta ** (-np.arange(0, SIZE, 2) / SIZE))
    known = {
        "inputs_embeds": rows.astype(np.float16),
        "rope_rotary_cos_sin": np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        "logits_indices": np.array([len(rows) - 1], np.int64),
    }
    for each in session.get_inputs():  # what the body does not read
        shape = [extent if isinstance(extent, int) else 1 for extent in each.shape]
        half = each.type == "tensor(float16)"
        known.setdefault(each.name, np.zeros(shape, np.float16 if half else np.int32))
    return session.run(["logits"], known)[0][0]


@torch.no_grad()
def prompt_rows(checkpoint, image):
    """The stock model, the decoder's input rows [n, H] and their positions in the unpruned prompt."""
    model = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    read = RowReader(checkpoint).read(image, "what is on the left?")
    return model, decoder_rows(read, model.get_input_embeddings()), read.positions[0]


def test_its_decoder_has_the_kept_layers_and_their_weights(exported):
    _, checkpoint, model = exported
    layers = open_sidecar(checkpoint)[1].entry.pruning.layers
    assert Counter(node.op_type for node in model.graph.node)[PLUGIN] == layers
    stock = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32)
    wanted = [layer.self_attn.o_proj.weight.detach().half().numpy() for layer in stock.model.language_model.layers]
    held = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    for weight in wanted:
        assert any(np.array_equal(weight, each) or np.array_equal(weight.T, each) for each in held)


def test_kept_rows_give_the_stock_models_logits_at_their_own_positions(exported, image):
    key_heads, checkpoint, graph = exported
    model, rows, positions = prompt_rows(checkpoint, image)
    theta = model.config.text_config.rope_parameters["rope_theta"]
    seen = torch.ones(1, len(rows), dtype=torch.int64)
    with torch.no_grad():
        wanted = model(
            inputs_embeds=rows[None], position_ids=torch.from_numpy(positions)[None], attention_mask=seen
        ).logits[0, -1]
    wanted = wanted.numpy()
    got = run(graph, key_heads, rows.numpy(), positions, theta)
    counted = run(graph, key_heads, rows.numpy(), np.arange(len(rows)), theta)
    away = [float(np.abs(each - wanted).max() / wanted.std()) for each in (got, counted)]
    assert away[0] <= HALF
    assert away[1] > 10 * HALF, "counted positions compute something else"
