"""The native tokenizer, prompter, detokeniser and stop texts against `tokenizers` and Python's runtime."""

import json
import random
import subprocess
from functools import cache

import msgspec
import pytest
from conversations import TEMPLATES, conversation
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import FRAGMENTS, NAMES, ROOT, mixtures, tokenizer_json

from allrounder.chat.literals import literals_of
from allrounder.chat.messages import as_parts, plain_messages
from allrounder.chat.template import render
from allrounder.chat.tokenization import ChatEncoder, continuation, plain_tokenizer
from allrounder.errors import InputInvalid
from allrounder.golden import GoldenPrompt, encode_golden
from allrounder.manifest import ChatTemplate, Manifest, decode, encode
from allrounder.runtime.text import Detokeniser, StopTexts

CODE_POINTS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@cache
def plain(name, begins=True):
    """Python's tokenizer for a stretch that begins a text, or does not."""
    text = tokenizer_json(name)
    return plain_tokenizer(text if begins else continuation(json.loads(text)))


class Probe:
    """The program, asked line by line."""

    def __init__(self, program):
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the probe died of {question!r:.300}"
        return json.loads(line)

    def load(self, name):
        answer = self.ask(load=tokenizer_json(name))
        assert "error" not in answer, answer
        return answer

    def close(self):
        with self._process:  # closes both pipes, and waits
            self._process.stdin.close()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def probe(program):
    made = Probe(program("allrounder_text_probe"))
    yield made
    made.close()


@pytest.fixture(params=NAMES)
def name(request, probe):
    probe.load(request.param)
    return request.param


def wanted_ids(name, text, begins):
    return plain(name, begins).encode(text, add_special_tokens=False).ids


def shrunk(differs, parts):
    """Returns few neighbours among ``parts`` that still differ."""
    while len(parts) > 1:
        half = len(parts) // 2
        smaller = next((some for some in (parts[:half], parts[half:]) if differs("".join(some))), None)
        if smaller is None:
            break
        parts = smaller
    return "".join(parts)


def compare(probe, name, parts, begins):
    """Fails with the shortest text found where the parts, put together, encode differently."""

    def differs(text):
        return probe.ask(encode=text, begins=begins) != wanted_ids(name, text, begins)

    if differs("".join(parts)):
        text = shrunk(differs, parts)
        pytest.fail(f"{name}, {text!a}: {probe.ask(encode=text, begins=begins)} != {wanted_ids(name, text, begins)}")


@pytest.mark.parametrize("begins", [True, False])
def test_mixtures(probe, name, begins):
    for text in mixtures(3000, seed=7):
        compare(probe, name, list(text), begins)


def test_every_code_point_in_context(probe):
    """Kinds of characters as the regular expression sees them, and normalisation, character by character."""
    probe.load("qwen2")
    for start in range(0, len(CODE_POINTS), 512):
        chunk = CODE_POINTS[start : start + 512]  # from the fourth plane on, almost nothing is assigned
        around = [f"a{c}b 1{c} '{c}\n" if c < "\U00040000" else f"a{c}1" for c in chunk]
        compare(probe, "qwen2", around, begins=True)


def test_every_code_point_among_marks(probe):
    """Combining classes and compositions: each character behind, before and between marks, and behind letters."""
    probe.load("qwen2")
    for start in range(0, 0x30000, 512):
        around = [f"\u0315{c}\u0316 \u0334{c}\u0334 q{c}\u0301 \u1100{c}" for c in CODE_POINTS[start : start + 512]]
        compare(probe, "qwen2", around, begins=True)


def test_every_code_point_alone(probe, name):
    rare = random.Random(3).sample(CODE_POINTS[0x600:], 3000)
    for c in [*CODE_POINTS[:0x600], *rare]:
        compare(probe, name, [c], begins=True)


