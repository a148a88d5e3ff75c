"""A chat template is rendered once, when a bundle is built: those that would say something else later are refused."""

import pytest

TEXT = "USER: <image>\n{{ messages[0]['content'][1]['text'] }} "


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("Today is {{ strftime_now('%d %B %Y') }}. ", "strftime_now"),
        ("{% if strftime_now('%Y')|int > 2050 %}Late. {% endif %}", "strftime_now"),
        ("{{ ['a', 'b'] | random }} ", "random"),
        ("{{ lipsum(1) }}", "lipsum"),
    ],
)
def test_time_and_chance(model, build, before, says):
    directory = model()
    (directory / "chat_template.jinja").write_text(before + TEXT, encoding="utf-8")
    assert build(directory).refused("chat_template", says)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}USER: {{ m['content'] + ' ' }}{% endfor %}ASSISTANT:", "TypeError"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ now() }}" + TEXT, "UndefinedError"),
        ("{{ raise_exception('one system message, please') }}", "one system message, please"),
        ("{% for m in messages %}USER: {{ m['content'] }}{% endfor %}ASSISTANT:", "one image"),
    ],
)
def test_templates_that_cannot_be_rendered(model, build, template, says):
    directory = model()
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert build(directory).refused("chat_template", says)
