"""The tokenisation rule against the `tokenizers` library's own handling of whole prompts."""

import json

import fake_bundle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from allrounder.errors import BundleCorrupt, InputInvalid
from allrounder.golden import GoldenPrompt, encode_golden
from allrounder.manifest import PromptTemplate
from allrounder.runtime.prompt import Prompter

SPECIALS = ("<s>", "</s>", "<image>", "<|user|>", "<|end|>", "<|end|>x")
BYTES = fake_bundle.BYTES
MERGES = [("Ġ", "w"), ("Ċ", "Ġ"), ("?", "Ġ"), (":", "Ġ"), ("Ġ", "Ġ"), ("Ċ", "Ċ")]


def byte_level() -> Tokenizer:
    words = [*SPECIALS, *BYTES, *(a + b for a, b in MERGES)]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, MERGES))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def metaspace(scheme) -> Tokenizer:
    letters = "▁abcdefghijklmnopqrstuvwxyzUSER:?\n'"
    words = ["<unk>", *SPECIALS, *letters, "▁a", "▁w"]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("▁", "a"), ("▁", "w")], unk_token="<unk>"))
    if scheme == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


TOKENIZERS = {"bytes": byte_level(), **{scheme: metaspace(scheme) for scheme in ("first", "always", "legacy")}}
TEMPLATES = {
    "vicuna": PromptTemplate(before_image="USER: ", after_image="\n", after_question=" ASSISTANT:"),
    "marks": PromptTemplate(
        before_image="<s><|user|>\n",
        after_image="\n<|end|> ",
        after_question="<|end|>x\n<|user|>",
        prefix_special=False,
    ),
    "bare": PromptTemplate(before_image="", after_image="", after_question=""),
}


def prompter(tokenizer, template) -> Prompter:
    return Prompter(tokenizer.to_str(), template)


def whole_ids(tokenizer, template, question):
    """What Hugging Face does: the whole rendered prompt at once."""
    text = f"{template.before_image}<image>{template.after_image}{question}{template.after_question}"
    ids = tokenizer.encode(text, add_special_tokens=template.prefix_special).ids
    image = tokenizer.token_to_id("<image>")
    cut = ids.index(image)
    return tuple(ids[:cut]), tuple(ids[cut + 1 :])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("question", ["what is it?", " a  b ", "\n\nwhat\n", "e\u0301 日本 a", "?"])
def test_ids_are_those_of_the_whole_prompt(tokenizer, template, question):
    made, frozen = TOKENIZERS[tokenizer], TEMPLATES[template]
    assert prompter(made, frozen).ids(question) == whole_ids(made, frozen, question)


@given(st.text(min_size=1).filter(lambda text: text.strip() and not any(mark in text for mark in SPECIALS)))
def test_any_question_gives_the_ids_of_the_whole_prompt(question):
    made = TOKENIZERS["bytes"]
    for template in TEMPLATES.values():
        assert prompter(made, template).ids(question) == whole_ids(made, template, question)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("question", ["<image>", "a</s>b", "<s><|user|><|end|>x", "what <image> is </s>?"])
def test_a_special_tokens_text_stays_text(tokenizer, question):
    made, template = TOKENIZERS[tokenizer], TEMPLATES["vicuna"]
    ids = prompter(made, template).ids(question)
    assert not {made.token_to_id(text) for text in SPECIALS} & {*ids.suffix_ids}
    if tokenizer == "bytes":
        assert made.decode(ids.suffix_ids) == f"\n{question} ASSISTANT:"


def test_a_question_does_not_become_special_together_with_the_template():
    template = PromptTemplate(before_image="", after_image="<ima", after_question="|end|>")
    ids = prompter(TOKENIZERS["bytes"], template).ids("ge> <")
    assert TOKENIZERS["bytes"].decode(ids.suffix_ids) == "<image> <|end|>"


@pytest.mark.parametrize("question", [None, 3, b"what?", ["what?"], "", " \n\t", "half a \ud83d pair"])
def test_what_is_no_question_is_refused(question):
    with pytest.raises(InputInvalid, match="question"):
        prompter(TOKENIZERS["bytes"], TEMPLATES["vicuna"]).ids(question)


def test_truncation_and_padding_of_the_file_are_off():
    made = byte_level()
    made.enable_truncation(4)
    made.enable_padding(length=50)
    template = TEMPLATES["vicuna"]
    assert prompter(made, template).ids("what is it?") == whole_ids(byte_level(), template, "what is it?")


def test_golden_pairs_are_checked(tmp_path):
    made, template = TOKENIZERS["bytes"], TEMPLATES["vicuna"]
    prefix, suffix = whole_ids(made, template, "what?")
    path = tmp_path / "golden.jsonl"
    path.write_bytes(encode_golden([GoldenPrompt(question="what?", text="", prefix_ids=prefix, suffix_ids=suffix)]))
    prompter(made, template).check(path)
    path.write_bytes(encode_golden([GoldenPrompt(question="what?", text="", prefix_ids=prefix, suffix_ids=(1,))]))
    with pytest.raises(BundleCorrupt, match="other ids"):
        prompter(made, template).check(path)
    for content in (b"", b"{}\n", b"\xff", b"[1]\n"):  # no pairs prove nothing
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match="golden"):
            prompter(made, template).check(path)
    path.unlink()
    with pytest.raises(BundleCorrupt, match="golden"):
        prompter(made, template).check(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", json.dumps({"added_tokens": [], "model": {}})])
def test_a_tokenizer_that_is_none_is_refused(text):
    with pytest.raises(BundleCorrupt, match="tokenizer"):
        Prompter(text, TEMPLATES["vicuna"])


def test_a_tokenizer_in_which_the_library_panics_is_refused():
    """What it raises then is no Exception."""
    plain = json.loads(TOKENIZERS["bytes"].to_str())
    plain["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(BundleCorrupt, match="precompiled_charsmap"):
        Prompter(json.dumps(plain), TEMPLATES["vicuna"])
