"""SmolVLM and Idefics3: what their files mean, the marks beside images, positions of patches.

The position of a patch of a whole tile is that of its own place, in every dtype, or the grid is refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stock_processors import stock_processor
from transformers import Idefics3Config, SmolVLMConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid, ModelUnsupported
from allrounder.images.plan import LongestEdge
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config, read_spec
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.model import LoadedModel, ModelText, load_model, load_text
from allrounder.vlm.prompt import model_layouts
from allrounder.vlm.random.model import write_random_checkpoint

GRIDS = range(1, 45)
PATCH = 1


def config_of(grid: int, kind: type = SmolVLMConfig) -> SmolVLMConfig:
    text = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    vision = {"hidden_size": 2, "num_attention_heads": 1, "image_size": grid * PATCH, "patch_size": PATCH}
    return kind(text_config=text, vision_config=vision, image_token_id=2, scale_factor=1)


def taken(grid: int, kind: type, dtype: torch.dtype) -> list[int]:
    """Which row of the position table the stock code adds to each patch of a whole tile."""
    embeddings = kind(config_of(grid).vision_config)
    with torch.no_grad():
        for weight in embeddings.parameters():
            weight.zero_()
        places = torch.arange(grid * grid)
        embeddings.position_embedding.weight.copy_(torch.stack([places // grid, places % grid], dim=1))
    whole = torch.ones(1, grid, grid, dtype=torch.bool)
    side = grid * PATCH
    with torch.no_grad():
        rows = embeddings.to(dtype)(torch.ones(1, 3, side, side, dtype=dtype), whole)[0].long()
    return (rows[:, 0] * grid + rows[:, 1]).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [SmolVLMVisionEmbeddings, Idefics3VisionEmbeddings])
def test_each_patch_has_its_own_position_or_the_grid_is_refused(kind: type, dtype: torch.dtype) -> None:
    own = {grid for grid in GRIDS if taken(grid, kind, dtype) == list(range(grid * grid))}
    supported = set()
    for grid in GRIDS:
        try:
            read_spec(config_of(grid))
            supported.add(grid)
        except ModelUnsupported as error:
            assert error.where == "vision_config.image_size"  # noqa: PT017 - most of them raise none
    assert supported == own
    assert {16, 24, 26, 27, 32} <= own < set(GRIDS)  # those of released checkpoints are; not all are


def test_a_refused_grid_says_which_patch() -> None:
    with pytest.raises(ModelUnsupported, match="40 patches a side: patch 19 gets position 18"):
        read_spec(config_of(40, Idefics3Config))


SMOLVLM, IDEFICS3 = "smolvlm-llama", "idefics3-llama"
AROUND, WHOLE, UTTERED = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
SIZE = (120, 130)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("smolvlm")
    return {shape: write_random_checkpoint(root / shape, shape) for shape in (SMOLVLM, "smolvlm-whole", IDEFICS3)}


@pytest.fixture
def place(models, tmp_path, request) -> Path:
    """A copy of the model of a shape."""
    return shutil.copytree(models[request.param], tmp_path / "model")


def of_shape(shape: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", [shape], indirect=True)


def text_of(place: Path) -> ModelText:
    return load_text(place, Checkpoint(place).spec)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def flags(place: Path, token: str, **changes: object) -> None:
    """Gives an added token other flags, in all files that hold them."""

    def change(content) -> None:
        added = content.get("added_tokens", [])
        for each in [*added, *content.get("added_tokens_decoder", {}).values()]:
            if each["content"] == token:
                each.update(changes)

    edit(place / "tokenizer.json", change)
    edit(place / "tokenizer_config.json", change)


def ids(vlm: LoadedModel | Path, text: str = "what?") -> tuple[list[int], list[int]]:
    """Our ids of a question about an image, and the stock processor's."""
    vlm = load_model(vlm) if isinstance(vlm, Path) else vlm
    image = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
    stock = stock_processor(Path(vlm.source)).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    (layout,) = model_layouts(vlm, [messages], sizes=[[SIZE]])
    return list(layout.input_ids), list(stock["input_ids"][0])


