"""vlm/prompt.py: batches of ragged prompts, and which of their rows stay."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.errors import InputInvalid
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.router.selection import keep_indices
from allrounder.vlm.prompt import kept_rows, prompt_batch, real_rows

IMAGE = 9
IDS = st.lists(st.integers(1, 8) | st.just(IMAGE), max_size=8).map(lambda ids: (*ids, 1))


@st.composite
def layouts(draw) -> list[PromptLayout]:
    prompts, sizes = draw(st.lists(IDS, min_size=1, max_size=4)), st.integers(1, 5)
    counts = [draw(st.lists(sizes, min_size=ids.count(IMAGE), max_size=ids.count(IMAGE))) for ids in prompts]
    return [sequential_layout(ids, IMAGE, tokens) for ids, tokens in zip(prompts, counts, strict=True)]


@settings(deadline=None)
@given(given=layouts())
def test_a_row_is_its_layout_and_the_rest_is_padding(given):
    batch = prompt_batch(given)
    for index, layout in enumerate(given):
        row = batch.row(index)
        assert tuple(row.input_ids[0].tolist()) == layout.input_ids
        assert tuple(row.image_index[0].tolist()) == layout.image_index
        assert tuple(row.image_of[0].tolist()) == layout.image_of
        assert tuple(tuple(axis[0].tolist()) for axis in row.position_ids) == layout.position_ids
        assert (int(row.next_position), int(row.lengths)) == (layout.next_position, layout.rows)
        assert not batch.input_ids[index, layout.rows :].any()
        assert not batch.position_ids[:, index, layout.rows :].any()
        assert (batch.image_index[index, layout.image_tokens :] == -1).all()
        assert (batch.image_of[index, layout.image_tokens :] == -1).all()
        assert all(torch.equal(one, same) for one, same in zip(row, prompt_batch([layout]), strict=True))
    assert all(part.dtype == torch.int64 for part in batch)


@settings(deadline=None)
@given(given=layouts(), answer=st.lists(st.integers(1, 8), max_size=4))
def test_answers_follow_their_prompts(given, answer):
    """As a layout with the answer behind it has them."""
    batch = prompt_batch(given)
    longer = batch.appended(torch.tensor([answer] * len(given), dtype=torch.int64).reshape(len(given), -1))
    positions = [tuple(range(layout.rows + len(answer))) for layout in given]
    wanted = prompt_batch(
        [
            layout._replace(
                input_ids=(*layout.input_ids, *answer),
                position_ids=(places,),
                next_position=layout.next_position + len(answer),
            )
            for layout, places in zip(given, positions, strict=True)
        ]
    )
    assert all(torch.equal(one, same) for one, same in zip(longer, wanted, strict=True))


@settings(deadline=None)
@given(given=layouts(), data=st.data())
def test_what_stays_keeps_order_and_positions(given, data):
    batch = prompt_batch(given)
    scores = torch.randn(batch.image_of.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    keep = keep_indices(scores, batch.image_of, data.draw(st.sampled_from([Fraction(1, 3), 2, Fraction(1)])))
    order, kept = kept_rows(batch, keep)
    for index, layout in enumerate(given):
        chosen = [each for each in keep[index].tolist() if each >= 0]
        stay = {layout.image_index[each] for each in chosen}
        rows = [row for row in range(layout.rows) if row not in layout.image_index or row in stay]
        one = kept.row(index)
        assert order[index, : len(rows)].tolist() == rows
        assert one.position_ids[0, 0].tolist() == rows  # positions count the unpruned prompt
        assert one.input_ids[0].tolist() == [layout.input_ids[row] for row in rows]
        assert one.image_index[0].tolist() == [rows.index(layout.image_index[each]) for each in chosen]
        assert one.image_of[0].tolist() == [layout.image_of[each] for each in chosen]
        assert int(one.next_position) == layout.next_position
    assert not kept.input_ids[~real_rows(kept)].any()


def test_one_prompt_as_many_rows():
    batch = prompt_batch([sequential_layout([1, IMAGE, 2], IMAGE, [3])])
    for part, three in zip(batch, batch.repeated(3), strict=True):
        assert torch.equal(three, torch.cat([part] * 3, dim=-2 if part.ndim > 1 else 0))
    assert all(torch.equal(one, same) for one, same in zip(batch.repeated(1), batch, strict=True))


def test_a_batch_has_a_prompt():
    with pytest.raises(InputInvalid, match="no prompt"):
        prompt_batch([])
