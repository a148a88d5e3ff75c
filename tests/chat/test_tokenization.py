"""The tokenisation rule: ids of whole prompts as Hugging Face makes them, and user text that stays text."""

import json

import pytest
from conversations import LLAVA, TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from allrounder.chat.messages import question
from allrounder.chat.template import render
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate
from allrounder.vlm.random.text import BOS, IMAGE, SPECIAL, build_tokenizer, token_id

CHATML = TEMPLATES["chatml"]
PART = "{{ '<image>' if p.type == 'image' else p.text }}"
BARE = "{% for m in messages %}{% for p in m.content %}" + PART + "{% endfor %}{% endfor %}"
PROMPTS = {
    "llava": LLAVA,
    "chatml": CHATML,
    "bare": BARE,
    "begin": "{{ '<s>' }}" + LLAVA,
    "space": "{{ ' ' }}" + CHATML,
    "borders": "{{ '<ima' + messages[0].content[1].text + 'ge><image><im' + messages[0].content[1].text + 'age>' }}",
}
IDS = {piece: token_id(piece) for piece in SPECIAL}


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
    "bytes": build_tokenizer("chatml"),
    "bytes-bos": build_tokenizer("vicuna"),
    **{scheme: llama_tokenizer(scheme) for scheme in ("first", "always", "normalizer")},
}


def chat_of(template: str, **special: str) -> ChatTemplate:
    return ChatTemplate(template=template, special_tokens=special, image_token=IMAGE)


def encoder_of(tokenizer="bytes", template=CHATML) -> ChatEncoder:
    made = TOKENIZERS[tokenizer]
    special = made.special_tokens_map
    return ChatEncoder(made.backend_tokenizer.to_str(), chat_of(template, **special))


ENCODERS = {(tokenizer, name): encoder_of(tokenizer, PROMPTS[name]) for tokenizer in TOKENIZERS for name in PROMPTS}


@pytest.mark.parametrize(("tokenizer", "name"), ENCODERS)
@given(text=st.text(max_size=20) | st.sampled_from(["A", " A", "\n\nA ", "  what's it? "]))
def test_ids_are_those_of_the_whole_rendered_prompt(tokenizer, name, text):
    if not text.strip() or any(part in text for part in (*SPECIAL, "<ima", "age>", "ge>", "<im", "ima")):
        return  # there Hugging Face would make a control token of user text; see below
    made, messages = TOKENIZERS[tokenizer], question(text)
    whole = render(chat_of(PROMPTS[name], **made.special_tokens_map), messages)
    begun = bool(made.bos_token) and whole.startswith(made.bos_token)
    expected = made(whole, add_special_tokens=not begun)["input_ids"]
    assert list(ENCODERS[tokenizer, name].ids(messages)) == expected


def text_of(ids) -> str:
    return TOKENIZERS["bytes"].decode(ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("text", [*SPECIAL, "".join(SPECIAL), "a<s>b </s>", "<image>\n<|im_end|>", "<<image>>", "<s><"])
def test_a_control_tokens_text_stays_text(tokenizer, text):
    """The template's own control tokens are there, and no others; the begin token of a text begins nothing."""
    for template in (CHATML, BARE, LLAVA):
        encoder = encoder_of(tokenizer, template)
        own = [each for each in encoder.ids(question("what?")) if each in IDS.values()]
        ids = encoder.ids(question(text))
        assert [each for each in ids if each in IDS.values()] == own
        if tokenizer == "bytes":
            assert text_of(ids) == render(chat_of(template), question(text))


def test_a_texts_begin_token_does_not_stand_for_the_tokenizers():
    encoder = encoder_of("bytes-bos", BARE)
    ids = encoder.ids(question("<s>a", images=0))
    assert ids[0] == IDS[BOS]
    assert IDS[BOS] not in ids[1:]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (question("ge> <"), "<ima|ge> <|ge>"),
        (question("<image><ima"), "<ima|<image><ima|ge>"),
        (question("  ge>  "), "<ima|  ge>  |ge>"),
        (question("ge"), "<ima|ge|ge>"),
        (question(">"), "<ima|>|ge>"),
    ],
)
def test_no_control_token_forms_across_the_border_of_template_and_text(messages, expected):
    template = "{{ '<image><ima' + messages[0].content[1].text + 'ge>' }}"
    ids = encoder_of(template=template).ids(messages)
    assert ids.count(IDS[IMAGE]) == 1
    assert text_of(ids) == "<image>" + expected.replace("|", "")


def test_no_control_token_forms_across_the_border_of_two_texts():
    parts = [{"type": "text", "text": part} for part in ("<ima", "ge>", "<|im_", "end|>", "<", "s", ">")]
    ids = encoder_of(template=BARE).ids([{"role": "user", "content": parts}])
    assert not set(IDS.values()) & set(ids)
    assert text_of(ids) == "<image><|im_end|><s>"


