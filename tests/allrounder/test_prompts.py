"""Prompts files: what is read, and how bad lines are named."""

import json

import pytest

from allrounder.errors import PromptsInvalid
from allrounder.prompts import read_prompts


@pytest.fixture
def file(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(name.encode())
    return tmp_path / "prompts.jsonl"


def line(**fields):
    return json.dumps({"image": "images/a.png", "question": "what?", **fields}, ensure_ascii=False)


def test_a_good_file(file):
    file.write_text("\n".join([line(), "", line(image="images/b.png", answer="a cat", kind="what"), ""]))
    first, second = read_prompts(file).prompts
    assert (first.image, first.question, first.answer, first.kind) == (
        file.parent / "images/a.png",
        "what?",
        None,
        "",
    )
    assert (second.answer, second.kind) == ("a cat", "what")


def test_the_name_follows_text_and_images(file):
    file.write_text(line())
    before = read_prompts(file).name
    assert before.startswith("prompts.jsonl:")
    assert read_prompts(file).name == before
    (file.parent / "images/a.png").write_bytes(b"changed")
    changed = read_prompts(file).name
    file.write_text(line(question="who?"))
    assert len({before, changed, read_prompts(file).name}) == 3


def test_a_question_may_hold_any_unicode_line_separator(file):
    file.write_text(line(question="one\u2028two\x85three") + "\r\n", encoding="utf-8")
    assert read_prompts(file).prompts[0].question == "one\u2028two\x85three"


def test_a_byte_order_mark_is_no_complaint(file):
    file.write_text(line(), encoding="utf-8-sig")
    assert len(read_prompts(file).prompts) == 1


def test_every_bad_line_is_named_by_its_number(file):
    bad = [
        "{",
        '{"image": "images/a.png"}',
        line(question="  "),
        line(image="no.png"),
        line(extra=1),
        line(question=3),
    ]
    file.write_text("\n".join([line(), *bad]))
    with pytest.raises(PromptsInvalid, match="6 unusable lines") as caught:
        read_prompts(file)
    for number in range(2, 8):
        assert f"line {number}: " in str(caught.value)
    assert "line 1:" not in str(caught.value)
    assert "there is no image" in str(caught.value)


def test_hundreds_of_bad_lines_stay_readable(file):
    file.write_text("{\n" * 500)
    with pytest.raises(PromptsInvalid, match="500 unusable lines") as caught:
        read_prompts(file)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_prompts(file, content):
    file.write_bytes(content)
    with pytest.raises(PromptsInvalid):
        read_prompts(file)


def test_no_file_and_a_folder(file):
    for path in (file, file.parent):
        with pytest.raises(PromptsInvalid, match="cannot be read"):
            read_prompts(path)


def test_a_folder_is_no_image(file):
    file.write_text(line(image="images"))
    with pytest.raises(PromptsInvalid, match="there is no image"):
        read_prompts(file)
