"""vlm/random/model.py: directories that the library loads in full, reproducible, with telling logits."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from allrounder.errors import InputInvalid
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.random.model import LARGE, SHAPES, TINY, TINY_TILES, random_config, write_random_checkpoint


@pytest.mark.parametrize("shape", TINY)
def test_stock_classes_load_and_answer(tmp_path, shape):
    write_random_checkpoint(tmp_path, shape)
    model, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = LlavaProcessor.from_pretrained(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=Image.effect_noise((40, 60), 80).convert("RGB"), text=text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert 0.7 < logits.std() < 1.4
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == Checkpoint(tmp_path).spec.image_tokens


def test_the_seed_decides(tmp_path):
    first = Checkpoint(write_random_checkpoint(tmp_path / "a", seed=1))
    again = Checkpoint(write_random_checkpoint(tmp_path / "b", seed=1))
    other = Checkpoint(write_random_checkpoint(tmp_path / "c", seed=2))
    assert first.digest == again.digest != other.digest
    name = "decoder.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first.read(name), other.read(name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_smaller_dtypes_hold_the_rounded_numbers(tmp_path, dtype):
    wide = Checkpoint(write_random_checkpoint(tmp_path / "wide"))
    narrow = Checkpoint(write_random_checkpoint(tmp_path / "narrow", dtype=dtype))
    assert all(torch.equal(wide.read(name).to(dtype), narrow.read(name)) for name in wide.names())


def test_an_unknown_shape_lists_those_there_are():
    with pytest.raises(InputInvalid, match=r"0\.5b"):
        random_config("7b")


def test_tiny_is_everything_but_the_large_ones():
    assert {*TINY, *TINY_TILES, *LARGE} == set(SHAPES)
