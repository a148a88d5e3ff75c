"""Ids of conversations, token by token, against stock `LlavaProcessor.apply_chat_template`."""

import random
from pathlib import Path

import pytest
from conversations import STRINGS, TEMPLATES, conversation
from jinja2 import TemplateError
from transformers import LlavaConfig, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from allrounder.chat.messages import read_messages
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid
from allrounder.layout import sequential_layout
from allrounder.vlm.config import read_spec
from allrounder.vlm.control_tokens import sealed_tokenizer
from allrounder.vlm.random.model import TINY, random_config
from allrounder.vlm.random.text import IMAGE, build_tokenizer, write_processor
from allrounder.vlm.template import golden_prompts, read_chat

DEMO = Path(__file__).parents[2] / "models" / "demo"


def opened(processor) -> ChatEncoder:
    chat = read_chat(processor, processor.image_token_id)
    tokenizer_json = sealed_tokenizer(processor, chat)
    assert golden_prompts(processor, tokenizer_json, chat)
    return ChatEncoder(tokenizer_json, chat)


def compared(processor, encoder, messages, image_tokens: int) -> bool:
    """Whether a conversation was taken; ours and theirs must agree either way."""
    images = read_messages(messages).images
    try:
        ids = encoder.ids(messages)
    except InputInvalid:
        with pytest.raises(TemplateError, match="an image, please"):
            processor.apply_chat_template(messages, add_generation_prompt=True)
        with pytest.raises(InputInvalid, match="an image, please"):
            encoder.ids(messages)
        return False
    stock = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    layout = sequential_layout(ids, encoder.image_token_id, [image_tokens] * len(images))
    assert list(layout.input_ids) == stock["input_ids"][0], messages
    return True


@pytest.mark.parametrize("shape", [*TINY, "demo"])
def test_the_processors_of_our_own_models(shape, tmp_path):
    config = LlavaConfig.from_pretrained(DEMO) if shape == "demo" else random_config(shape)
    if shape != "demo":
        chat = "chatml" if config.text_config.model_type.startswith("qwen") else "vicuna"
        write_processor(tmp_path, config, chat=chat)
    processor, rng = (
        LlavaProcessor.from_pretrained(DEMO if shape == "demo" else tmp_path, backend="pil"),
        random.Random(shape),
    )
    encoder, tokens = opened(processor), read_spec(config).image_tokens
    for _ in range(200 if shape in ("demo", "llama-mha", "qwen2-siglip") else 10):
        assert compared(processor, encoder, conversation(rng, strings=True), tokens)


@pytest.mark.parametrize("chat", ["vicuna", "chatml"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_as_models_have_them(name, chat):
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    template = TEMPLATES[name]
    if chat == "chatml":  # that tokenizer has no begin token
        template = template.replace("{{ bos_token }}", "{{ eos_token }}")
    processor = LlavaProcessor(images, build_tokenizer(chat), chat_template=template, image_token=IMAGE, **options)
    encoder, rng, conversations = opened(processor), random.Random(name), 200 if chat == "vicuna" else 20
    taken = [compared(processor, encoder, conversation(rng, strings=name in STRINGS), 4) for _ in range(conversations)]
    assert all(taken) if name != "picky" else 0.4 < sum(taken) / len(taken) < 1