FRAGMENTS = [
    "<image>",
    "<s>",
    "<|im_end|>",
    "<ima",
    "ge>",
    "<image",
    "<",
    ">",
    "end|>",
    "image",
    "s",
    " ",
    "\n",
    "why?",
]
WRITERS = {
    "chatml": CHATML,
    "bare": BARE,
    "trimming": TEMPLATES["trimming-parts"],
    "measuring": TEMPLATES["measuring"],
    "borders": BARE.replace("p.text }}", "'<ima' + p.text + 'ge>' }}"),
    "halves": BARE.replace("p.text }}", "'<' + p.text + '>' }}"),
    "beginning": BARE.replace("p.text }}", "p.text }}{{ '!' if p.text and p.text[0] in '<isge' }}"),
    "ending": BARE.replace("p.text }}", "p.text }}{{ '>' if p.text and p.text[-1] in 'eas|' }}"),
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*WRITERS]),
    st.lists(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join), min_size=1, max_size=3),
)
def test_whatever_a_text_spells_the_control_tokens_are_the_templates(name, texts):
    """And the text is the rendering; where that cannot be had, the conversation is refused."""
    encoder = encoder_of(template=WRITERS[name])
    parts = [{"type": "image"}, *({"type": "text", "text": text} for text in [*texts, "why?"])]
    messages = [{"role": "user", "content": parts}]
    try:
        ids = encoder.ids(messages)
    except InputInvalid as error:
        assert "reads a text" in str(error) and name in ("measuring", "beginning", "ending"), error  # noqa: PT017, PT018
        return
    own = ["<|im_start|>", "<image>", "<|im_end|>", "<|im_start|>"] if "<|im_start|>" in WRITERS[name] else ["<image>"]
    assert [SPECIAL[each] for each in ids if each in IDS.values()] == own
    assert text_of(ids) == render(chat_of(WRITERS[name]), messages)


def special_tokenizer(*tokens: str, **flags) -> str:
    tokenizer = Tokenizer.from_str(TOKENIZERS["bytes"].backend_tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in tokens])
    return tokenizer.to_str()


def test_where_control_tokens_begin_at_one_place_the_longest_is_cut():
    content = special_tokenizer("<s>x", "x<s>")
    encoder = ChatEncoder(content, chat_of("<s>x<s>" + BARE))
    known = Tokenizer.from_str(content)
    ids = encoder.ids(question("<s>x<s>", images=0))
    assert ids[:2] == (known.token_to_id("<s>x"), IDS[BOS])
    assert max(ids[2:]) < known.token_to_id("<s>x")
    assert not set(IDS.values()) & set(ids[2:])


def test_control_tokens_of_one_character_and_with_blanks():
    content = special_tokenizer("\u2603", "<a b>", " ")
    known = Tokenizer.from_str(content)
    encoder = ChatEncoder(content, chat_of("\u2603" + BARE))
    parts = [{"type": "text", "text": part} for part in ("\u2603 ", "<a", " ", "b>", "a b")]
    ids = encoder.ids([{"role": "user", "content": parts}])
    assert ids[0] == known.token_to_id("\u2603")
    assert all(each < known.token_to_id("\u2603") for each in ids[1:])
    assert known.decode(list(ids[1:])) == "\u2603 <a b>a b"


def looking(condition: str) -> str:
    return BARE.replace("p.text }}", "p.text }}{{ '!' if p.text and " + condition + " }}")


def test_a_template_that_looks_at_the_ends_of_a_text():
    encoder = encoder_of(template=looking("p.text.startswith('/think')"))
    assert text_of(encoder.ids(question("/think: why?", images=0))) == "/think: why?!"
    assert text_of(encoder.ids(question("/think: <image>?", images=0))) == "/think: <image>?!"
    for unclear in ("/think: <", "/think <|im"):
        with pytest.raises(InputInvalid, match="reads a text"):
            encoder.ids(question(unclear, images=0))
    assert text_of(encoder.ids(question("think: <", images=0))) == "think: <"


def test_a_template_that_looks_for_a_control_token_is_refused():
    encoder = encoder_of(template=looking("'<image>' in p.text"))
    assert text_of(encoder.ids(question("an image", images=0))) == "an image"
    with pytest.raises(InputInvalid, match="reads a text"):
        encoder.ids(question("an <image>", images=0))


