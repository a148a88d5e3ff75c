"""Chat templates as literal strings: which ones are, and that the strings are the template."""

import random

import pytest
from conversations import TEMPLATES, conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.chat.literals import joined, literals_of
from allrounder.chat.messages import as_parts, plain_messages, question
from allrounder.chat.template import render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

CHATML = TEMPLATES["chatml"]
# As llava-hf/llava-interleave-qwen-0.5b-hf has it: a line end before each text.
INTERLEAVED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LITERAL = {
    **{name: TEMPLATES[name] for name in ("llava", "chatml", "begin", "trimming-parts", "first-part")},
    "interleaved": INTERLEAVED,
    "wrapped": CHATML.replace("'<image>\n'", "'<a><image></a>'"),
    "default-system": "{% if messages[0].role != 'system' %}Be kind.\n\n{% endif %}" + CHATML,
    "always": CHATML.replace("{% if add_generation_prompt %}", "").replace("assistant\n' }}{% endif %}", "a\n' }}"),
    "colon": CHATML.replace(
        "'\n' }}{{ shown", "(':' if message.content and message.content[0].type == 'image' else ': ') }}{{ shown"
    ),
}
ALTERNATING = (
    "{% for m in messages[1:] %}{% if m.role == messages[loop.index0].role %}{{ raise_exception('') }}{% endif %}"
)
PROGRAMS = {
    **{name: template for name, template in TEMPLATES.items() if name not in LITERAL},
    "alternating": ALTERNATING + "{% endfor %}" + CHATML,
    "one system": "{% for m in messages[1:] if m.role == 'system' %}{{ raise_exception('') }}{% endfor %}" + CHATML,
    "a user first": "{% if messages[0].role == 'assistant' %}{{ raise_exception('') }}{% endif %}" + CHATML,
    "first text": CHATML.replace("shown(message.content)", "message.content[0].text"),
    "system text": CHATML.replace("shown(m", "shown([m.content[0]] if message.role == 'system' else m"),
    "last only": CHATML.replace("<|im_end|>\n' }}", "<|im_end|>\n' if loop.last else '\n' }}"),
    "numbered": CHATML.replace("'<image>\n'", "'<image>' ~ loop.index"),
    "word": CHATML.replace("part.text }}", "part.text }}{{ '!' if part.text and '/think' in part.text }}"),
    "long": CHATML.replace("part.text }}", "part.text }}{{ '!' if part.text and part.text|length > 777 }}"),
    "image token": CHATML.replace("else part.text", "else part.text | replace('<image>', '')"),
    "no image": CHATML.replace("'<image>\n'", "''"),
    "two images": CHATML.replace("'<image>\n'", "'<image><image>'"),
    "trimmed answer": CHATML.replace("else part.text", "else part.text.lstrip()"),
}


def chat_of(template: str) -> ChatTemplate:
    return ChatTemplate(
        template=template, special_tokens={"bos_token": "<s>", "eos_token": "</s>"}, image_token="<image>"
    )


@pytest.mark.parametrize("name", LITERAL)
def test_the_strings_are_the_template(name):
    chat, rng = chat_of(LITERAL[name]), random.Random(name)
    literals = literals_of(chat)
    assert literals
    assert literals.images_first == (name in ("llava", "interleaved"))
    assert literals.trims == (name == "trimming-parts")
    for _ in range(200):
        messages = as_parts(plain_messages(conversation(rng, strings=True)))
        assert joined(literals, chat.image_token, messages) == render(chat, messages)


def test_a_message_without_a_part_that_the_template_refuses():
    chat, messages = chat_of(TEMPLATES["first-part"]), [{"role": "system", "content": []}, *question("what?")]
    literals = literals_of(chat)
    assert literals
    assert [literals.roles[role].empty for role in ("system", "assistant")] == [None, None]
    for write in (lambda: render(chat, messages), lambda: joined(literals, chat.image_token, messages)):
        with pytest.raises(InputInvalid):
            write()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_template_that_is_more_has_none(name):
    assert literals_of(chat_of(PROGRAMS[name])) is None


def test_they_are_the_same_each_time():
    assert literals_of(chat_of(CHATML)) == literals_of(chat_of(CHATML))


_string = st.sampled_from(["", "\n", " ", "a", "<|x|>", "a\n", "\na", "ab"])


@settings(max_examples=60, deadline=None)
@given(st.lists(_string, min_size=7, max_size=7))
def test_strings_that_begin_and_end_alike(strings):
    """Wherever one ends and the next begins cannot be seen, and makes no difference."""
    begin, with_system, before, image, between, after, generation = strings
    template = (
        f"{{{{ {with_system!r} if messages[0].role == 'system' else {begin!r} }}}}{{% for m in messages %}}"
        f"{{{{ {before!r} + (m.role if m.role != 'user' else '') }}}}{{% for p in m.content %}}"
        f"{{{{ ('<image>' + {image!r}) if p.type == 'image' else p.text + {between!r} }}}}{{% endfor %}}"
        f"{{{{ {after!r} }}}}{{% endfor %}}{generation}"
    )
    assert literals_of(chat_of(template))
