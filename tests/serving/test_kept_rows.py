"""The keep rule and the positions of kept rows, against plain words of what they mean."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allrounder.layout import sequential_layout
from allrounder.runtime.cache import keep_indices
from allrounder.serving.kept_rows import KeptRows, RowReader

IMAGE = 9  # the placeholder's id
SCORE = st.one_of(st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]), st.floats(width=32))


@given(st.data(), st.lists(st.lists(SCORE, min_size=1, max_size=15), min_size=1, max_size=3))
def test_the_best_of_each_image_are_kept_ties_go_to_the_lower_index_and_nan_is_the_least(data, images):
    counts, wanted, first = [], [], 0
    for scores in images:
        counts.append(data.draw(st.integers(1, len(scores))))
        ranked = sorted(range(len(scores)), key=lambda i: (-(-math.inf if math.isnan(scores[i]) else scores[i]), i))
        wanted += [first + each for each in sorted(ranked[: counts[-1]])]
        first += len(scores)
    image_of = np.array([number for number, scores in enumerate(images) for _ in scores])
    assert keep_indices(np.concatenate(images).astype(np.float32), image_of, np.array(counts)).tolist() == wanted


@given(st.data(), st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_positions_are_those_of_the_unpruned_prompt(data, sizes):
    ids = [each for number in range(len(sizes)) for each in (*[number] * data.draw(st.integers(0, 3)), IMAGE)]
    layout = sequential_layout([*ids, 5, 6], IMAGE, sizes)
    keep = sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1), min_size=1)))
    read = KeptRows(np.zeros((len(keep), 2), np.float32), tuple(keep), layout)
    stay = [row for row in range(layout.rows) if row not in layout.image_index]
    stay = sorted([*stay, *(layout.image_index[token] for token in keep)])
    assert read.kept.tolist() == read.positions[0].tolist() == stay


def test_several_images_in_one_prompt(pruned, image):
    """Each image keeps its own share; the rows of all come in the order of their places."""
    reader = RowReader(pruned().checkpoint)
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}, {"type": "text", "text": "?"}]
    images = reader.prepare([image, image.rotate(90)])
    read = reader.rows(images, reader.layout([{"role": "user", "content": content}]))
    assert [sum(each < 16 for each in read.keep), len(read.keep), len(read.rows)] == [4, 8, 8]
    assert len(reader.rows(reader.prepare([]), reader.layout([{"role": "user", "content": "hello"}])).rows) == 0
    first = reader.rows(reader.prepare([image]), reader.layout([{"role": "user", "content": [content[0], content[3]]}]))
    both = sorted(set(first.keep) & set(read.keep))
    for token in both:
        np.testing.assert_array_equal(first.rows[first.keep.index(token)], read.rows[read.keep.index(token)])