def test_a_template_that_raises_at_marks_alone():
    encoder = encoder_of(
        template="{% if messages[0].content[0].text|length > 4 %}{{ raise_exception('long') }}{% endif %}" + BARE
    )
    assert text_of(encoder.ids(question("why?", images=0))) == "why?"
    with pytest.raises(InputInvalid, match="long"):
        encoder.ids(question("what?", images=0))


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        (CHATML.replace("{% for message", "{% for message in messages[1:] %}{% endfor %}{% for message"), []),
        (CHATML.replace("in messages", "in messages[1:]"), ["be brief"]),
        (CHATML.replace("in messages", "in messages[:1]"), ["why?"]),
        (CHATML.replace("else part.text", "else part.text | upper"), ["why?"]),
        (CHATML.replace("else part.text", "else part.text | replace('y', '\u1ef3')"), ["why?"]),
        (CHATML.replace("else part.text", "else part.text[:3]"), ["why?"]),
        (CHATML.replace("message.role", "'why? be brief'").replace("in messages", "in messages[:1]"), ["why?"]),
    ],
)  # fmt: skip
def test_a_text_that_is_left_out_is_refused(template, left_out):
    messages = [{"role": "system", "content": "be brief"}, *question("why?", images=0)]
    if not left_out:
        assert "be brief" in text_of(encoder_of(template=template).ids(messages))
        return
    with pytest.raises(InputInvalid, match="leaves a text out") as caught:
        encoder_of(template=template).ids(messages)
    assert caught.value.got == ", ".join(map(repr, left_out))


def test_the_same_text_twice_is_shown_twice():
    once = (
        "{% set seen = namespace(a='') %}{% for m in messages %}{% if m.content != seen.a %}{{ m.content }}{% endif %}"
    )
    template = once + "{% set seen.a = m.content %}{% endfor %}"
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]
    with pytest.raises(InputInvalid, match="leaves a text out"):
        encoder_of(template=template).ids(messages)


def test_a_text_that_stands_elsewhere_with_other_ends_is_missed_too():
    encoder = encoder_of("bytes", LLAVA)
    messages = [{"role": "system", "content": " why? "}, *question("why?", images=0)]
    assert text_of(encoder.ids(messages)) == " why?  USER: why? ASSISTANT:"


def test_an_answer_may_be_shown_in_part():
    encoder = encoder_of(template=TEMPLATES["thinking"])
    answer = {"role": "assistant", "content": "red? no?blue"}
    ids = encoder.ids([*question("why?"), answer, *question("sure?", images=0)])
    assert "red" not in text_of(ids)
    assert "blue" in text_of(ids)


def test_a_content_that_is_a_text_alone_is_shown_to_templates_of_parts():
    """transformers' rendering holds neither question nor answer there."""
    encoder = encoder_of("bytes", LLAVA)
    as_text = [
        {"role": "system", "content": "be brief"},
        *question("red?"),
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "why?"},
    ]
    as_parts = [
        {**each, "content": [{"type": "text", "text": each["content"]}]} if isinstance(each["content"], str) else each
        for each in as_text
    ]
    assert encoder.ids(as_text) == encoder.ids(as_parts)
    assert text_of(encoder.ids(as_text)) == "be brief USER: <image>\nred? ASSISTANT: yes USER: why? ASSISTANT:"


@pytest.mark.parametrize(
    ("template", "images", "got"),
    [
        ("<image>" + BARE, 0, 1),
        ("<image>" + BARE, 2, 3),
        (BARE.replace("'<image>'", "'an image'"), 1, 0),
        (BARE.replace("'<image>'", "'<image><image>'"), 2, 4),
    ],
)
def test_another_number_of_placeholders_than_images(template, images, got):
    with pytest.raises(InputInvalid, match="number of images") as caught:
        encoder_of(template=template).ids(question("a", images=images))
    assert caught.value.got == f"{got} times '<image>'"


def test_control_tokens_that_the_tokenizers_model_makes_of_text_are_refused():
    content = json.loads(TOKENIZERS["bytes"].backend_tokenizer.to_str())
    vocabulary = {
        token: number for number, token in enumerate([*SPECIAL, "<unk>", "what", "is", "USER:", "ASSISTANT:"])
    }
    content["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    content["pre_tokenizer"], content["decoder"] = {"type": "WhitespaceSplit"}, None
    encoder = ChatEncoder(json.dumps(content), chat_of(LLAVA))
    assert encoder.ids(question("what else"))[-3:-1] == (vocabulary["what"], vocabulary["<unk>"])
    for text in ("what is <image> here", "<|im_end|>"):
        with pytest.raises(InputInvalid, match="cannot write a control token"):
            encoder.ids(question(text))


def test_merges_reach_across_the_border():
    made = build_tokenizer()("\n\n", add_special_tokens=False)["input_ids"]
    assert len(made) == 1
    assert made[0] in encoder_of("bytes", LLAVA).ids(question("\nA"))


def test_truncation_and_padding_of_the_file_are_off():
    tokenizer = build_tokenizer().backend_tokenizer
    plain = tokenizer.to_str()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    messages = question("a rather long question")
    assert ChatEncoder(tokenizer.to_str(), chat_of(LLAVA)).ids(messages) == ChatEncoder(plain, chat_of(LLAVA)).ids(
        messages
    )


def test_answers_are_decoded_without_control_tokens():
    encoder = encoder_of()
    (word,) = build_tokenizer()("what", add_special_tokens=False)["input_ids"]
    assert encoder.decode([IDS["</s>"], word, IDS[IMAGE], 10**6]) == "what"
