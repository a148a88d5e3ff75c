"""The shipped demo model is a stock Hugging Face directory and answers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from allrounder.demo.evaluate import Evaluator, Score
from allrounder.demo.honesty import Pruning, grade, make_sheets, random_layers
from allrounder.demo.model import TINY, build_model, save_model
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.demo.tokenizer import build_tokenizer, render_prompt
from allrounder.demo.training.packing import Packer

SHIPPED = Path(__file__).parents[2] / "models" / "demo"
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    save_model(build_model(tokenizer, TINY, seed=0), tokenizer, out)
    return out


def test_stock_classes_load_it(tiny: Path) -> None:
    processor = LlavaProcessor.from_pretrained(tiny)
    model = LlavaForConditionalGeneration.from_pretrained(tiny)
    assert model.dtype == torch.bfloat16
    example = next(examples(Split.TEST, 1))
    inputs = processor(images=example.image, text=render_prompt("what?"), return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 576
    assert inputs["pixel_values"].shape == (1, 3, 192, 192)
    assert inputs["pixel_values"].abs().max() <= 1


def test_chat_template_renders_the_training_prompt(tiny: Path) -> None:
    processor = LlavaProcessor.from_pretrained(tiny)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is red?"}]}
    assert processor.apply_chat_template([asked], add_generation_prompt=True) == render_prompt("what is red?")
    told = {"role": "assistant", "content": [{"type": "text", "text": "a red ring."}]}
    whole = processor.apply_chat_template([asked, told])
    assert whole == render_prompt("what is red?") + " a red ring.</s>"


def test_evaluation_counts(tiny: Path) -> None:
    scores = Evaluator.load(tiny).evaluate(examples(Split.TEST, 3), batch=2)
    assert scores["all"].asked == 3
    assert Score(1, 4).accuracy == 0.25


def test_grading_packed_questions_equals_generating_them(tiny: Path) -> None:
    evaluator = Evaluator.load(tiny)
    packer = Packer(build_tokenizer())
    sheets = make_sheets(evaluator.model, packer, 1, 2, Split.TEST)
    shares = grade(evaluator.model, sheets, Pruning())
    assert shares["all"] == 0
    assert grade(evaluator.model, sheets, Pruning(random_layers(3, 0), 128))["all"] == 0
    assert len(random_layers(24, 0)) == 6
    assert min(random_layers(24, 1, 2)) >= 2


shipped = pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="models/demo is not trained yet")


@shipped
def test_the_shipped_model_answers() -> None:
    asked = examples(Split.VALIDATION, 10)
    scores = Evaluator.load(SHIPPED).evaluate(asked, batch=5)
    assert scores["all"].accuracy >= 0.7


@shipped
def test_the_shipped_model_is_small_and_shaped_as_promised() -> None:
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 24
    assert config["image_seq_length"] == 576
    assert (SHIPPED / "model.safetensors").stat().st_size < 40 * MEBIBYTE
    assert sum(file.stat().st_size for file in (SHIPPED / "calibration").rglob("*.*")) < 3 * MEBIBYTE
