"""Prompt layouts: where images stand, what is kept of each, and what is refused."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.errors import InputInvalid
from allrounder.layout import PromptLayout, keep_counts, sequential_layout
from allrounder.versions import VERSIONS, keep_of, kept_tokens

IMAGE = 7
text_ids = st.lists(st.integers(0, 99).filter(lambda each: each != IMAGE), max_size=5)
sizes = st.lists(st.integers(1, 30), max_size=4)
rules = st.fractions(0, 1, max_denominator=1000).filter(bool) | st.integers(2, 40)


@st.composite
def prompts(draw):
    """Ids with one placeholder per image, the images' sizes, and the text before, between and after them."""
    tokens = draw(sizes)
    texts = [draw(text_ids) for _ in range(len(tokens) + 1)]
    texts[-1].append(draw(st.integers(8, 99)))  # a prompt ends with text
    ids = [*texts[0]]
    for text in texts[1:]:
        ids += [IMAGE, *text]
    return ids, tokens, texts


@given(prompts())
def test_images_stand_where_their_placeholders_stood(prompt):
    ids, tokens, texts = prompt
    expanded, owners = [*texts[0]], [None] * len(texts[0])
    for image, (count, text) in enumerate(zip(tokens, texts[1:], strict=True)):
        expanded += [IMAGE] * count + text
        owners += [image] * count + [None] * len(text)
    layout = sequential_layout(ids, IMAGE, tokens)
    assert layout.input_ids == tuple(expanded)
    assert layout.image_index == tuple(row for row, owner in enumerate(owners) if owner is not None)
    assert layout.image_of == tuple(owner for owner in owners if owner is not None)
    assert layout.position_ids == (tuple(range(len(expanded))),)
    assert layout.next_position == layout.rows == len(expanded)


@given(prompts())
def test_a_layout_counts_what_it_holds(prompt):
    ids, tokens, texts = prompt
    layout = sequential_layout(ids, IMAGE, tokens)
    assert layout.tokens_by_image == tuple(tokens)
    assert layout.image_tokens == sum(tokens)
    assert layout.text_tokens == layout.rows - layout.image_tokens
    assert layout.text_ids == tuple(each for text in texts for each in text)


@given(prompts(), rules)
def test_what_is_kept_of_an_image_depends_on_its_own_size_alone(prompt, keep):
    ids, tokens, _ = prompt
    counts = keep_counts(sequential_layout(ids, IMAGE, tokens), keep)
    alone = [keep_counts(sequential_layout([IMAGE, 1], IMAGE, [each]), keep) for each in tokens]
    assert counts == tuple(count for each in alone for count in each)
    assert counts == tuple(kept_tokens(keep, each) for each in tokens)
    assert all(1 <= count <= each for count, each in zip(counts, tokens, strict=True))


@given(sizes.filter(bool), st.permutations(range(4)), rules)
def test_images_in_another_order_keep_what_they_kept(tokens, order, keep):
    order = [each for each in order if each < len(tokens)]
    kept = keep_counts(sequential_layout([IMAGE] * len(tokens) + [1], IMAGE, tokens), keep)
    moved = keep_counts(sequential_layout([IMAGE] * len(tokens) + [1], IMAGE, [tokens[each] for each in order]), keep)
    assert moved == tuple(kept[each] for each in order)


@given(prompts())
def test_versions_are_nested_in_every_image(prompt):
    ids, tokens, _ = prompt
    layout = sequential_layout(ids, IMAGE, tokens)
    kept = [keep_counts(layout, keep_of(name)) for name in VERSIONS]
    assert kept[0] == layout.tokens_by_image
    for larger, smaller in pairwise(kept):
        assert all(low <= high for low, high in zip(smaller, larger, strict=True))


def test_a_half_is_rounded_up_in_each_image_and_not_over_all():
    layout = sequential_layout([1, IMAGE, 2, IMAGE, IMAGE, 3], IMAGE, [3, 5, 1])
    assert keep_counts(layout, Fraction(1, 2)) == (2, 3, 1)
    assert keep_counts(layout, Fraction(1, 100)) == (1, 1, 1)
    assert keep_counts(layout, 4) == (3, 4, 1)


def test_text_alone_has_no_image():
    layout = sequential_layout([1, 2], IMAGE, [])
    assert layout == PromptLayout((1, 2), (), (), ((0, 1),), 2)
    assert (layout.tokens_by_image, keep_counts(layout, 144)) == ((), ())


@given(text_ids, st.integers(0, 4), st.integers(0, 4))
def test_images_and_placeholders_that_do_not_match_are_refused(text, places, images):
    ids = [*text, *[IMAGE] * places, 8]
    if places == images:
        assert len(sequential_layout(ids, IMAGE, [2] * images).tokens_by_image) == images
        return
    with pytest.raises(InputInvalid, match=f"{images} images, {places} placeholders"):
        sequential_layout(ids, IMAGE, [2] * images)


@pytest.mark.parametrize("ids", [[], [1, IMAGE], [IMAGE]])
def test_a_prompt_that_does_not_end_with_text_is_refused(ids):
    with pytest.raises(InputInvalid, match="ends with text"):
        sequential_layout(ids, IMAGE, [2] * ids.count(IMAGE))
