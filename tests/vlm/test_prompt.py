"""vlm/llava/template.py and vlm/prompt.py: the frozen template, and ids equal to those of Hugging Face."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from allrounder.errors import InputInvalid, ModelUnsupported
from allrounder.manifest import PromptTemplate
from allrounder.tokenization import PromptEncoder
from allrounder.vlm.llava.random_text import BOS, IMAGE, SPECIAL, START, build_tokenizer, token_id
from allrounder.vlm.llava.template import freeze_template
from allrounder.vlm.prompt import prompt_batch

IMAGE_ID = token_id(IMAGE)
VICUNA = "{{ 'USER: <image>\n' + messages[0]['content'][1]['text'] + ' ASSISTANT:' }}"
CHATML = "{{ '<|im_start|>user\n<image>\n' + messages[0]['content'][1]['text'] + '<|im_end|>\n<|im_start|>a\n' }}"
NO_LINE = "{{ 'USER:<image>' + messages[0]['content'][1]['text'] + ' A:' }}"


def processor_of(tokenizer, chat_template):
    return LlavaProcessor(
        CLIPImageProcessorPil(), tokenizer, patch_size=14, chat_template=chat_template, image_token=IMAGE
    )


def llama_tokenizer(scheme: str) -> PreTrainedTokenizerFast:
    """Pieces with a mark for the space before them, as Llama has them; ``scheme``: which texts get one in front."""
    pieces = [*SPECIAL, "<unk>", "▁", *map(chr, range(33, 127)), "\n", "▁A", "▁w", "▁▁"]
    bpe = models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "A"), ("▁", "w"), ("▁", "▁")])
    bpe.unk_token, bpe.fuse_unk = "<unk>", True
    tokenizer = Tokenizer(bpe)
    if scheme == "normalizer":  # how older files do it: before every stretch
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always" if scheme == "normalizer" else scheme)
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, token_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, unk_token="<unk>")


TOKENIZERS = {
    "bytes": lambda: build_tokenizer("chatml"),
    "bytes-bos": lambda: build_tokenizer("vicuna"),
    "first": lambda: llama_tokenizer("first"),
    "always": lambda: llama_tokenizer("always"),
    "normalizer": lambda: llama_tokenizer("normalizer"),
}
PROCESSORS = {
    (name, template): processor_of(build(), template)
    for name, build in TOKENIZERS.items()
    for template in (VICUNA, CHATML, NO_LINE, "{{ '<s>' }}" + VICUNA, "{{ ' ' }}" + CHATML)
}


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=map(str, PROCESSORS))
@given(question=st.text(max_size=20) | st.sampled_from(["A", " A", "\n\nA ", "  what's it? "]))
def test_ids_are_those_of_the_whole_rendered_prompt(processor, question):
    if any(special in question for special in SPECIAL):
        return  # there Hugging Face would make a special token of user text; see below
    template = freeze_template(processor, IMAGE_ID)
    encoder = PromptEncoder(processor.tokenizer.backend_tokenizer.to_str(), template)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    whole = processor.tokenizer(text, add_special_tokens=template.prefix_special)["input_ids"]
    assert [*encoder.prefix_ids, IMAGE_ID, *encoder.suffix_ids(question)] == whole


def encoder_of(chat="vicuna", template=VICUNA):
    tokenizer = build_tokenizer(chat)
    return PromptEncoder(
        tokenizer.backend_tokenizer.to_str(), freeze_template(processor_of(tokenizer, template), IMAGE_ID)
    )


def test_the_segments():
    template = freeze_template(processor_of(build_tokenizer("vicuna"), VICUNA), IMAGE_ID)
    assert template == PromptTemplate(
        before_image="USER: ", after_image="\n", after_question=" ASSISTANT:", prefix_special=True
    )


def test_a_template_that_writes_the_begin_token_gets_no_second_one():
    encoder = encoder_of(template="{{ '<s>' }}" + VICUNA)
    assert encoder.prefix_ids.count(token_id(BOS)) == 1
    assert encoder.prefix_ids == encoder_of().prefix_ids


@pytest.mark.parametrize("special", SPECIAL)
def test_user_text_never_becomes_a_special_token(special):
    ids = encoder_of("chatml", CHATML).suffix_ids(f"what is {special} here")
    expected = [token_id("<|im_end|>"), token_id(START)]  # those of the template
    assert [i for i in ids if i < len(SPECIAL)] == expected


def test_no_special_token_forms_across_the_border_of_template_and_question():
    template = PromptTemplate(before_image="", after_image="<ima", after_question="ge>", prefix_special=False)
    encoder = PromptEncoder(build_tokenizer().backend_tokenizer.to_str(), template)
    assert IMAGE_ID not in encoder.suffix_ids("") + encoder.suffix_ids("ge>") + encoder.suffix_ids("<ima")
    assert encoder.prefix_ids == ()


def test_merges_reach_across_the_border():
    alone = build_tokenizer()(" A", add_special_tokens=False)["input_ids"]
    assert len(alone) == 1  # the merge of space and A
    assert encoder_of().suffix_ids("\nA")[0] == build_tokenizer()("\n\n", add_special_tokens=False)["input_ids"][0]


def test_where_specials_begin_at_one_place_the_longest_is_cut():
    tokenizer = Tokenizer.from_str(build_tokenizer().backend_tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken("<s>x", special=True, normalized=False)])
    template = PromptTemplate(before_image="<s>x<s>", after_image="", after_question="a", prefix_special=False)
    encoder = PromptEncoder(tokenizer.to_str(), template)
    assert encoder.prefix_ids == (tokenizer.token_to_id("<s>x"), token_id(BOS))


def test_truncation_and_padding_of_the_file_are_off():
    tokenizer = build_tokenizer().backend_tokenizer
    plain = tokenizer.to_str()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    assert json.loads(tokenizer.to_str())["truncation"] is not None
    template = freeze_template(processor_of(build_tokenizer(), VICUNA), IMAGE_ID)
    question = "a rather long question"
    assert PromptEncoder(tokenizer.to_str(), template).suffix_ids(question) == PromptEncoder(
        plain, template
    ).suffix_ids(question)


def test_a_batch_is_padded_on_the_right():
    encoder = encoder_of()
    batch = prompt_batch(encoder, ["hi", "what is it?"])
    assert batch.prefix_ids.tolist() == [list(encoder.prefix_ids)] * 2
    short, long = encoder.suffix_ids("hi"), encoder.suffix_ids("what is it?")
    assert batch.suffix_lengths.tolist() == [len(short), len(long)]
    assert batch.suffix_ids.tolist() == [short + [0] * (len(long) - len(short)), long]
    alone = batch.row(0)
    assert alone.suffix_ids.tolist() == [short]


def test_no_question_is_no_batch():
    with pytest.raises(InputInvalid):
        prompt_batch(encoder_of(), [])


def test_a_prompt_with_nothing_after_the_image_is_refused():
    template = PromptTemplate(before_image="a", after_image="", after_question="", prefix_special=False)
    with pytest.raises(InputInvalid, match="after the image"):
        prompt_batch(PromptEncoder(build_tokenizer().backend_tokenizer.to_str(), template), ["x", ""])


@pytest.mark.parametrize(
    ("chat_template", "where", "says"),
    [
        (None, "chat_template", "no chat template"),
        (VICUNA.replace("['text']", "['text'] | trim"), "chat_template", "changes the question"),
        (VICUNA.replace("['text']", "['text'] | upper"), "chat_template", "one image"),
        (VICUNA.replace("['text']", "['text'] | replace('b', '&')"), "chat_template", "changes the question"),
        (VICUNA.replace("<image>", ""), "chat_template", "one image"),
        (VICUNA.replace("<image>", "<image><image>"), "chat_template", "one image"),
        ("{{ messages[0]['content'][1]['text'] + '<image>' }}", "chat_template", "after it"),
        ("{{ '<image>' + messages[0]['content'][1]['text'] * 2 }}", "chat_template", "one image"),
    ],
)
def test_templates_that_cannot_be_frozen(chat_template, where, says):
    with pytest.raises(ModelUnsupported, match=says) as caught:
        freeze_template(processor_of(build_tokenizer(), chat_template), IMAGE_ID)
    assert caught.value.where == where


def test_a_tokenizer_without_the_image_token():
    processor = processor_of(build_tokenizer(), VICUNA)
    with pytest.raises(ModelUnsupported) as caught:
        freeze_template(processor, 77)
    assert caught.value.where == "image_token_index"
    processor.image_token = "<photo>"
    with pytest.raises(ModelUnsupported, match="<photo>"):
        freeze_template(processor, IMAGE_ID)


def test_a_tokenizer_that_ends_every_text_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", pair=f"$A $B {BOS}", special_tokens=[(BOS, 0)]
    )
    with pytest.raises(ModelUnsupported, match="in parts"):
        freeze_template(processor_of(tokenizer, VICUNA), IMAGE_ID)


def test_an_image_token_that_swallows_its_neighbours_is_refused():
    raw = json.loads(build_tokenizer().backend_tokenizer.to_str())
    next(token for token in raw["added_tokens"] if token["content"] == IMAGE)["rstrip"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(raw)))
    with pytest.raises(ModelUnsupported, match="in parts"):
        freeze_template(processor_of(tokenizer, VICUNA), IMAGE_ID)
