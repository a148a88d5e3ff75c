"""Weights are believed, as stock transformers believes them, where the config says something else."""

import json

import pytest
import torch
from doors import like_stock, reweigh

EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"


def flags(top=None, text=None):
    """Returns an edit of config.json that says ``top`` and ``text`` of the tied head; None says nothing."""

    def edit(config):
        for holder, value in ((config, top), (config["text_config"], text)):
            holder.pop("tie_word_embeddings", None)
            holder.update({} if value is None else {"tie_word_embeddings": value})

    return {"config.json": edit}


def equal(tensors):
    tensors[HEAD] = tensors[EMBEDDING].clone()


def lifted(tensors):
    """A head that is nearly the table: a rule that looks at shapes or at a few values would not tell them apart."""
    tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors[HEAD][-1] += 40


@pytest.mark.parametrize(
    ("top", "text", "edit"),
    [
        (True, True, lambda tensors: None),  # the head differs: not tied, whatever the flags say
        (True, None, lifted),
        (None, True, lambda tensors: None),
        (False, True, lambda tensors: None),
        (True, False, equal),
        (False, False, equal),
        (None, True, lambda tensors: tensors.pop(HEAD)),
        (True, False, lambda tensors: tensors.pop(HEAD)),
        (False, True, lambda tensors: tensors.pop(HEAD)),
        (True, None, lambda tensors: tensors.pop(EMBEDDING)),  # as savers leave it that keep the first of two names
    ],
)
def test_the_head_is_tied_as_transformers_ties_it(model, build, top, text, edit):
    directory = model(edits=flags(top, text))
    reweigh(directory, edit)
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


@pytest.mark.parametrize("missing", [EMBEDDING, HEAD])
def test_half_of_an_untied_pair_is_no_model(model, build, missing):
    directory = model(edits=flags(text=False))
    reweigh(directory, lambda tensors: tensors.pop(missing))
    assert build(directory).refused("lacks a weight")


def test_a_tied_model_without_table_and_head_is_refused(model, build):
    directory = model("llama-gqa-tied")
    reweigh(directory, lambda tensors: tensors.pop(EMBEDDING))
    assert build(directory).refused("lacks a weight", "embed_tokens")


def test_a_head_where_transformers_does_not_find_it_is_refused(model, build):
    directory = model()
    reweigh(directory, lambda tensors: tensors.update({f"model.{HEAD}": tensors.pop(HEAD)}))
    assert build(directory).refused(f"model.{HEAD}")


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float64, torch.bfloat16])
def test_a_dtype_that_the_config_does_not_claim(model, build, stored):
    """Whatever the config says of it, what is stored is what counts."""
    directory = model(edits={"config.json": lambda config: config.update(dtype="float16")})
    reweigh(directory, lambda tensors: tensors.update({name: each.to(stored) for name, each in tensors.items()}))
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def test_one_wide_tensor_among_narrow_ones(model, build):
    """A head in float32 beside weights in bfloat16: each is read as it is stored, by the graphs and by their proof."""
    directory = model(dtype=torch.bfloat16)
    reweigh(directory, lambda tensors: tensors.update({HEAD: tensors[HEAD].float() * 1.2345678}))
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def config_edits(part, **values):
    return {"config.json": lambda config: (config[part] if part else config).update(values)}


@pytest.mark.parametrize(
    ("shape", "part", "values"),
    [
        ("llama-wide-bias", "text_config", {"attention_bias": False}),
        ("llama-wide-bias", "text_config", {"mlp_bias": False}),
        ("llama-mha", "text_config", {"attention_bias": True}),
        ("llama-mha", "text_config", {"num_hidden_layers": 4}),
        ("llama-mha", "text_config", {"num_hidden_layers": 6}),
        ("llama-mha", "text_config", {"vocab_size": 319}),
        ("llama-mha", "text_config", {"model_type": "qwen3"}),
        ("qwen2-siglip", "text_config", {"model_type": "llama"}),
        ("qwen3-siglip-layers", "text_config", {"model_type": "llama"}),
        ("llama-mha", "vision_config", {"num_hidden_layers": 2}),
        ("llama-mha", "vision_config", {"image_size": 42}),
        ("llama-mha", "vision_config", {"model_type": "siglip_vision_model"}),
        ("qwen2-siglip", "vision_config", {"model_type": "clip_vision_model"}),
        ("llama-mha", None, {"multimodal_projector_bias": False}),
        ("llama-mha", None, {"vision_feature_layer": [1, 2]}),
    ],
)
def test_a_config_that_the_weights_contradict_is_refused_for_it(model, build, shape, part, values):
    built = build(model(shape, edits=config_edits(part, **values)))
    assert built.refused("weight"), built.stderr
    assert "VerificationFailed" not in built.stderr


def test_weights_under_a_name_that_the_config_gives_are_refused(model, build):
    directory = model(edits=config_edits(None, transformers_weights="other.safetensors"))
    assert build(directory).refused("transformers_weights", "other.safetensors")


def test_a_pruned_checkpoint_of_a_head_that_only_seems_tied_says_what_is_true(model, build):
    """Stacks that believe the flag alone must not tie what `checkpoint` writes."""
    directory = model(edits=flags(top=True, text=True))
    built = build(directory, "--backend", "checkpoint", "--prune-layer", "0")
    assert built.code == 0, built.stderr
    config = json.loads((built.bundle / "config.json").read_text())
    assert not config["tie_word_embeddings"]
    assert not config["text_config"]["tie_word_embeddings"]
