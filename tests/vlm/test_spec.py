"""vlm/spec.py: what is read from a config, and what is refused by the name of its key."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from allrounder.errors import ModelUnreadable, ModelUnsupported
from allrounder.vlm.config import read_config, read_spec
from allrounder.vlm.random.model import SHAPES, TINY, Shape, random_config


def spec_of(**shape):
    return read_spec(random_config(Shape(**shape)))


def test_half_a_billion():
    spec = read_spec(random_config("0.5b"))
    decoder = spec.decoder
    assert (decoder.hidden, decoder.layers, decoder.heads, decoder.kv_heads, decoder.head_dim) == (896, 24, 14, 2, 64)
    assert (decoder.feed_forward, decoder.vocabulary, decoder.tied) == (4864, 32000, False)
    assert (spec.image_tokens, spec.vision.grid, spec.vision.rows) == (576, 24, 577)
    assert spec.vision.feature_layers == (23,)  # -2 of 25 hidden states
    assert (spec.projector.inputs, spec.projector.hidden) == (1024, 896)


# The keys that these two repositories have in their config.json; what they leave out is transformers' default.
LLAVA_1_5_7B = {
    "image_token_index": 32000,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "text_config": {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
}
LLAVA_QWEN_0_5B = {
    "image_token_index": 151646,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "max_window_layers": 21,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "vocab_size": 152000,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def test_configs_written_before_transformers_5(tmp_path):
    def spec(config):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **config}))
        return read_spec(read_config(tmp_path))

    vicuna = spec(LLAVA_1_5_7B)
    assert (vicuna.image_tokens, vicuna.decoder.layers, vicuna.decoder.hidden) == (576, 32, 4096)
    assert (vicuna.decoder.kv_heads, vicuna.decoder.head_dim, vicuna.decoder.tied) == (32, 128, False)
    assert vicuna.vision.feature_layers == (23,)
    qwen = spec(LLAVA_QWEN_0_5B)
    assert (qwen.image_tokens, qwen.vision.feature_layers, qwen.decoder.tied) == (729, (26,), True)
    assert qwen.decoder.rope.inverse_frequencies[-1] == pytest.approx(1e6 ** (-31 / 32))


def test_families_differ_where_their_modules_do():
    rows = {}
    for shape in TINY:
        decoder = read_spec(random_config(shape)).decoder
        rows[shape] = (decoder.qkv_bias, decoder.o_bias, decoder.mlp_bias, decoder.qk_norm, decoder.tied)
    assert rows["llama-mha"] == (False, False, False, False, False)
    assert rows["llama-wide-bias"] == (True, True, True, False, False)
    assert rows["mistral"] == (False, False, False, False, False)
    assert rows["qwen2-siglip"] == (True, False, False, False, True)
    assert rows["qwen3-siglip-layers"] == (False, False, False, True, False)


def test_the_shapes_cover_what_they_promise():
    specs = [read_spec(random_config(shape)) for shape in TINY]
    decoders = [spec.decoder for spec in specs]
    assert {decoder.heads == decoder.kv_heads for decoder in decoders} == {True, False}
    assert {decoder.tied for decoder in decoders} == {True, False}
    assert {decoder.heads * decoder.head_dim == decoder.hidden for decoder in decoders} == {True, False}
    assert {spec.vision.family for spec in specs} == {"clip", "siglip"}
    assert {len(spec.vision.feature_layers) for spec in specs} == {1, 2}
    assert {spec.vision.drop_first for spec in specs} == {True, False}
    assert {decoder.family for decoder in decoders} == {"llama", "mistral", "qwen2", "qwen3"}
    assert {decoder.rope.kind for decoder in decoders} == {"default", "linear", "llama3"}


def test_a_spec_cannot_be_changed_and_compares_by_value():
    spec = read_spec(random_config("mistral"))
    assert spec == read_spec(random_config("mistral"))
    assert hash(spec) == hash(read_spec(random_config("mistral")))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.image_tokens = 1  # pyright: ignore[reportAttributeAccessIssue]


ROPES = [
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    SHAPES["llama-rope3-layers"].text["rope_parameters"],
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
]


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: rope["rope_type"])
def test_rotary_angles_are_those_of_transformers(rope):
    settings = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512, "rope_parameters": rope}
    spec = spec_of(text=settings).decoder.rope
    cosine, sine = LlamaRotaryEmbedding(LlamaConfig(**settings))(torch.zeros(1), torch.arange(300)[None])
    angles = torch.arange(300).float()[:, None] * torch.tensor(spec.inverse_frequencies)
    assert torch.equal(angles.cos() * spec.scale, cosine[0, :, : len(spec.inverse_frequencies)])
    assert torch.equal(angles.sin() * spec.scale, sine[0, :, : len(spec.inverse_frequencies)])


def test_feature_layers_count_from_the_embeddings():
    assert spec_of(top={"vision_feature_layer": -1}).vision.feature_layers == (3,)
    assert spec_of(top={"vision_feature_layer": 0}).vision.feature_layers == (0,)
    assert spec_of(top={"vision_feature_layer": [-4, 3, 1]}).vision.feature_layers == (0, 3, 1)
    assert spec_of(top={"vision_feature_layer": [-4, 3, 1]}).projector.inputs == 72


def test_siglip_has_no_class_token_and_default_cuts_a_patch_as_the_library_does():
    assert spec_of(vision_type="siglip_vision_model").image_tokens == 3
    full = spec_of(vision_type="siglip_vision_model", top={"vision_feature_select_strategy": "full"})
    assert (full.image_tokens, full.vision.class_token) == (4, False)
    assert spec_of(top={"vision_feature_select_strategy": "full"}).image_tokens == 5


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        ({"text_type": "mistral", "text": {"sliding_window": 64}}, "text_config.sliding_window"),
        (
            {"text_type": "qwen2", "text": {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}},
            "text_config.sliding_window",
        ),
        ({"text": {"layer_types": ["chunked_attention"] * 5}}, "text_config.layer_types"),
        ({"text": {"is_causal": False}}, "text_config.is_causal"),
        ({"text": {"hidden_act": "mish"}}, "text_config.hidden_act"),
        ({"text": {"num_attention_heads": 4, "num_key_value_heads": 3}}, "text_config.num_key_value_heads"),
        ({"text": {"vocab_size": 2}}, "image_token_index"),
        ({"text_type": "gemma"}, "text_config.model_type"),
        ({"text_type": "mixtral"}, "text_config.model_type"),
        ({"vision_type": "dinov2"}, "vision_config.model_type"),
        ({"vision": {"hidden_act": "mish"}}, "vision_config.hidden_act"),
        ({"vision": {"image_size": [28, 42]}}, "vision_config.image_size"),
        ({"vision": {"num_channels": 1}}, "vision_config.num_channels"),
        ({"top": {"vision_feature_layer": -9}}, "vision_feature_layer"),
        ({"top": {"vision_feature_layer": []}}, "vision_feature_layer"),
        ({"top": {"projector_hidden_act": "mish"}}, "projector_hidden_act"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_is_refused_by_its_key(shape, key):
    with pytest.raises(ModelUnsupported) as caught:
        read_spec(random_config(Shape(**shape)))
    assert caught.value.where == key
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("rope", "key"),
    [
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "text_config.rope_parameters.rope_type"),
        (
            {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
            | {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            "text_config.rope_parameters.rope_type",
        ),
        (
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            "text_config.rope_parameters.partial_rotary_factor",
        ),
    ],
    ids=["dynamic", "longrope", "partial"],
)
def test_rotary_embeddings_that_depend_on_length_are_refused(rope, key):
    with pytest.raises(ModelUnsupported) as caught:
        spec_of(text={"rope_parameters": rope})
    assert caught.value.where == key


def test_a_window_that_cannot_bind_is_allowed():
    assert spec_of(text_type="mistral", text={"sliding_window": 512}).decoder.family == "mistral"
    # Qwen2 carries a window that its own switch turns off.
    assert spec_of(text_type="qwen2", text={"use_sliding_window": False, "sliding_window": 8}).decoder.qkv_bias
    wide = {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 2}
    assert spec_of(text_type="qwen2", text=wide).decoder.layers == 5


def written(directory, **changes):
    config = random_config("llama-mha").to_dict()
    for path, value in changes.items():
        *parts, last = path.split("__")
        holder = config
        for part in parts:
            holder = holder[part]
        holder[last] = value
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_a_directory_gives_the_same_spec(tmp_path):
    assert read_spec(read_config(written(tmp_path))) == read_spec(random_config("llama-mha"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"model_type": "vipllava"}, "model_type"),
        ({"model_type": "made_up"}, "model_type"),
        ({"text_config__model_type": "made_up"}, "text_config.model_type"),
        ({"vision_config__model_type": "made_up"}, "vision_config.model_type"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"text_config__quantization_config": {"quant_method": "gptq"}}, "text_config.quantization_config"),
    ],
)
def test_other_checkpoints_are_refused_by_their_key(tmp_path, changes, key):
    with pytest.raises(ModelUnsupported) as caught:
        read_config(written(tmp_path, **changes))
    assert caught.value.where == key


@pytest.mark.parametrize(("key", "value"), [("hidden_size", "many"), ("head_dim", 7)])
def test_what_transformers_refuses_is_one_of_our_errors(tmp_path, key, value):
    with pytest.raises(ModelUnsupported, match=key):
        read_config(written(tmp_path, **{f"text_config__{key}": value}))


@pytest.mark.parametrize("text", [None, "{", "[]", b"\xff\xfe"])
def test_no_readable_config(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelUnreadable, match=r"config\.json"):
        read_config(tmp_path)