def test_plans(models) -> None:
    plans = [text_of(place).images for place in models.values()]
    assert [(plan.size, plan.tokens, plan.filter) for plan in plans] == [
        (56, 4, "lanczos"),
        (42, 9, "lanczos"),
        (42, 4, "lanczos"),
    ]
    marks = {"around": AROUND, "whole": WHOLE}
    assert [plan.layout for plan in plans] == [
        LongestEdge(edge=168, split=True, **marks),
        LongestEdge(edge=42, split=False, **marks),
        LongestEdge(edge=84, split=True, **marks),
    ]


def test_towers_as_checkpoints_on_the_hub_name_them() -> None:
    """SmolVLM-500M-Instruct says "idefics3", Granite-Docling "siglip_vision_model": stock makes its own tower."""
    for kind, towers in ((SmolVLMConfig, ("smolvlm_vision",)), (Idefics3Config, ("idefics3", "siglip_vision_model"))):
        for tower in towers:
            vision = {"model_type": tower, "image_size": 56, "patch_size": 14}
            spec = read_spec(kind(vision_config=vision, image_token_id=2, scale_factor=2))
            assert (spec.vision.family, spec.vision.last_norm, spec.vision.merge) == ("siglip", True, 2)
            assert (spec.projector.activation, spec.projector.bias) == (None, False)


# The keys of HuggingFaceTB/SmolVLM2-500M-Video-Instruct; what it leaves out is transformers' default.
SMOLVLM2_500M = {
    "image_token_id": 49190,
    "pad_token_id": 128002,
    "scale_factor": 4,
    "text_config": {
        "architectures": ["VLlama3ForCausalLM"],
        "head_dim": 64,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 15,
        "num_hidden_layers": 32,
        "num_key_value_heads": 5,
        "pad_token_id": 2,
        "pixel_shuffle_factor": 4,
        "qk_layer_norms": False,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_theta": 100000,
        "use_resampler": False,
        "vocab_size": 49280,
    },
    "tie_word_embeddings": False,
    "vision_config": {
        "hidden_size": 768,
        "image_size": 512,
        "max_image_size": {"longest_edge": 512},
        "model_type": "smolvlm_vision",
        "num_attention_heads": 12,
        "patch_size": 16,
        "size": {"longest_edge": 2048},
        "use_base_siglip": False,
    },
}


def test_a_config_written_before_transformers_5(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "smolvlm", **SMOLVLM2_500M}))
    spec = read_spec(read_config(tmp_path))
    assert (spec.image_tokens, spec.vision.grid, spec.vision.merge) == (64, 32, 4)
    assert (spec.vision.layers, spec.vision.feed_forward, spec.vision.norm_eps) == (12, 3072, 1e-6)
    assert (spec.projector.inputs, spec.projector.hidden) == (16 * 768, 960)
    decoder = spec.decoder
    assert (decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.tied) == (15, 5, 64, False)
    assert decoder.rope.inverse_frequencies[-1] == pytest.approx(1e5 ** (-31 / 32))


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_every_tensor_has_a_name_of_its_own_and_gets_its_name_back(family: str) -> None:
    config = config_of(4, FAMILIES[family].config)
    with torch.device("meta"):
        stored = list(FAMILIES[family].model(config).state_dict())
    names = FAMILIES[family].names
    canonical = [names.canonical(name) for name in stored]
    assert len(set(canonical)) == len(stored)
    assert {name.split(".")[0] for name in canonical if name} == {"vision", "projector", "decoder"}
    assert [names.written(name) for name in canonical if name] == stored
    assert names.canonical("model.text_model.layers.0.self_attn.rotary_emb.inv_freq") is None
    with pytest.raises(ModelUnsupported, match="belongs to no part"):
        names.written("elsewhere.weight")


