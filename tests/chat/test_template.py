"""Chat templates, rendered as transformers renders them, and what a template may not do."""

import random
import re
from datetime import UTC, datetime

import pytest
from conversations import STRINGS, TEMPLATES, conversation
from transformers.utils.chat_template_utils import render_jinja_template

from allrounder.chat.messages import plain_messages, question
from allrounder.chat.template import compiled, render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
ODD = {
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}",
    "blocks": "a\n  {% for m in messages %}\n  {{ m.role }}\n  {% endfor %}\n",
    "loops": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "generation": "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
    "namespace": "{% set n = namespace(a=1, self=2) %}{% set n.a = 3 %}{{ n.a }}{{ n.self }}",
    "dict": "{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys(['a']) }}{{ dict([('a', 1)]).a }}",
    "variables": "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}{{ unk_token }}",
    "time": "{{ strftime_now('%Y') }}{{ strftime_now(format='%d') }}{{ strftime_now is defined }}",
    "macro": "{% macro f() %}{{ strftime_now('%Y') }}{{ bos_token }}{% endmacro %}{{ f() }}",
    "undefined": "{{ messages[0].nothing }}{{ nothing }}|",
}


def chat(template: str) -> ChatTemplate:
    return ChatTemplate(template=template, special_tokens=SPECIAL, image_token="<image>")


@pytest.mark.parametrize("name", [*TEMPLATES, *ODD])
def test_the_text_is_that_of_transformers(name):
    template, rng = {**TEMPLATES, **ODD}[name], random.Random(name)
    for _ in range(30):
        messages = plain_messages(conversation(rng, strings=name in STRINGS))
        if name == "picky" and not re.search(r"'type': 'image'", str(messages)):
            continue
        for more in (True, False):
            stock = render_jinja_template([messages], chat_template=template, add_generation_prompt=more, **SPECIAL)
            assert render(chat(template), messages, add_generation_prompt=more) == stock[0][0]


def test_the_time_may_be_given():
    template = chat("{{ strftime_now('%d %b %Y %H:%M') }}{{ messages[0].content[1].text }}")
    assert render(template, question("?"), now=datetime(2031, 2, 3, 4, 5, tzinfo=UTC)) == "03 Feb 2031 04:05?"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('one system message, please') }}", "one system message, please"),
        ("{{ messages[0].content + 'a' }}", "list"),
        ("{{ now() }}", "'now' is undefined"),
        ("{{ nothing.a.b }}", "undefined"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ messages[0].update(a=1) }}", "update"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "__class__"),
        ("{{ strftime_now.__self__.max }}", "__self__"),
        ("{{ dict.__call__.__globals__.a }}", "__call__"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "underscore"),
        ("{% set n = namespace(_a=1) %}", "underscore"),
        ("{{ range(10**9)|list }}", "range"),
        ("{% for i in range(10**9) %}a{% endfor %}", "range"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for m in messages %}", "end of template"),
        ("{% include 'a' %}", "loader"),
    ],
)
def test_what_a_template_raises_is_an_error_of_ours(template, says):
    with pytest.raises(InputInvalid, match=re.escape(says)) as caught:
        render(chat(template), question("what?"))
    assert caught.value.where == "messages"


def test_a_template_is_compiled_once():
    assert compiled(TEMPLATES["llava"]) is compiled(TEMPLATES["llava"])
