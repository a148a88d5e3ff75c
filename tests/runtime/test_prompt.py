"""A bundle's tokenizer as the runtime opens it: golden prompts are checked, and what is broken is refused."""

import json

import msgspec
import pytest

from allrounder.chat.messages import question
from allrounder.errors import BundleCorrupt, InputInvalid
from allrounder.golden import GOLDEN_TIME, GoldenPrompt, encode_golden
from allrounder.manifest import ChatTemplate
from allrounder.runtime.prompt import Prompter
from allrounder.vlm.random.text import IMAGE, build_tokenizer

TOKENIZER = build_tokenizer("vicuna").backend_tokenizer.to_str()
CHAT = ChatTemplate(
    template="{{ strftime_now('%Y') }} USER: <image>\n{{ messages[0].content[1].text }} ASSISTANT:",
    special_tokens={"bos_token": "<s>"},
    image_token=IMAGE,
)


def test_ids_and_text():
    prompter = Prompter(TOKENIZER, CHAT)
    ids = prompter.ids(question("what?"))
    assert ids.count(build_tokenizer().convert_tokens_to_ids(IMAGE)) == 1
    assert "what? ASSISTANT:" in prompter.decode(ids)
    (message,) = question("what?")
    with pytest.raises(InputInvalid, match="number of images"):
        prompter.ids([{**message, "content": [*message["content"], {"type": "image"}]}])


def test_golden_prompts_are_checked(tmp_path):
    """At a time of their own: their ids are those of any day."""
    prompter, path = Prompter(TOKENIZER, CHAT), tmp_path / "golden.jsonl"
    text = f"{GOLDEN_TIME.year} USER: {IMAGE}\nwhat? ASSISTANT:"
    ids = tuple(build_tokenizer("vicuna")(text)["input_ids"])
    good = GoldenPrompt(messages=question("what?"), text=text, input_ids=ids)
    path.write_bytes(encode_golden([good]))
    prompter.check(path)
    for changed in ({"input_ids": ids[1:]}, {"messages": question("why?")}, {"messages": question("what?", images=0)}):
        path.write_bytes(encode_golden([good, msgspec.structs.replace(good, **changed)]))
        with pytest.raises(BundleCorrupt, match="other ids"):
            prompter.check(path)
    for content in (b"", b"{}\n", b"\xff", b"[1]\n"):  # no prompts prove nothing
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match="golden"):
            prompter.check(path)
    path.unlink()
    with pytest.raises(BundleCorrupt, match="golden"):
        prompter.check(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", json.dumps({"added_tokens": [], "model": {}})])
def test_a_tokenizer_that_is_none_is_refused(text):
    with pytest.raises(BundleCorrupt, match="tokenizer"):
        Prompter(text, CHAT)


def test_a_tokenizer_without_the_image_token_is_refused():
    with pytest.raises(BundleCorrupt, match="<photo>"):
        Prompter(TOKENIZER, msgspec.structs.replace(CHAT, image_token="<photo>"))


def test_a_template_that_is_none_is_refused():
    with pytest.raises(BundleCorrupt, match="unexpected"):
        Prompter(TOKENIZER, msgspec.structs.replace(CHAT, template="{{ % }}"))


def test_a_tokenizer_in_which_the_library_panics_is_refused():
    """What it raises then is no Exception."""
    plain = json.loads(TOKENIZER)
    plain["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(BundleCorrupt, match="precompiled_charsmap"):
        Prompter(json.dumps(plain), CHAT)
