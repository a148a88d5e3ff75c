"""vlm/model.py: directories old and new, the hub, and checkpoints that are no model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LlavaProcessor

from allrounder.errors import AllRounderError, ModelUnreadable, ModelUnsupported
from allrounder.vlm import model as module
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.generation import stop_ids
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.random.model import Shape, write_random_checkpoint


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_random_checkpoint(tmp_path_factory.mktemp("stored") / "model", dtype=torch.bfloat16)


@pytest.fixture
def directory(stored, tmp_path):
    """A copy of a model that a test may damage."""
    return shutil.copytree(stored, tmp_path / "model")


def test_a_model_is_frozen_and_in_the_dtype_that_was_asked_for(stored):
    vlm = load_model(stored)
    assert vlm.model.dtype == torch.float32  # the checkpoint is bfloat16
    assert not vlm.model.training
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    assert vlm.digest == Checkpoint(stored).digest
    assert vlm.spec == Checkpoint(stored).spec
    assert vlm.stop_ids == (1,)
    assert vlm.source == str(stored)
    assert load_model(stored, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_ids_with_the_image_expanded_are_those_of_the_stock_processor(stored):
    vlm = load_model(stored)
    question = "what is it?"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    processor = LlavaProcessor.from_pretrained(stored, backend="pil")
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    stock = processor(images=Image.new("RGB", (40, 60)), text=text, return_tensors="pt")["input_ids"]
    assert text == vlm.processor.apply_chat_template([{"role": "user", "content": content}])
    assert torch.equal(model_prompt(vlm, [question]).input_ids, stock)


def test_a_directory_as_llava_1_5_has_it_on_the_hub(directory):
    """Before transformers 5: preprocessor_config.json, and the chat template in a JSON file."""
    new = load_model(directory)
    processor = json.loads((directory / "processor_config.json").read_text())
    image = processor.pop("image_processor")
    image["image_processor_type"] = "CLIPImageProcessor"
    (directory / "preprocessor_config.json").write_text(json.dumps(image))
    (directory / "processor_config.json").write_text(json.dumps(processor))
    template = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (directory / "chat_template.jinja").unlink()
    old = load_model(directory)
    assert old.chat == new.chat
    photo = Image.effect_noise((50, 30), 80).convert("RGB")
    pixels = [vlm.processor.image_processor(photo, return_tensors="pt")["pixel_values"] for vlm in (old, new)]
    assert torch.equal(*pixels)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({"eos_token_id": [1, 4]}, (1, 4)), ({"eos_token_id": 3}, (3,)), (None, (1,))],
)
def test_stop_ids(directory, generation, expected):
    (directory / "generation_config.json").unlink()
    if generation is not None:
        GenerationConfig(**generation).save_pretrained(directory)
    assert stop_ids(directory) == expected


def test_no_stop_token(tmp_path):
    out = write_random_checkpoint(tmp_path, Shape(text={"eos_token_id": None}))
    with pytest.raises(ModelUnsupported) as caught:
        stop_ids(out)
    assert caught.value.where == "eos_token_id"


def test_a_text_only_checkpoint(tmp_path):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupported, match="text-only") as caught:
        load_model(tmp_path)
    assert caught.value.where == "model_type"


def test_truncated_weights(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelUnreadable, match="truncated"):
        load_model(directory)


def test_a_weight_that_is_not_there_is_named(directory):
    tensors = load_file(directory / "model.safetensors")
    del tensors["language_model.model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnreadable, match=r"layers\.3\.mlp\.up_proj\.weight"):
        load_model(directory)


def test_a_weight_of_another_shape_is_named(directory):
    tensors = load_file(directory / "model.safetensors")
    tensors["language_model.model.norm.weight"] = torch.ones(7, dtype=torch.bfloat16)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnreadable, match=r"norm\.weight"):
        load_model(directory)


@pytest.mark.parametrize("missing", ["tokenizer.json", "processor_config.json"])
def test_no_tokenizer_or_processor(directory, missing):
    (directory / missing).unlink()
    with pytest.raises(ModelUnsupported) as caught:
        load_model(directory)
    assert caught.value.remedy


def test_no_chat_template(directory):
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnsupported) as caught:
        load_model(directory)
    assert caught.value.where == "chat_template"


def test_an_image_token_that_the_tokenizer_does_not_have(directory):
    config = json.loads((directory / "config.json").read_text())
    config["image_token_index"] = 200
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported) as caught:
        load_model(directory)
    assert caught.value.where == "image_token_index"


@pytest.mark.parametrize("source", ["no/such/place", "/no/such/place", "plain", ""])
def test_neither_directory_nor_hub_id(source):
    with pytest.raises(ModelUnreadable) as caught:
        load_model(source)
    assert caught.value.remedy


def test_a_file_is_no_directory(stored):
    with pytest.raises(ModelUnreadable):
        load_model(stored / "config.json")


def test_a_hub_id_without_connection(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(module, "snapshot_download", offline)
    with pytest.raises(AllRounderError, match="no connection") as caught:
        load_model("owner/name")
    assert "local directory" in caught.value.remedy


def test_a_hub_id_is_fetched_without_other_formats(monkeypatch, stored):
    asked = {}

    def fetch(repository, *, allow_patterns):
        asked[repository] = allow_patterns
        return str(stored)

    monkeypatch.setattr(module, "snapshot_download", fetch)
    assert load_model("owner/name").source == "owner/name"
    assert "*.safetensors" in asked["owner/name"]
    assert not any("bin" in pattern for pattern in asked["owner/name"])
