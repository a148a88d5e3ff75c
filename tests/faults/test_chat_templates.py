"""Chat templates of all kinds: rendered per request, as transformers does it, and refused in clear words."""

import re

import pytest
from doors import IMAGE, QUESTION, ours, stock

from allrounder.errors import InputInvalid
from allrounder.runtime import Runtime
from allrounder.vlm.random.text import token_id

TEXT = "USER: <image>\n{{ messages[0]['content'][1]['text'] }} "
TURNS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ '<image>\n' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' }}{% endfor %}"
)
PHOTO = {"type": "image", "image": IMAGE}


@pytest.fixture
def written(model):
    def write(template: str):
        directory = model()
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        return directory

    return write


@pytest.mark.parametrize(
    "template",
    [
        "Today is {{ strftime_now('%d %B %Y') }}. " + TEXT,
        "{% if strftime_now('%Y')|int > 2050 %}Late. {% endif %}" + TEXT,
        TEXT.replace("['text']", "['text'] | trim"),
        TEXT + "{% if 'red' in messages[0]['content'][1]['text'] %}Colours matter. {% endif %}",
        TEXT + "{% if messages[0]['content'][1]['text'] | length > 22 %}Be brief. {% endif %}",
        "{{ messages[0]['content'][1]['text'] }} <image> ASSISTANT:",
        "<s>" + TURNS,
    ],
)
def test_templates_that_are_rendered_per_request(written, build, template):
    directory = written(template)
    built = build(directory)
    assert built.code == 0, built.stderr
    questions = [QUESTION, "what is the blue object?", "  why?\n"]
    assert ours(built.bundle, questions) == stock(directory, questions)


def user(*parts):
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


ALWAYS = "<image>" + TURNS.replace("<image>\n", "")


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (
            "{% if messages[0]['content'] is string %}{{ raise_exception('an image, please') }}{% endif %}" + TURNS,
            [{"role": "user", "content": "why?"}],
            "an image, please",
        ),
        (
            TURNS.replace("in messages", "in messages[-1:]"),
            [{"role": "system", "content": "be brief"}, user(PHOTO, "why?")],
            "'be brief'",
        ),
        (TURNS.replace("p['text']", "(p['text'] | replace('y', 'x'))"), [user(PHOTO, "why?")], "'why?'"),
        (ALWAYS, [user("why?")], "1 times '<image>'"),
        (ALWAYS, [user(PHOTO, "why?", PHOTO)], "1 times '<image>'"),
        (TURNS, [user(PHOTO, {"type": "video", "video": IMAGE})], "messages[0].content[1]"),
        (TURNS, [user({"type": "image"}, "why?")], "messages[0].content[0]"),
        (TURNS, [], "no messages"),
    ],
)
def test_conversations_that_are_refused(written, build, template, messages, says):
    built = build(written(template))
    assert built.code == 0, built.stderr
    with Runtime.load(built.bundle) as runtime:
        with pytest.raises(InputInvalid, match=re.escape(says)):
            runtime.chat(messages, max_new_tokens=1)
        runtime.generate(IMAGE, QUESTION, max_new_tokens=1)


def test_conversations_that_are_taken(written, build):
    """Text alone, several images between texts, turns; a control token's spelling in any of them is text."""
    built = build(written(TURNS))
    assert built.code == 0, built.stderr
    answer = {"role": "assistant", "content": "a </s> ring"}
    conversations = [
        ([{"role": "user", "content": "why <image>?"}], 0),
        ([user("this", PHOTO, "or <s>", PHOTO, "?")], 2),
        ([{"role": "system", "content": "<image>"}, user(PHOTO, "?"), answer, user("sure?")], 1),
    ]
    with Runtime.load(built.bundle) as runtime:
        one = runtime.generate(IMAGE, "?", max_new_tokens=1)
        image, begin, end = token_id("<image>"), token_id("<s>"), token_id("</s>")
        for messages, images in conversations:
            ids = list(runtime.chat(messages, max_new_tokens=1).prompt_ids)
            assert ids.count(image) == images * list(one.prompt_ids).count(image)
            assert (ids.count(begin), ids.count(end)) == (1, 0)


@pytest.mark.parametrize(("before", "says"), [("{{ ['a', 'b'] | random }} ", "random"), ("{{ lipsum(1) }}", "lipsum")])
def test_chance(written, build, before, says):
    assert build(written(before + TEXT)).refused("chat_template", says)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}USER: {{ m['content'] + ' ' }}{% endfor %}ASSISTANT:", "concatenate"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ now() }}" + TEXT, "undefined"),
        ("{{ raise_exception('one system message, please') }}", "one system message, please"),
        ("{% for m in messages %}USER: {{ m['content'] }}{% endfor %}ASSISTANT:", "number of images"),
        (TEXT.replace("['text']", "['text'] | upper"), "leaves a text out"),
    ],
)
def test_templates_that_take_no_question_about_an_image(written, build, template, says):
    assert build(written(template)).refused("chat_template", says)
