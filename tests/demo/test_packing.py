"""The demo's tokenizer and the packing of many questions into one row."""

from functools import cache

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from allrounder.demo.drawing import draw, to_pixels
from allrounder.demo.model import TINY, build_model
from allrounder.demo.questions import sample_questions
from allrounder.demo.scenes import Split, sample_scene
from allrounder.demo.tokenizer import IMAGE, build_tokenizer, render_prompt
from allrounder.demo.training.attention import PACKED_ATTENTION, use_training_attention
from allrounder.demo.training.lessons import Learner
from allrounder.demo.training.packing import IGNORED, Packer, visible


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "what is the red object?",
        "what is the red object ?",
        "Where is it",
        "Größe 12 — \N{SNOWMAN}\t\r\n",
        bytes(range(128)).decode(),
    ],
)
def test_tokenizer_round_trip(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False)
    assert tokenizer().decode(ids) == text


def test_common_words_are_single_tokens() -> None:
    assert len(tokenizer()) <= 700
    assert tokenizer().tokenize("what is the red object?") == ["what", "Ġis", "Ġthe", "Ġred", "Ġobject", "?"]
    assert tokenizer().tokenize("object ?") != tokenizer().tokenize("object?")
    assert tokenizer().encode(IMAGE, add_special_tokens=False) == [tokenizer().convert_tokens_to_ids(IMAGE)]


def test_a_packed_row_holds_the_very_tokens_of_a_single_prompt() -> None:
    questions = sample_questions(sample_scene(Split.TRAIN, 1), 4)
    text = Packer(tokenizer()).pack([questions])
    for number, question in enumerate(questions, 1):
        mine = text.segments[0] == number
        alone = tokenizer().encode(render_prompt(question.text) + " " + question.answer, add_special_tokens=False)
        after = alone[alone.index(tokenizer().convert_tokens_to_ids(IMAGE)) + 1 :]
        assert text.ids[0][mine].tolist() == after
        learned = text.labels[0][mine]
        told = learned[learned != IGNORED].tolist()
        assert tokenizer().decode(told) == f" {question.answer}</s>"


@torch.inference_mode()
def test_packed_questions_are_answered_as_single_ones() -> None:
    """The packed training pass and the stock model with one prompt give the same logits."""
    learner = Learner(tokenizer(), TINY, seed=3).eval()
    stock = build_model(tokenizer(), TINY, seed=3).eval()
    stock.load_state_dict(learner.model.state_dict())
    scene = sample_scene(Split.TRAIN, 2)
    questions = sample_questions(scene, 3)
    text = Packer(tokenizer()).pack([questions])
    pixels = to_pixels(draw(scene)[None])
    image_embeds = learner.model.model.multi_modal_projector(learner.tower_features(pixels))
    packed = packed_logits(learner, image_embeds, text)
    image_id = tokenizer().convert_tokens_to_ids(IMAGE)
    for number, question in enumerate(questions, 1):
        ids = tokenizer().encode(render_prompt(question.text) + " " + question.answer, add_special_tokens=False)
        place = ids.index(image_id)
        ids = ids[:place] + [image_id] * image_embeds.shape[1] + ids[place + 1 :]
        single = stock(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, place + image_embeds.shape[1] :]
        torch.testing.assert_close(packed[0][text.segments[0] == number], single, rtol=1e-4, atol=1e-4)


def packed_logits(learner: Learner, image_embeds: torch.Tensor, text) -> torch.Tensor:
    """What ``Learner.answer_loss`` computes before its loss."""
    kept = {}
    hook = learner.model.model.language_model.register_forward_hook(lambda _m, _i, out: kept.update(out=out))
    learner.answer_loss(image_embeds, torch.arange(image_embeds.shape[1]), text)
    hook.remove()
    hidden = kept["out"].last_hidden_state[:, text.head.shape[0] + image_embeds.shape[1] :]
    return learner.model.lm_head(hidden)


@torch.inference_mode()
def test_packed_attention_equals_dense_masked_attention() -> None:
    use_training_attention()
    model = build_model(tokenizer(), TINY, seed=1).model.language_model.eval()
    torch.manual_seed(0)
    prefix, text, hidden = 37, 11, torch.randn(2, 48, TINY.hidden)
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3]])
    mask = torch.ones(48, 48, dtype=torch.bool).tril().expand(2, 1, -1, -1).clone()
    mask[:, :, prefix:, prefix:] = visible(segments)
    dense = model(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
    model.set_attn_implementation(PACKED_ATTENTION)
    packed = model(inputs_embeds=hidden, attention_mask=mask[:, :, -text:]).last_hidden_state
    torch.testing.assert_close(packed, dense, rtol=1e-4, atol=1e-4)
