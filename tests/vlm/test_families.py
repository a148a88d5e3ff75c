"""The tile families: what their directories mean, and what is refused, by its name."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from transformers import AutoConfig, InternVLConfig

from allrounder.errors import ModelUnsupported
from allrounder.images.plan import Canvases, NearestAspect
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_spec
from allrounder.vlm.internvl.names import INTERNVL as INTERNVL_NAMES
from allrounder.vlm.model import load_text
from allrounder.vlm.random.model import TINY_CANVASES, TINY_TILES, write_random_checkpoint

NEXT, ONEVISION = "next-clip-mistral", "onevision-siglip-qwen2"
INTERNVL, INTERNVL_38B = "internvl-qwen2", "internvl-qwen3"
SMOLVLM, IDEFICS3 = "smolvlm-llama", "idefics3-llama"
ROPE = "text_config.rope_parameters.rope_type"
CONFIG, PROCESSOR = "config.json", "processor_config.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {shape: write_random_checkpoint(root / shape, shape) for shape in TINY_TILES}


@pytest.fixture
def changed(models, tmp_path):
    """Copies a model and changes one key of a file."""

    def change(shape, file, key, value):
        place = shutil.copytree(models[shape], tmp_path / "model")
        content = json.loads((place / file).read_text())
        holder = content["image_processor"] if file == PROCESSOR else content
        *parts, last = key.split(".")
        for part in parts:
            holder = holder[part]
        holder[last] = value
        (place / file).write_text(json.dumps(content))
        return place

    return change


@pytest.mark.parametrize("shape", TINY_CANVASES)
def test_plan_and_newline(models, shape):
    checkpoint = Checkpoint(models[shape])
    plan = load_text(models[shape], checkpoint.spec).images
    assert (plan.size, plan.tokens) == (42, 9)
    assert checkpoint.shape("projector.image_newline") == (checkpoint.spec.decoder.hidden,)
    layout = plan.layout
    assert isinstance(layout, Canvases)
    alone = {ONEVISION: (2, (122, 116, 104)), "onevision-siglip-qwen3": (9, (122, 116, 104))}
    assert (layout.most, layout.several) == alone.get(shape, (None, None))


def test_plan_of_internvl(models):
    plans = [load_text(models[shape], Checkpoint(models[shape]).spec).images for shape in (INTERNVL, INTERNVL_38B)]
    assert [(plan.size, plan.tokens) for plan in plans] == [(56, 4), (48, 4)]
    marks = {"before": "<img>", "after": "</img>"}
    assert [plan.layout for plan in plans] == [
        NearestAspect(least=1, most=6, **marks),
        NearestAspect(least=2, most=4, **marks),
    ]


def test_towers_of_internvl(models):
    plain, large = (Checkpoint(models[shape]).spec for shape in (INTERNVL, INTERNVL_38B))
    kinds = [
        (each.vision.qkv_bias, each.vision.qk_norm, each.vision.rms_norm, each.vision.merge) for each in (plain, large)
    ]
    assert kinds == [(True, False, False, 2), (False, True, True, 4)]
    assert (plain.projector.inputs, plain.projector.norm_eps, plain.decoder.tied) == (4 * 24, 1e-5, True)
    assert (large.projector.inputs, large.vision.feature_layers, large.decoder.tied) == (16 * 24, (2,), False)


@pytest.mark.parametrize(("text_type", "text"), [("qwen2", {"hidden_size": 896}), ("qwen3", {"hidden_size": 1024})])
def test_internvl_as_the_hub_has_it(text_type, text):
    """The library's defaults are OpenGVLab/InternVL3-1B-hf's: 448 pixels a tile, 256 tokens."""
    tower = {"attention_bias": True, "image_size": [448, 448], "patch_size": [14, 14]}
    text_config = AutoConfig.for_model(text_type, vocab_size=151674, **text)
    spec = read_spec(InternVLConfig(text_config=text_config, vision_config=tower))
    assert (spec.image_tokens, spec.image_token_id, spec.vision.grid, spec.vision.rows) == (256, 151667, 32, 1025)
    assert (spec.projector.inputs, spec.projector.hidden) == (4096, text["hidden_size"])


def test_written_names_of_internvl_are_those_of_the_hub(models):
    checkpoint = Checkpoint(models[INTERNVL])
    written = {tensor.name: tensor.written for tensor in checkpoint.stored()}
    part = r"(language_model\.model\.(layers\.\d+|embed_tokens|norm)|vision_tower\.(embeddings|encoder\.layer\.\d+)"
    part += r"|multi_modal_projector\.(layer_norm|linear_[12]))\."
    assert all(re.match(part, name) for name in written.values())
    assert all(INTERNVL_NAMES.canonical(theirs) == ours for ours, theirs in written.items())
    known = {
        "vision.encoder.layers.2.self_attn.out_proj.bias": "encoder.layer.2.attention.projection_layer.bias",
        "vision.encoder.layers.0.self_attn.q_proj.weight": "encoder.layer.0.attention.q_proj.weight",
        "vision.encoder.layers.1.layer_norm2.weight": "encoder.layer.1.layernorm_after.weight",
        "vision.encoder.layers.1.lambda_1": "encoder.layer.1.lambda_1",
        "vision.embeddings.class_embedding": "embeddings.cls_token",
        "vision.embeddings.position_embedding.weight": "embeddings.position_embeddings",
        "vision.embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
    }
    assert {ours: written[ours] for ours in known} == {ours: f"vision_tower.{name}" for ours, name in known.items()}


@pytest.mark.parametrize(
    ("shape", "key", "value", "where"),
    [
        (NEXT, "vision_feature_select_strategy", "full", "vision_feature_select_strategy"),
        (ONEVISION, "vision_feature_select_strategy", "default", "vision_feature_select_strategy"),
        (NEXT, "image_token_index", 999, "image_token_index"),
        (NEXT, "text_config.rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, ROPE),
        (NEXT, "text_config.sliding_window", 64, "text_config.sliding_window"),
        (NEXT, "projector_hidden_act", "tanh", "projector_hidden_act"),
        (NEXT, "image_grid_pinpoints", [[42, 84]], "image_grid_pinpoints"),
        (ONEVISION, "image_grid_pinpoints", [[42, 42], [84, 42]], "image_grid_pinpoints"),
        (ONEVISION, "vision_aspect_ratio", "pad", "vision_aspect_ratio"),
        (ONEVISION, "vision_aspect_ratio", "anyres_max_0", "vision_aspect_ratio"),
        (INTERNVL, "vision_config.num_channels", 4, "vision_config.num_channels"),
        (INTERNVL, "vision_config.use_absolute_position_embeddings", False, None),
        (INTERNVL, "vision_config.use_mask_token", True, None),
        (INTERNVL, "vision_config.use_mean_pooling", False, None),
        (INTERNVL, "vision_config.norm_type", "batch_norm", None),
        (INTERNVL, "vision_config.hidden_act", "tanh", None),
        (INTERNVL, "vision_config.image_size", [56, 28], None),
        (INTERNVL, "vision_config.patch_size", [14, 7], None),
        (INTERNVL, "vision_config.model_type", "clip_vision_model", None),
        (NEXT, "vision_config.model_type", "internvl_vision", None),
        (INTERNVL, "text_config.model_type", "gpt_oss", None),
        (INTERNVL, "vision_feature_layer", [1, 2], None),
        (INTERNVL, "vision_feature_layer", 9, None),
        (INTERNVL, "vision_feature_select_strategy", "full", None),
        (INTERNVL, "downsample_ratio", 0.3, None),
        (INTERNVL, "downsample_ratio", 0.125, None),
        (INTERNVL_38B, "downsample_ratio", 2.0, None),
        (INTERNVL, "projector_hidden_act", "tanh", None),
        (INTERNVL, "image_token_id", 999, None),
        (INTERNVL, "text_config.rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, ROPE),
        (SMOLVLM, "scale_factor", 3, None),
        (SMOLVLM, "scale_factor", 0, None),
        (IDEFICS3, "scale_factor", 4, None),
        (SMOLVLM, "vision_config.num_channels", 1, None),
        (SMOLVLM, "vision_config.image_size", [56, 56], None),
        (SMOLVLM, "vision_config.image_size", 60, None),
        (SMOLVLM, "vision_config.image_size", 560, None),
        (IDEFICS3, "vision_config.patch_size", [7, 7], None),
        (IDEFICS3, "vision_config.hidden_act", "tanh", None),
        (SMOLVLM, "vision_config.model_type", "clip_vision_model", None),
        (IDEFICS3, "text_config.model_type", "gpt_oss", None),
        (SMOLVLM, "image_token_id", 999, None),
        (SMOLVLM, "text_config.rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, ROPE),
        (IDEFICS3, "quantization_config", {"quant_method": "awq"}, None),
    ],
)
def test_a_config_key_that_is_not_supported(changed, shape, key, value, where):
    place = changed(shape, CONFIG, key, value)
    with pytest.raises(ModelUnsupported) as caught:
        load_text(place, Checkpoint(place).spec)
    assert caught.value.where == (where or key)


@pytest.mark.parametrize(
    ("shape", "key", "value"),
    [
        (NEXT, "size", {"shortest_edge": 84}),
        (NEXT, "crop_size", {"height": 84, "width": 84}),
        (NEXT, "do_convert_rgb", False),
        (NEXT, "image_grid_pinpoints", [[42, 84], [84, 84]]),
        (ONEVISION, "size", {"height": 84, "width": 84}),
        (ONEVISION, "resample", 0),
        (INTERNVL, "size", {"height": 84, "width": 84}),
        (INTERNVL, "size", {"shortest_edge": 56}),
        (INTERNVL, "min_patches", 7),
        (INTERNVL, "min_patches", 0),
        (INTERNVL, "do_resize", False),
        (INTERNVL, "do_convert_rgb", False),
        (SMOLVLM, "size", {"height": 56, "width": 56}),
        (IDEFICS3, "size", {"shortest_edge": 42}),
        (SMOLVLM, "max_image_size", {"longest_edge": 112}),
        (IDEFICS3, "max_image_size", {"height": 42, "width": 42}),
        (SMOLVLM, "do_resize", False),
        (SMOLVLM, "do_convert_rgb", False),
        (IDEFICS3, "resample", 0),
        (IDEFICS3, "image_mean", [0.0, 0.0, 0.0]),
    ],
)
def test_a_setting_of_the_image_processor_that_is_not_supported(changed, shape, key, value):
    place = changed(shape, PROCESSOR, key, value)
    with pytest.raises(ModelUnsupported) as caught:
        load_text(place, Checkpoint(place).spec)
    assert caught.value.where == key


def test_canvases_that_are_not_made_of_tiles(changed):
    place = changed(NEXT, CONFIG, "image_grid_pinpoints", [[42, 60]])
    content = json.loads((place / PROCESSOR).read_text())
    content["image_processor"]["image_grid_pinpoints"] = [[42, 60]]
    (place / PROCESSOR).write_text(json.dumps(content))
    with pytest.raises(ModelUnsupported, match="multiples of 42"):
        load_text(place, Checkpoint(place).spec)


@pytest.mark.parametrize("tokens", [256, 3, None])
def test_another_number_of_tokens_than_the_models(models, tmp_path, tokens):
    """The stock processor writes so many placeholders: the stock model then refuses its own processor's output."""
    place = shutil.copytree(models[INTERNVL], tmp_path / "model")
    settings = json.loads((place / PROCESSOR).read_text())
    settings["image_seq_length"] = tokens
    if tokens is None:
        del settings["image_seq_length"]
    (place / PROCESSOR).write_text(json.dumps(settings))
    with pytest.raises(ModelUnsupported, match="4: the model's") as caught:
        load_text(place, Checkpoint(place).spec)
    assert caught.value.where == "image_seq_length"


