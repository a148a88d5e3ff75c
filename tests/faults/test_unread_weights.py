"""No weight is left unread without a word: what the stock model does not have is refused and named."""

import json
import shutil

import pytest
import torch
from doors import IMAGE, QUESTION, like_stock, reweigh
from safetensors.torch import load_file, save_file

from allrounder.commands.cli import main

LAYER = "language_model.model.layers.2."


@pytest.mark.parametrize(
    "name",
    [
        LAYER + "self_attn.q_proj.lora_A.weight",
        LAYER + "self_attn.q_proj.lora_A.default.weight",
        "base_model.model." + LAYER + "self_attn.q_proj.weight",
        LAYER + "self_attn.q_proj.bias",
        LAYER + "self_attn.q_norm.weight",
        LAYER + "self_attn.q_proj.weight_scale",
        LAYER + "self_attn.q_proj.qweight",
        LAYER + "self_attn.q_proj.weight.absmax",
        LAYER + "mlp.experts.0.up_proj.weight",
        "language_model.model.layers.5.mlp.up_proj.weight",
        "language_model.lm_head.bias",
        "language_model.model.embed_positions.weight",
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
        "vision_tower.vision_model.embeddings.patch_embedding.bias",
        "multi_modal_projector.linear_3.weight",
        "multi_modal_projector.layernorm.weight",
        "model.image_newline",
        "image_newline",
        "text_encoder.weight",
        "weight",
    ],
)
def test_a_weight_that_nobody_reads_is_refused_by_its_name(model, build, name):
    directory = model()
    reweigh(directory, lambda tensors: tensors.update({name: torch.ones(4)}))
    built = build(directory)
    assert built.refused(name, "1 weights", "remedy"), built.stderr


def test_many_are_counted_and_the_first_named(model, build):
    directory = model()
    extra = {f"{LAYER}mlp.up_proj.lora_{side}.{i}": torch.ones(2) for side in "AB" for i in range(40)}
    reweigh(directory, lambda tensors: tensors.update(extra))
    built = build(directory)
    assert built.refused("80 weights", "lora_A.0", ", ..."), built.stderr
    assert len(built.stderr) < 2000


@pytest.mark.parametrize(
    "name",
    [
        LAYER + "self_attn.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
        "vision_tower.vision_model.head.probe",
        "vision_tower.vision_model.post_layernorm.other",
    ],
)
def test_what_no_answer_can_depend_on_may_be_there(model, build, name):
    directory = model()
    reweigh(directory, lambda tensors: tensors.update({name: torch.ones(4)}))
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def test_layers_of_the_tower_that_no_feature_needs_may_be_missing(model, build):
    directory = model()
    unread = "vision_tower.vision_model.encoder.layers.2."

    def drop(tensors):
        for name in [name for name in tensors if name.startswith(unread) or "post_layernorm" in name]:
            del tensors[name]

    reweigh(directory, drop)
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_refused(model, build, name):
    """Stock `from_pretrained` loads it where peft is installed, and leaves it out where not."""
    directory = model()
    (directory / name).write_text('{"base_model_name_or_path": "x", "peft_type": "LORA"}')
    assert build(directory).refused("adapter", name, "merge_and_unload")


def test_an_adapter_alone_is_refused_as_one(model, build):
    directory = model()
    for file in directory.iterdir():
        file.unlink()
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    assert build(directory).refused("adapter", "merge_and_unload")


# ---- several files ---------------------------------------------------------------------------------------------------


def shard(directory):
    """Splits the weights in two and gives their names."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files, place = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], {}
    for file, names in zip(files, (sorted(tensors)[::2], sorted(tensors)[1::2]), strict=True):
        save_file({name: tensors[name] for name in names}, directory / file, {"format": "pt"})
        place |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": place}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def test_a_weight_in_two_shards_is_refused(model, build):
    directory = model()
    first, second = shard(directory)
    flat_copy = load_file(directory / second)
    name = next(iter(flat_copy))
    reweigh(directory, lambda tensors: tensors.update({name: flat_copy[name] + 1}), first)
    assert build(directory).refused("twice", name, first, second)


def test_a_weight_under_two_names_is_refused(model, build):
    directory = model()
    older, newer = LAYER + "mlp.up_proj.weight", "model.language_model.layers.2.mlp.up_proj.weight"
    reweigh(directory, lambda tensors: tensors.update({newer: tensors[older] + 1}))
    assert build(directory).refused("twice", older, newer)


def test_a_shard_that_the_index_does_not_name_is_not_read_as_transformers_does(model, build):
    directory = model()
    shard(directory)
    stray = {name: torch.ones(2) for name in ("language_model.model.norm.weight", "foreign")}
    save_file(stray, directory / "model-00003-of-00003.safetensors", {"format": "pt"})
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def test_one_file_comes_before_an_index_as_in_transformers(model, build):
    directory, other = model(), model(name="other", seed=1)
    shard(other)
    for file in other.glob("model*"):
        shutil.copy(file, directory)
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def test_a_distributed_checkpoint_is_refused(model, build):
    """Newer releases of transformers read it in place of `model.safetensors`."""
    directory = model()
    shutil.copy(directory / "model.safetensors", directory / "shard-00000-model-00001-of-00001.safetensors")
    assert build(directory).refused("distributed", "shard-00000")


@pytest.mark.parametrize("command", ["train-router", "report"])
def test_other_commands_refuse_the_same_files(model, tmp_path, capfd, command):
    directory = model()
    reweigh(directory, lambda tensors: tensors.update({LAYER + "self_attn.q_proj.lora_A.weight": torch.ones(4)}))
    shutil.copy(IMAGE, tmp_path)
    prompts, others = tmp_path / "prompts.jsonl", tmp_path / "others.jsonl"
    for path, question in ((prompts, QUESTION), (others, "and what is blue?")):
        path.write_text(json.dumps({"image": IMAGE.name, "question": question}) + "\n")
    more = {
        "train-router": ["--prompts", str(prompts), "--out", str(tmp_path / "router")],
        "report": ["--calib", str(prompts), "--rank", str(others), "--router", str(tmp_path)],
    }
    assert main([command, "--model", str(directory), *more[command]]) == 2
    assert "lora_A" in capfd.readouterr().err
