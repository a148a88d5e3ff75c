"""TensorRT-LLM checkpoints against a table written by hand, and read in plain PyTorch as TensorRT-LLM reads them.

The table is from TensorRT-LLM's own converters and modules, as they stood between 1.0 and 1.2 (read; nothing was run):
`models/llama/convert.py` (`load_weights_from_hf_safetensors`, `get_prefix_and_param_name_map`: mlp.gate is up_proj,
mlp.fc is gate_proj), `models/qwen/model.py` (`QWenDecoderLayer`: qkv has a bias, dense has none), `layers/linear.py`
(`ColumnLinear` holds out/tp rows and their biases, `RowLinear` in/tp columns and the whole bias; `postprocess`: key
heads are repeated where there are fewer than ranks), `layers/attention.py` (dense has a bias where qkv has one),
`models/llama/model.py` (`lm_head` is padded by `pad_vocab_size` and split), `models/modeling_utils.py`
(`PretrainedConfig`).
"""

import json
import shutil

import pytest
import torch
from plain_reading import Reader
from safetensors.torch import load_file, save_file
from torch.nn.functional import embedding
from transformers import LlamaConfig, LlavaForConditionalGeneration, MistralConfig, Qwen2Config

from allrounder.engines.tensorrt_llm.build import convert
from allrounder.engines.tensorrt_llm.layout import decoder_of
from allrounder.engines.tensorrt_llm.limits import Sizes
from allrounder.errors import BundleCorrupt, BundleError, InputInvalid, ModelUnreadable, ModelUnsupported
from allrounder.hashing import file_record

SHAPES = ["llama-mha", "llama-gqa-tied", "llama-wide-bias", "llama-rope3-layers", "llama-linear-nobias", "mistral"]
SHAPES += ["qwen2-siglip"]
# shape: (heads, key heads, head size, feed-forward, biases of qkv, dense, mlp); hidden 32, 320 words, 4 layers of 5
TABLE = {
    "llama-mha": (4, 4, 8, 64, False, False, False),
    "llama-gqa-tied": (4, 2, 8, 64, False, False, False),
    "llama-wide-bias": (4, 1, 16, 64, True, True, True),
    "llama-rope3-layers": (4, 2, 8, 64, False, False, False),
    "llama-linear-nobias": (4, 2, 8, 64, False, False, False),
    "mistral": (4, 2, 8, 64, False, False, False),
    "qwen2-siglip": (4, 2, 8, 64, True, False, False),
}
HIDDEN, WORDS, LAYERS = 32, 320, 4