def test_tiles_are_cut_whatever_the_image_processors_file_says(changed):
    """The stock processor calls it so: the file's own setting is for who calls it alone."""
    place = changed(INTERNVL, PROCESSOR, "crop_to_patches", value=False)
    plan = load_text(place, Checkpoint(place).spec).images
    assert plan.most_tiles == 7


@pytest.mark.parametrize("role", ["start_image_token", "end_image_token", "context_image_token"])
def test_a_tokenizer_without_a_token_that_internvl_needs(models, tmp_path, role):
    place = shutil.copytree(models[INTERNVL], tmp_path / "model")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    del settings[role], settings["model_specific_special_tokens"][role]
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelUnsupported, match=role):
        load_text(place, Checkpoint(place).spec)


def test_a_tokenizer_as_transformers_4_wrote_it(models, tmp_path):
    """As OpenGVLab/InternVL3-1B-hf has it: named tokens at the top and in a dictionary."""
    place = shutil.copytree(models[INTERNVL], tmp_path / "model")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings["extra_special_tokens"] = settings.pop("model_specific_special_tokens")
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs, ours = (load_text(each, Checkpoint(each).spec) for each in (place, models[INTERNVL]))
    assert (theirs.images, theirs.tokenizer_json) == (ours.images, ours.tokenizer_json)
    assert theirs.chat.image_token == ours.chat.image_token == "<IMG_CONTEXT>"


def test_a_newline_in_a_model_that_has_none(models, tmp_path):
    plain = write_random_checkpoint(tmp_path / "llava")
    stray = shutil.copytree(models["next-siglip-llama"], tmp_path / "stray")
    shutil.copyfile(plain / CONFIG, stray / CONFIG)
    with pytest.raises(ModelUnsupported, match="image_newline"):
        Checkpoint(stray)
