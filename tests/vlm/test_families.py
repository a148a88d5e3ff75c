"""The canvas families: what their directories mean, and what is refused, by its name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from allrounder.errors import ModelUnsupported
from allrounder.images.plan import Canvases
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_model, load_text
from allrounder.vlm.random.model import TINY_CANVASES, write_random_checkpoint

NEXT, ONEVISION = "next-clip-mistral", "onevision-siglip-qwen2"
CONFIG, PROCESSOR = "config.json", "processor_config.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {shape: write_random_checkpoint(root / shape, shape) for shape in TINY_CANVASES}


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


@pytest.mark.parametrize("shape", [NEXT, ONEVISION])
def test_both_layouts_of_names_are_the_same_model(models, shape, tmp_path):
    newer = write_random_checkpoint(tmp_path / "newer", shape, layout="newer")
    ours = [load_model(each).model.state_dict() for each in (models[shape], newer)]
    assert ours[0].keys() == ours[1].keys()
    assert all(torch.equal(tensor, ours[1][name]) for name, tensor in ours[0].items())


@pytest.mark.parametrize(
    ("shape", "key", "value", "where"),
    [
        (NEXT, "vision_feature_select_strategy", "full", "vision_feature_select_strategy"),
        (ONEVISION, "vision_feature_select_strategy", "default", "vision_feature_select_strategy"),
        (NEXT, "image_token_index", 999, "image_token_index"),
        (NEXT, "text_config.rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, None),
        (NEXT, "text_config.sliding_window", 64, "text_config.sliding_window"),
        (NEXT, "projector_hidden_act", "tanh", "projector_hidden_act"),
        (NEXT, "image_grid_pinpoints", [[42, 84]], "image_grid_pinpoints"),
        (ONEVISION, "image_grid_pinpoints", [[42, 42], [84, 42]], "image_grid_pinpoints"),
        (ONEVISION, "vision_aspect_ratio", "pad", "vision_aspect_ratio"),
        (ONEVISION, "vision_aspect_ratio", "anyres_max_0", "vision_aspect_ratio"),
    ],
)
def test_a_config_key_that_is_not_supported(changed, shape, key, value, where):
    place = changed(shape, CONFIG, key, value)
    with pytest.raises(ModelUnsupported) as caught:
        load_text(place, Checkpoint(place).spec)
    assert caught.value.where == (where or f"{key}.rope_type")


@pytest.mark.parametrize(
    ("shape", "key", "value"),
    [
        (NEXT, "size", {"shortest_edge": 84}),
        (NEXT, "crop_size", {"height": 84, "width": 84}),
        (NEXT, "do_convert_rgb", False),
        (NEXT, "image_grid_pinpoints", [[42, 84], [84, 84]]),
        (ONEVISION, "size", {"height": 84, "width": 84}),
        (ONEVISION, "resample", 0),
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


def test_a_newline_in_a_model_that_has_none(models, tmp_path):
    plain = write_random_checkpoint(tmp_path / "llava")
    stray = shutil.copytree(models["next-siglip-llama"], tmp_path / "stray")
    shutil.copyfile(plain / CONFIG, stray / CONFIG)
    with pytest.raises(ModelUnsupported, match="image_newline"):
        Checkpoint(stray)
