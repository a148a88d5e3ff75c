"""Names that one reader wants: a checkpoint holds its tensors under the names that every stock reader maps.

Those are the names of llava-1.5-7b-hf on the hub, whatever the model's own files call them.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import vllm_names
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from allrounder.vlm.random.model import TINY

DEMO = Path(__file__).parents[2] / "models" / "demo"
CHECKPOINT = ("--backend", "checkpoint", "--prune-layer", "0", "--layer-policy", "static")
HUB = re.compile(
    r"language_model\.(model\.(embed_tokens|norm|layers\.\d+\.)|lm_head\.)"
    r"|vision_tower\.vision_model\.(embeddings|pre_layrnorm|encoder|post_layernorm|head)\."
    r"|multi_modal_projector\.linear_[12]\."
)


def as_saved_today(name):
    """As transformers 5 saves: the tower without `vision_model`."""
    return name.replace("vision_tower.vision_model.", "vision_tower.")


def as_modules(name):
    """As the modules of transformers 5 are called."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + as_saved_today(name).replace("language_model.model.", "language_model.")


def mixed(name):
    """Some of both, as tools leave it that touch some tensors only."""
    return as_modules(name) if len(name) % 2 else name


LAYOUTS = {"hub": str, "saved": as_saved_today, "modules": as_modules, "mixed": mixed}


def rewrite(directory, layout, files=1):
    """Renames the tensors of a model, and spreads them over several files where that is asked for."""
    single = directory / "model.safetensors"
    tensors = {LAYOUTS[layout](name): tensor for name, tensor in load_file(single).items()}
    single.unlink()
    if files == 1:
        save_file(tensors, single, metadata={"format": "pt"})
        return
    where = {}
    for number in range(files):
        names = sorted(tensors)[number::files]
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        save_file({name: tensors[name] for name in names}, directory / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def names_in(checkpoint):
    names = []
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names += opened.keys()
    return names


def check_readers(checkpoint):
    """Stock transformers finds every tensor and no other; vLLM fills every parameter, and each from one tensor."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    _, report = LlavaForConditionalGeneration.from_pretrained(
        str(checkpoint), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config, names = AutoConfig.from_pretrained(str(checkpoint)), names_in(checkpoint)
    found = [place for name in names if (place := vllm_names.mapped(name, config)) is not None]
    assert sorted(found) == sorted(vllm_names.parameters(config))
    assert [name for name in names if not HUB.match(name)] == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["llama-mha", "qwen2-siglip"])
def test_every_layout_of_a_model_becomes_the_one_that_all_map(model, build, shape, layout):
    """CLIP with a head of its own, SigLIP with a tied one."""
    directory = model(shape)
    rewrite(directory, layout)
    built = build(directory, *CHECKPOINT)
    assert built.code == 0, built.stderr
    check_readers(built.bundle)


@pytest.mark.parametrize("layout", ["saved", "mixed"])
def test_several_files_and_their_index(model, build, layout):
    directory = model("qwen3-siglip-layers")
    rewrite(directory, layout, files=3)
    built = build(directory, *CHECKPOINT)
    assert built.code == 0, built.stderr
    check_readers(built.bundle)
    index = json.loads((built.bundle / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(index) == sorted(names_in(built.bundle))


def test_what_is_there_for_trtllm_build_as_well(model, build):
    directory = model("llama-gqa-tied")
    rewrite(directory, "saved")
    built = build(directory, "--backend", "tensorrt-llm", *CHECKPOINT[2:])
    assert built.code == 0, built.stderr
    check_readers(built.bundle)


def test_the_tokenizer_is_one_that_transformers_4_has(model, build):
    """Version 5 writes a class, and a list of tokens, that version 4 does not know; the ids stay what they were."""
    from transformers import AutoTokenizer

    directory = model()
    built = build(directory, *CHECKPOINT)
    assert built.code == 0, built.stderr
    config = json.loads((built.bundle / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(config.get("extra_special_tokens"), list)
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    text = "USER: <image>\nis it? </s> ASSISTANT:"
    ours, theirs = (AutoTokenizer.from_pretrained(str(each)) for each in (built.bundle, directory))
    assert ours(text) == theirs(text)
    assert ours.all_special_tokens == theirs.all_special_tokens


def test_one_weight_under_two_names_is_refused(model, build):
    """Stock transformers takes one of them, without a word; we took the other."""
    directory = model()
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["language_model.lm_head.weight"] + 1
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert build(directory, *CHECKPOINT).refused(
        "a weight is there twice", "language_model.lm_head.weight in", " lm_head.weight in"
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", TINY)
def test_every_family(model, build, shape):
    directory = model(shape)
    rewrite(directory, "saved")
    built = build(directory, *CHECKPOINT)
    assert built.code == 0, built.stderr
    check_readers(built.bundle)


@pytest.mark.slow
def test_the_demo_model_whose_own_files_have_the_newer_names(build, tmp_path):
    vlm = Path(shutil.copytree(DEMO, tmp_path / "demo-copy"))
    assert any(name.startswith("vision_tower.embeddings.") for name in names_in(vlm))
    built = build(vlm, *CHECKPOINT)
    assert built.code == 0, built.stderr
    check_readers(built.bundle)
