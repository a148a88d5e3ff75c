"""Messages: what is taken, what is refused and where, and that nothing of the caller's is changed."""

import copy

import pytest

from allrounder.chat.messages import change_texts, plain_messages, question, read_messages, texts_of
from allrounder.errors import InputInvalid

A, B = object(), object()
CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "image", "image": A}, {"type": "text", "text": "this?"}]},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": ({"type": "text", "text": " and "}, {"type": "image", "url": B})},
]


def test_images_are_taken_out_in_their_order():
    before = copy.copy(CONVERSATION[1]["content"])
    read = read_messages(CONVERSATION)
    assert read.images == (A, B)
    assert read.messages == plain_messages(CONVERSATION) == plain_messages(read.messages)
    assert read.messages[3]["content"] == [{"type": "text", "text": " and "}, {"type": "image", "url": "image"}]
    assert CONVERSATION[1]["content"] == before
    assert texts_of(read.messages) == ["be brief", "this?", "yes", " and "]
    louder = change_texts(read.messages, str.upper)
    assert texts_of(louder) == ["BE BRIEF", "THIS?", "YES", " AND "]
    assert texts_of(read.messages)[0] == "be brief"


def test_a_path_is_not_shown_to_the_template():
    shown = plain_messages([{"role": "user", "content": [{"type": "image", "path": "<image>.png"}]}])
    assert shown == [{"role": "user", "content": [{"type": "image", "path": "image"}]}]


def test_the_short_form():
    two = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "why?"}]
    assert question("why?", images=2) == [{"role": "user", "content": two}]
    assert plain_messages(question("why?", images=0)) == [{"role": "user", "content": two[2:]}]
    for wrong in (None, 3, b"what?", ["what?"], "", " \n\t", "half a \ud83d pair"):
        with pytest.raises(InputInvalid, match="question"):
            question(wrong)


def user(*parts):
    return [{"role": "system", "content": "a"}, {"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages"),
        ("what?", "messages"),
        (None, "messages"),
        ({"role": "user", "content": "a"}, "messages"),
        (["what?"], "messages[0]"),
        ([{"role": "user"}], "messages[0]"),
        ([{"content": "a"}], "messages[0]"),
        ([{"role": "user", "content": "a", "name": "<s>"}], "messages[0]"),
        ([{"role": 3, "content": "a"}], "messages[0].role"),
        ([{"role": "<s>", "content": "a"}], "messages[0].role"),
        ([{"role": "", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": " "}], "messages[0].content"),
        ([{"role": "user", "content": "\ud83d"}], "messages[0].content"),
        (user(), "messages[1].content"),
        (user({"type": "text", "text": "\n"}, {"type": "text", "text": ""}), "messages[1].content"),
        (user("a"), "messages[1].content[0]"),
        (user({"type": "text", "text": "a"}, {"text": "a"}), "messages[1].content[1]"),
        (user({"type": "video", "video": A}), "messages[1].content[0]"),
        (user({"type": "text", "text": 3}), "messages[1].content[0].text"),
        (user({"type": "text", "text": "\udc00"}), "messages[1].content[0].text"),
        (user({"type": "text", "text": "a", "more": "<s>"}), "messages[1].content[0]"),
        (user({"type": "image", "image": A, "url": B}), "messages[1].content[0]"),
        (user({"type": "image", "image": A, "detail": "low"}), "messages[1].content[0]"),
    ],
)
def test_what_is_refused_and_where(messages, where):
    for read in (plain_messages, read_messages):
        with pytest.raises(InputInvalid) as caught:
            read(messages)
        assert caught.value.where == where


@pytest.mark.parametrize("part", [{"type": "image"}])
def test_an_image_part_without_an_image(part):
    with pytest.raises(InputInvalid, match="without an image") as caught:
        read_messages(user({"type": "text", "text": "a"}, part))
    assert caught.value.where == "messages[1].content[1]"


def test_texts_may_be_blank_beside_others():
    blank = [{"role": "system", "content": ""}, *user({"type": "text", "text": " "}, {"type": "image", "image": A})]
    assert texts_of(read_messages(blank).messages) == ["", "a", " "]