def wanted(shape, ranks):
    """The names and shapes of one rank, by hand."""
    heads, kv, size, inner, qkv_bias, dense_bias, mlp_bias = TABLE[shape]
    fused = (heads // ranks + 2 * max(kv // ranks, 1)) * size
    layer = {
        "input_layernorm.weight": (HIDDEN,),
        "post_layernorm.weight": (HIDDEN,),
        "attention.qkv.weight": (fused, HIDDEN),
        "attention.dense.weight": (HIDDEN, heads * size // ranks),
        "mlp.fc.weight": (inner // ranks, HIDDEN),
        "mlp.gate.weight": (inner // ranks, HIDDEN),
        "mlp.proj.weight": (HIDDEN, inner // ranks),
    }
    layer |= {"attention.qkv.bias": (fused,)} if qkv_bias else {}
    layer |= {"attention.dense.bias": (HIDDEN,)} if dense_bias else {}
    if mlp_bias:
        layer |= {"mlp.fc.bias": (inner // ranks,), "mlp.gate.bias": (inner // ranks,), "mlp.proj.bias": (HIDDEN,)}
    table = {"transformer.vocab_embedding.weight": (WORDS, HIDDEN), "transformer.ln_f.weight": (HIDDEN,)}
    table |= {"lm_head.weight": (-(-WORDS // ranks), HIDDEN)}
    return table | {f"transformer.layers.{i}.{name}": each for i in range(LAYERS) for name, each in layer.items()}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_names_and_shapes_are_those_of_the_table(pruned, tmp_path, shape, ranks):
    convert(pruned(shape).checkpoint, tmp_path / "out", Sizes(ranks, text_tokens=32, new_tokens=8))
    folder = tmp_path / "out" / "checkpoint"
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        *(f"rank{rank}.safetensors" for rank in range(ranks)),
    ]
    for rank in range(ranks):
        tensors = load_file(folder / f"rank{rank}.safetensors")
        assert {name: tuple(each.shape) for name, each in tensors.items()} == wanted(shape, ranks)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_plain_reading_gives_the_logits_of_stock_transformers(pruned, tmp_path, shape, ranks):
    checkpoint = pruned(shape).checkpoint
    convert(checkpoint, tmp_path / "out", Sizes(ranks, text_tokens=32, new_tokens=8))
    reader = Reader(tmp_path / "out" / "checkpoint")
    model = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    torch.manual_seed(0)
    ids = torch.randint(WORDS, (24,))
    image_embeds = torch.randn(5, HIDDEN)  # rows of a prompt table, in the midst
    table = embedding(ids, reader.ranks[0]["transformer.vocab_embedding.weight"])
    rows = torch.cat([table[:9], image_embeds, table[9:]])
    got = reader.logits(rows)
    reference = model(inputs_embeds=rows[None], attention_mask=torch.ones(1, len(rows), dtype=torch.int64)).logits[0]
    assert torch.equal(table, model.get_input_embeddings()(ids))
    assert float((got - reference).abs().max() / reference.std()) <= 1e-4
    assert torch.equal(got.argmax(-1), reference.argmax(-1))


def test_a_wrong_layout_would_be_seen(pruned, tmp_path):
    convert(pruned("llama-mha").checkpoint, tmp_path / "out", Sizes(text_tokens=32, new_tokens=8))
    reader = Reader(tmp_path / "out" / "checkpoint")
    torch.manual_seed(0)
    rows = torch.randn(6, HIDDEN)
    before = reader.logits(rows)
    tensors, at = reader.ranks[0], "transformer.layers.0.mlp."
    tensors[at + "fc.weight"], tensors[at + "gate.weight"] = tensors[at + "gate.weight"], tensors[at + "fc.weight"]
    assert float((reader.logits(rows) - before).abs().max() / before.std()) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bytes_are_kept(pruned, tmp_path, dtype):
    checkpoint = pruned("mistral", dtype=dtype).checkpoint
    convert(checkpoint, tmp_path / "out", Sizes(text_tokens=32, new_tokens=8))
    source = load_file(checkpoint / "model.safetensors")
    (tensors,) = Reader(tmp_path / "out" / "checkpoint").ranks
    assert {each.dtype for each in tensors.values()} == {dtype}
    assert json.loads((tmp_path / "out/checkpoint/config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )
    gate = source["language_model.model.layers.2.mlp.gate_proj.weight"]
    assert torch.equal(tensors["transformer.layers.2.mlp.fc.weight"].view(torch.int16), gate.view(torch.int16))


def test_a_head_that_ranks_do_not_divide_is_padded_with_zeros(pruned, tmp_path):
    checkpoint = tmp_path / "odd"
    copied(pruned("llama-mha").checkpoint, checkpoint, words=319)
    convert_unverified(checkpoint, tmp_path / "out", ranks=2)
    first, second = Reader(tmp_path / "out" / "checkpoint").ranks
    assert first["lm_head.weight"].shape == second["lm_head.weight"].shape == (160, HIDDEN)
    assert not second["lm_head.weight"][-1].any()
    assert second["lm_head.weight"][-2].any()
    assert first["transformer.vocab_embedding.weight"].shape == (319, HIDDEN)


@pytest.mark.parametrize(
    ("kind", "config"), [("llama", LlamaConfig()), ("mistral", MistralConfig()), ("qwen2", Qwen2Config())]
)
def test_what_config_json_leaves_out_has_the_defaults_of_transformers(kind, config):
    bare = decoder_of({"model_type": kind}, tied=False)
    spelled = decoder_of({**config.to_dict(), "model_type": kind}, tied=False)
    assert bare == spelled


@pytest.mark.parametrize(
    "text", [{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
             {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}]
)  # fmt: skip
def test_rotary_keys_of_transformers_4_and_5_mean_the_same(text):
    decoder = decoder_of({"model_type": "llama", **text}, tied=False)
    assert (decoder.rope_theta, decoder.rope_scaling) == (5e5, {"factor": 2.0, "rope_type": "linear"})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ({"model_type": "qwen3"}, "model_type"),
        ({"model_type": "gemma"}, "model_type"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters"),
    ],
)
def test_a_decoder_without_a_place_in_the_layout_is_refused(text, key):
    with pytest.raises(ModelUnsupported, match=key):
        decoder_of(text, tied=False)


def test_impossible_options_are_refused_and_leave_nothing(pruned, tmp_path):
    checkpoint = pruned("llama-gqa-tied").checkpoint
    for options, match in [
        (Sizes(3, text_tokens=32, new_tokens=8), "tensor-parallel"),
        (Sizes(0, text_tokens=32, new_tokens=8), "begin at 1"),
        (Sizes(text_tokens=600, new_tokens=8), "positions"),
        (Sizes(batch=-1, text_tokens=32, new_tokens=8), "begin at 1"),
    ]:
        with pytest.raises(InputInvalid, match=match):
            convert(checkpoint, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="taken"):
        convert(checkpoint, tmp_path / "out")
    with pytest.raises(BundleError):
        convert(tmp_path / "nothing", tmp_path / "other")


def test_damaged_weights_are_refused(pruned, tmp_path):
    source = pruned("llama-mha").checkpoint
    checkpoint = tmp_path / "damaged"
    copied(source, checkpoint)
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(b"damage")
    with pytest.raises(BundleCorrupt):  # the sidecar's digests come first
        convert(checkpoint, tmp_path / "out")
    for damage in ("truncated", "missing", "smaller", "mixed"):
        copied(source, checkpoint)
        damaged(checkpoint / "model.safetensors", damage)
        with pytest.raises((ModelUnreadable, ModelUnsupported)) as error:
            convert_unverified(checkpoint, tmp_path / damage)
        assert "got" in str(error.value) or "wanted" in str(error.value)
        assert not (tmp_path / damage).exists()


def copied(source, out, words=None):
    """Copies a checkpoint, with fewer words where asked."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    if words is not None:
        tensors = load_file(out / "model.safetensors")
        for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            tensors[name] = tensors[name][:words].clone()
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((out / "config.json").read_text())
        config["text_config"]["vocab_size"] = words
        (out / "config.json").write_text(json.dumps(config))


def damaged(file, how):
    tensors = load_file(file)
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    if how == "missing":
        del tensors[name]
    if how == "smaller":
        tensors[name] = tensors[name][:, :60].clone()
    if how == "mixed":
        tensors[name] = tensors[name].half()
    save_file(tensors, file, metadata={"format": "pt"})
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])


def convert_unverified(checkpoint, out, ranks=1):
    """Converts with a sidecar that fits: these tests are about what lies beyond it."""
    sidecar = json.loads((checkpoint / "allrounder.json").read_text())
    for name in ("model.safetensors", "config.json"):
        record = file_record(checkpoint / name)
        sidecar["files"][name] = {"sha256": record.sha256, "bytes": record.bytes}
    (checkpoint / "allrounder.json").write_text(json.dumps(sidecar))
    convert(checkpoint, out, Sizes(ranks, text_tokens=32, new_tokens=8))