def test_long_runs(probe, name):
    spaces = " " * 1_000 + "x"  # with a token of spaces that strips, `tokenizers` takes quadratic time and memory
    for text in ("a" * 20_000, spaces, "\n " * 9_000, "\u0301" * 9_000, "9" * 20_001, "<s>" * 5_000, "▁" * 9_000):
        assert probe.ask(encode=text, begins=True) == wanted_ids(name, text, begins=True)


def test_leading_ids_and_specials(probe, name):
    answer = probe.load(name)
    example = plain(name).encode("a", add_special_tokens=True)
    assert answer["leading"] == example.ids[: example.special_tokens_mask.index(0)]
    added = json.loads(tokenizer_json(name))["added_tokens"]
    assert answer["specials"] == {token["content"]: token["id"] for token in added if token["special"]}


def random_ids(name, count):
    draw = random.Random(11)
    size = plain(name).get_vocab_size()
    return [[draw.randrange(size + 3) for _ in range(draw.randrange(24))] for _ in range(count)]


def test_decoding_of_random_ids(probe, name):
    for ids in random_ids(name, 3000):
        assert probe.ask(decode=ids) == plain(name, begins=False).decode(ids, skip_special_tokens=True), ids


def test_decoding_of_encoded_texts(probe, name):
    for text in mixtures(1000, seed=13):
        ids = wanted_ids(name, text, begins=False)
        assert probe.ask(decode=ids) == plain(name, begins=False).decode(ids, skip_special_tokens=True), ids


def test_ids_that_nothing_knows_have_no_text(probe, name):
    assert probe.ask(decode=[-1, 2**31, 2**32, 2**62, -(2**62)]) == ""


def test_pieces_of_a_stream(probe, name):
    for ids in random_ids(name, 1000):
        stream = Detokeniser(lambda some: plain(name, begins=False).decode(list(some), skip_special_tokens=True))
        assert probe.ask(detokenise=ids) == [*(stream.add(token) for token in ids), stream.finish()], ids


def test_white_space_as_python_strips_it(probe):
    found = "".join(probe.ask(blank="".join(CODE_POINTS[at : at + 65536])) for at in range(0, len(CODE_POINTS), 65536))
    assert found == "".join(c for c in CODE_POINTS if not c.strip())


@given(
    st.lists(st.text("abé\u0301👍", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("abé\u0301👍x", max_size=5), max_size=8),
)
@settings(max_examples=500, deadline=None)
def test_stop_texts(probe, texts, parts):
    stops = StopTexts(texts)
    kept = []
    for part in parts:
        kept.append(stops.add(part))
        if stops.reached:
            break
    kept.append(stops.finish())
    assert probe.ask(stops=texts, pieces=parts) == [kept, stops.reached]


@given(st.text(), st.booleans(), st.sampled_from(NAMES))
@settings(max_examples=500, deadline=None)
def test_any_text(probe, text, begins, kind):
    probe.load(kind)
    assert probe.ask(encode=text, begins=begins) == wanted_ids(kind, text, begins)


# ---- Conversations ----

GOLDEN = decode((ROOT / "tests/golden/manifest.json").read_bytes(), Manifest, where="golden")
LITERAL = ("llava", "chatml", "begin", "trimming-parts", "first-part")


@cache
def chat_of(template: str) -> ChatTemplate:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    chat = ChatTemplate(template=template, special_tokens=special, image_token="<image>")
    return msgspec.structs.replace(chat, literals=literals_of(chat))


def speaking(probe, name, template) -> ChatEncoder:
    """Makes the probe's prompter of a tokenizer and a template, and returns Python's."""
    probe.load(name)
    chat = chat_of(TEMPLATES[template])
    assert bool(chat.literals) == (template in LITERAL)
    assert probe.ask(manifest=encode(msgspec.structs.replace(GOLDEN, chat=chat)).decode()) is None
    return ChatEncoder(tokenizer_json(name), chat)


def odd(messages, draw):
    """Returns messages with pieces of control tokens in their texts, and sometimes a role out of its place."""
    for message in messages:
        for part in message["content"]:
            if "text" in part and draw.random() < 0.4:
                part["text"] = "".join([part["text"], *draw.choices([*FRAGMENTS, "<", "s>", "<ima", "ge>"], k=3)])
        if draw.random() < 0.1:
            message["role"] = draw.choice(["system", "user", "assistant"])
        if draw.random() < 0.1:
            message["content"] = [{"type": "text", "text": draw.choice(["", " ", "\u3000\n"])}]
    return messages


def wanted_prompt(encoder, messages):
    try:
        return list(encoder.ids(messages))
    except InputInvalid as error:
        return type(error).__name__


def got_prompt(probe, messages):
    asked = [{"role": m["role"], "parts": [part.get("text") for part in m["content"]]} for m in messages]
    answer = probe.ask(messages=asked)
    return answer["error"] if isinstance(answer, dict) else answer


def has_image_token(name) -> bool:
    return any(token["content"] == "<image>" for token in json.loads(tokenizer_json(name))["added_tokens"])


@pytest.mark.parametrize("template", LITERAL)
@pytest.mark.parametrize("name", [*filter(has_image_token, NAMES)])
def test_conversations(probe, name, template):
    encoder, draw = speaking(probe, name, template), random.Random(f"{name} {template}")
    for _ in range(200):
        messages = odd(as_parts(plain_messages(conversation(draw, strings=True))), draw)
        assert got_prompt(probe, messages) == wanted_prompt(encoder, messages), messages


BAD = [
    [],
    [{"role": "tool", "content": [{"type": "text", "text": "a"}]}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "text", "text": " \x1c"}, {"type": "text", "text": ""}]}],
]


