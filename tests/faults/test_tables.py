"""Every id that a prompt or an answer may hold has a row in the embedding table, or the build says which has none."""

import json

import pytest
from doors import QUESTION, like_stock, ours, stock

from allrounder.vlm.random.model import Shape

# The tokenizer of the tiny models has 276 ids; their tables have 320 rows.
LAST = 275


def rows(count):
    return Shape(text={"num_key_value_heads": 4, "vocab_size": count})


def adds(content, token, special):
    """Returns an edit of tokenizer.json that adds a token under that very id, which may leave a gap before it."""
    made = {"id": token, "content": content, "special": special}
    fixed = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)

    def edit(whole):
        whole["added_tokens"] = [each for each in whole["added_tokens"] if each["content"] != content] + [made | fixed]
        whole["model"]["vocab"][content] = token

    return {"tokenizer.json": edit}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("token", [320, 900])
def test_an_added_token_beyond_the_table_is_refused(model, build, token, special):
    built = build(model(edits=adds("<extra>", token, special)))
    assert built.refused("<extra>", str(token), "0 to 319", "resize_token_embeddings"), built.stderr


def test_a_token_that_was_added_without_a_row_is_refused(model, build):
    """As `add_tokens` leaves it where `resize_token_embeddings` is forgotten."""
    from transformers import AutoTokenizer

    directory = model(rows(LAST + 1))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(directory)
    assert build(directory).refused(f"'zebra' = {LAST + 1}", f"0 to {LAST}", "resize_token_embeddings")


@pytest.mark.parametrize("count", [LAST, 100])
def test_a_vocabulary_larger_than_the_table_is_refused(model, build, count):
    built = build(model(rows(count)))
    assert built.refused(f"= {count}", f"0 to {count - 1}", "resize_token_embeddings"), built.stderr


@pytest.mark.parametrize("count", [LAST + 1, 400])
def test_a_table_with_as_many_rows_or_more_is_fine(model, build, count):
    directory = model(rows(count))
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory)


def test_the_last_row_can_be_asked_for(model, build):
    directory = model(edits=adds("zebra", 319, special=False))
    built = build(directory)
    assert built.code == 0, built.stderr
    assert ours(built.bundle, ["zebra?"]) == stock(directory, ["zebra?"])


def test_ids_that_the_tokenizer_puts_before_a_text_are_compared(model, build):
    """They stand in the post-processor as numbers, and need not be in the vocabulary."""

    def edit(whole):
        whole["post_processor"]["special_tokens"]["<s>"]["ids"] = [321]

    assert build(model(edits={"tokenizer.json": edit})).refused("321", "0 to 319")


def test_an_image_token_beyond_the_table_is_refused(model, build):
    edits = adds("<image>", 333, special=True) | {"config.json": lambda config: config.update(image_token_index=333)}
    assert build(model(edits=edits)).refused("333", "0 to 319")


def test_a_question_that_spells_the_image_token_stays_text_where_that_is_a_plain_word(model, build):
    """Transformers refuses such a question (two images, one image); the image's row must not stand in our prompts."""

    def plain(whole):
        next(each for each in whole["added_tokens"] if each["content"] == "<image>")["special"] = False

    def unlist(config):
        config["extra_special_tokens"].remove("<image>")

    word = model(name="word", edits={"tokenizer.json": plain, "tokenizer_config.json": unlist})
    built = [build(directory) for directory in (word, model())]
    assert not any(each.code for each in built)
    asked = ["what <image> is", QUESTION]
    assert ours(built[0].bundle, asked) == ours(built[1].bundle, asked)
    assert like_stock(built[0], word)


@pytest.mark.parametrize("stops", [320, [1, 320], [1, 5000]])
def test_a_stop_token_beyond_the_table_is_refused(model, build, stops):
    edits = {"generation_config.json": lambda content: content.update(eos_token_id=stops)}
    assert build(model(edits=edits)).refused("eos_token_id", "0 to 319")


def test_the_tokenizer_of_the_tiny_models_is_as_large_as_this_file_says(model):
    whole = json.loads((model() / "tokenizer.json").read_text())
    assert max(whole["model"]["vocab"].values()) == LAST
