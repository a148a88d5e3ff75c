"""vlm/template.py: the chat template as a processor has it, and which ones cannot be used."""

import json
from datetime import datetime

import pytest
from conversations import LLAVA, TEMPLATES
from tokenizers import Tokenizer, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from allrounder.chat.messages import question
from allrounder.errors import ModelUnsupported
from allrounder.golden import GOLDEN_TIME
from allrounder.manifest import ChatTemplate
from allrounder.vlm.control_tokens import sealed_tokenizer
from allrounder.vlm.random.text import BOS, IMAGE, build_tokenizer, token_id
from allrounder.vlm.template import CONVERSATIONS, golden_prompts, read_chat

IMAGE_ID = token_id(IMAGE)
ONE = "USER: <image>\n{{ messages[0]['content'][1]['text'] }} ASSISTANT:"  # takes one shape of conversation alone


def processor_of(tokenizer, chat_template):
    return LlavaProcessor(
        CLIPImageProcessorPil(), tokenizer, patch_size=14, chat_template=chat_template, image_token=IMAGE
    )


def golden(template, tokenizer=None):
    processor = processor_of(tokenizer or build_tokenizer("vicuna"), template)
    chat = read_chat(processor, IMAGE_ID)
    return golden_prompts(processor, sealed_tokenizer(processor, chat), chat)


def test_what_is_read():
    processor = processor_of(build_tokenizer("vicuna"), LLAVA)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    assert read_chat(processor, IMAGE_ID) == ChatTemplate(template=LLAVA, special_tokens=special, image_token=IMAGE)
    processor.chat_template = {"default": ONE, "tools": LLAVA}
    assert read_chat(processor, IMAGE_ID).template == ONE


@pytest.mark.parametrize("name", TEMPLATES)
def test_golden_prompts_are_hugging_faces_own(name):
    tokenizer = build_tokenizer("vicuna")
    processor, prompts = processor_of(tokenizer, TEMPLATES[name]), golden(TEMPLATES[name])
    few = {"llava": 1, "first-part": 1, "picky": 2, "thinking": 0}  # what it leaves out, or refuses
    assert len(prompts) == len(CONVERSATIONS) - few.get(name, 0)
    for prompt in prompts:
        whole = processor.apply_chat_template(prompt.messages, add_generation_prompt=True)
        date = f"Today is {GOLDEN_TIME:%d %B %Y}."
        assert (date in prompt.text) == (name == "date")
        assert prompt.text == whole.replace(f"Today is {datetime.now():%d %B %Y}.", date)  # noqa: DTZ005
        special = not prompt.text.startswith(BOS)
        assert prompt.input_ids == tuple(tokenizer(prompt.text, add_special_tokens=special)["input_ids"])


def test_a_template_for_one_shape_of_conversation():
    assert [prompt.messages for prompt in golden(ONE)] == [*CONVERSATIONS[:4]]


@pytest.mark.parametrize("templates", [None, "", {}, {"tools": LLAVA}])
def test_no_template(templates):
    processor = processor_of(build_tokenizer(), LLAVA)
    processor.chat_template = templates
    with pytest.raises(ModelUnsupported, match="no chat template") as caught:
        read_chat(processor, IMAGE_ID)
    assert caught.value.where == "chat_template"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ ['a', 'b'] | random }} " + ONE, "random"),
        (ONE + "{{ lipsum(1) }}", "lipsum"),
        (ONE.replace("['text']", "['text'] | upper"), "leaves a text out"),
        (ONE.replace("['text']", "['text'] | escape") + "{{ 1 // 0 }}", "zero"),
        (ONE.replace("<image>", ""), "number of images"),
        (ONE.replace("<image>", "<image><image>"), "number of images"),
        (ONE.replace("['text']", "['type']"), "leaves a text out"),
        ("{{ raise_exception('one system message, please') }}", "one system message, please"),
        ("{% for m in messages %}USER: {{ m['content'] + ' ' }}{% endfor %}", "concatenate"),
        ("{{ now() }}" + ONE, "undefined"),
        (ONE + "{{ strftime_now('%f') }}", "fractions of a second"),
    ],
)
def test_templates_that_cannot_be_used(template, says):
    with pytest.raises(ModelUnsupported, match=says) as caught:
        golden(template)
    assert "chat_template" in caught.value.where


def test_a_tokenizer_without_the_image_token():
    processor = processor_of(build_tokenizer(), LLAVA)
    with pytest.raises(ModelUnsupported) as caught:
        read_chat(processor, 77)
    assert caught.value.where == "image_token_index"
    processor.image_token = "<photo>"
    with pytest.raises(ModelUnsupported, match="<photo>"):
        read_chat(processor, IMAGE_ID)


def test_a_tokenizer_that_ends_every_text_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", pair=f"$A $B {BOS}", special_tokens=[(BOS, 0)]
    )
    with pytest.raises(ModelUnsupported, match="in parts"):
        golden(LLAVA, tokenizer)


def test_an_image_token_that_swallows_its_neighbours_is_refused():
    raw = json.loads(build_tokenizer().backend_tokenizer.to_str())
    next(token for token in raw["added_tokens"] if token["content"] == IMAGE)["rstrip"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(raw)))
    with pytest.raises(ModelUnsupported, match="in parts"):
        golden(LLAVA, tokenizer)


def test_the_first_conversation_is_the_one_that_must_be_taken():
    assert CONVERSATIONS[0] == question("what is the red object?")