@pytest.mark.parametrize("messages", BAD)
def test_messages_that_are_none(probe, messages):
    speaking(probe, "qwen2", "chatml")
    assert got_prompt(probe, messages) == "InputInvalid"


@pytest.mark.parametrize("template", LITERAL)
def test_a_system_message_without_a_part(probe, template):
    """A template that asks what the first part is refuses it."""
    encoder = speaking(probe, "qwen2", template)
    messages = [{"role": "system", "content": []}, {"role": "user", "content": [{"type": "text", "text": "what?"}]}]
    wanted = wanted_prompt(encoder, messages)
    assert got_prompt(probe, messages) == wanted
    assert (wanted == "InputInvalid") == (template == "first-part")


@pytest.mark.parametrize("template", TEMPLATES)
def test_rendered_text_and_golden_prompts(probe, template):
    """Of any template: where no text spells a control token, the ids of the rendered text are those of the rule."""
    encoder, draw = speaking(probe, "vicuna-first", template), random.Random(template)
    prompts = []
    while len(prompts) < 30:
        messages = as_parts(plain_messages(conversation(draw, strings=True)))
        for part in (part for message in messages for part in message["content"]):
            part.pop("image", None)
        ids = wanted_prompt(encoder, messages)
        if ids == "InputInvalid" or template == "date":
            assert template in ("date", "picky", "first-system", "thinking"), messages
            break
        text = render(chat_of(TEMPLATES[template]), messages)
        assert probe.ask(rendered=text) == ids
        prompts.append(GoldenPrompt(messages=messages, text=text, input_ids=tuple(ids)))
    if prompts:
        assert probe.ask(golden=encode_golden(prompts).decode()) is None
        wrong = msgspec.structs.replace(prompts[-1], input_ids=(*prompts[-1].input_ids, 1))
        assert probe.ask(golden=encode_golden([*prompts, wrong]).decode())["error"] == "BundleCorrupt"


def test_a_template_that_is_a_program_takes_no_messages(probe):
    speaking(probe, "qwen2", "date")
    answer = probe.ask(messages=[{"role": "user", "parts": ["what?"]}])
    assert answer["error"] == "InputInvalid"
    assert "give the text that the template renders" in answer["message"]