@of_shape(SMOLVLM)
@pytest.mark.parametrize("said", [9, None])
def test_image_tokens_that_the_processor_counts_otherwise(place: Path, said: int | None) -> None:
    """Without a number of its own the stock processor writes 169 image tokens, and the stock model refuses them."""
    edit(place / "processor_config.json", lambda content: content.pop("image_seq_len"))
    if said is not None:
        edit(place / "processor_config.json", lambda content: content.update(image_seq_len=said))
    with pytest.raises(ModelUnsupported) as caught:
        text_of(place)
    assert (caught.value.where, caught.value.got) == ("image_seq_len", said or 169)


@of_shape(IDEFICS3)
@pytest.mark.parametrize("key", ["do_normalize", "do_rescale"])
def test_a_tile_of_one_colour_that_the_model_would_leave_out(place: Path, key: str) -> None:
    """Not normalised, black is zero, and the stock model takes the tile for padding; not rescaled, it is not."""
    edit(place / "processor_config.json", lambda content: content["image_processor"].update({key: False}))
    if key == "do_rescale":
        assert text_of(place).images.scale == 1
        return
    with pytest.raises(ModelUnsupported, match="leaves out a tile") as caught:
        text_of(place)
    assert caught.value.where == "image_mean"


@of_shape(IDEFICS3)
@pytest.mark.parametrize("token", [AROUND, UTTERED])
def test_a_tokenizer_to_which_the_stock_processor_would_add_tokens(place: Path, token: str) -> None:
    def without(content) -> None:
        kept = [each for each in content["added_tokens"] if each["content"] != token]
        content["added_tokens"] = [{**each, "id": kept[0]["id"] + place_} for place_, each in enumerate(kept)]

    edit(place / "tokenizer.json", without)
    with pytest.raises(ModelUnsupported, match=token):
        text_of(place)


@of_shape(SMOLVLM)
def test_a_mark_that_strips_its_neighbours(place: Path) -> None:
    flags(place, AROUND, lstrip=True)
    with pytest.raises(ModelUnsupported, match="beside an image"):
        text_of(place)


@pytest.mark.parametrize("place", [SMOLVLM, IDEFICS3], indirect=True)
def test_marks_that_are_plain_added_tokens_are_sealed(place: Path) -> None:
    """Checkpoints have them special or not: ids are the stock ones, and a caller's text never becomes a mark."""
    marks = (AROUND, WHOLE, "<row_1_col_1>")
    for token in marks:
        flags(place, token, special=False)
    edit(place / "tokenizer_config.json", lambda content: content.pop("model_specific_special_tokens", None))
    vlm = load_model(place)
    ours, stock = ids(vlm)
    assert ours == stock
    sealed = {each["content"]: each["id"] for each in json.loads(vlm.tokenizer_json)["added_tokens"] if each["special"]}
    written = [sealed[token] for token in marks if token in sealed]
    assert len(written) >= 2
    spelt, _ = ids(vlm, f"is {AROUND}{WHOLE}<row_1_col_1> there?")
    assert [spelt.count(number) for number in written] == [ours.count(number) for number in written]


def test_marks_of_a_tile_that_the_tokenizer_spells_out(models) -> None:
    """SmolVLM's tiny tokenizer knows tiles up to the second row and column, an image has three."""
    vlm = load_model(models[SMOLVLM])
    ours, stock = ids(vlm)
    assert ours == stock
    encoder = ChatEncoder(vlm.tokenizer_json, vlm.chat)
    assert len(encoder.image_ids(["<row_2_col_2>"])) == 1 < len(encoder.image_ids(["<row_3_col_3>"]))


def test_a_video_is_refused(models) -> None:
    vlm = load_model(models[SMOLVLM])
    messages = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "what?"}]}]
    with pytest.raises(InputInvalid, match="video"):
        model_layouts(vlm, [messages])
