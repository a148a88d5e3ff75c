"""The keep rule and the positions of kept rows, against plain words of what they mean."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allrounder.runtime.prompt import PromptIds
from allrounder.serving.kept_rows import KeptRows, keep_indices

SCORE = st.one_of(st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]), st.floats(width=32))


@given(st.data(), st.lists(SCORE, min_size=1, max_size=30))
def test_the_best_are_kept_ties_go_to_the_lower_index_and_nan_is_the_least(data, scores):
    tokens = data.draw(st.integers(1, len(scores)))
    ranked = sorted(range(len(scores)), key=lambda i: (-(-math.inf if math.isnan(scores[i]) else scores[i]), i))
    assert keep_indices(np.array(scores, np.float32), tokens).tolist() == sorted(ranked[:tokens])


@given(
    st.integers(0, 5),
    st.sets(st.integers(0, 19), min_size=1).map(sorted),
    st.integers(1, 5),
)
def test_positions_are_those_of_the_unpruned_prompt(before, keep, after):
    read = KeptRows(np.zeros((len(keep), 2), np.float32), tuple(keep), PromptIds((1,) * before, (2,) * after), 20)
    whole = ["prefix"] * before + list(range(20)) + ["suffix"] * after
    assert [whole[place] for place in read.positions] == ["prefix"] * before + keep + ["suffix"] * after
    assert (np.diff(read.positions) > 0).all()
    assert read.positions[-1] == before + 20 + after - 1
