"""Text that comes in pieces: whole characters, stop texts."""

import fake_bundle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from allrounder.errors import InputInvalid
from allrounder.runtime.text import Detokeniser, StopTexts

BYTE_LEVEL = fake_bundle.tokenizer()


def byte_fallback() -> Tokenizer:
    """In the manner of Llama: words with a mark for space, bytes for what has no token."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581red", "\u2581", "ball", "."]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


BYTE_FALLBACK = byte_fallback()


def pieces(tokenizer, ids):
    stream = Detokeniser(lambda some: tokenizer.decode(list(some), skip_special_tokens=True))
    return [*(stream.add(token) for token in ids), stream.finish()]


def byte_ids(text: str) -> list[int]:
    return BYTE_LEVEL.encode(text, add_special_tokens=False).ids


@given(st.text(max_size=20))
def test_pieces_are_whole_characters_and_add_up(text):
    out = pieces(BYTE_LEVEL, byte_ids(text))
    assert "".join(out) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in out)


@given(st.lists(st.integers(0, fake_bundle.VOCABULARY - 1), max_size=24))
def test_random_bytes_and_special_tokens_add_up_to_the_whole_decoding(ids):
    assert "".join(pieces(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)


def test_a_character_of_four_bytes_comes_when_it_is_complete():
    assert pieces(BYTE_LEVEL, byte_ids("a\N{GRINNING FACE}b")) == ["a", "", "", "", "\N{GRINNING FACE}", "b", ""]


def test_an_unfinished_character_is_given_out_as_such_at_the_end():
    assert pieces(BYTE_LEVEL, byte_ids("é")[:1]) == ["", "\ufffd"]


def test_a_leading_space_is_stripped_once_only():
    red, space, ball = 257, 258, 259
    accent = [1 + byte for byte in "é".encode()]
    ids = [red, red, space, ball, *accent, red]
    out = pieces(BYTE_FALLBACK, ids)
    assert "".join(out) == BYTE_FALLBACK.decode(ids) == "red red ballé red"
    assert out[4] == ""
    assert out[5] == "é"


def cut(texts, parts):
    stops = StopTexts(texts)
    out = []
    for part in parts:
        out.append(stops.add(part))
        if stops.reached:
            return out, True
    return [*out, stops.finish()], False


def test_a_stop_text_is_cut_off_across_pieces():
    assert cut(["END"], ["abE", "N", "Dx"]) == (["ab", "", ""], True)


def test_what_only_began_like_a_stop_text_is_given_out():
    assert cut(["END"], ["abE", "N", "x"]) == (["ab", "", "ENx", ""], False)
    assert cut(["END"], ["abEN"]) == (["ab", "EN"], False)


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=6),
)
def test_pieces_make_no_difference(texts, parts):
    whole = "".join(parts)
    out, reached = cut(texts, parts)
    by_letter, reached_by_letter = cut(texts, list(whole))
    assert reached == reached_by_letter == any(text in whole for text in texts)
    assert "".join(out) == "".join(by_letter)
    assert not any(text in "".join(out) for text in texts)


@pytest.mark.parametrize("texts", ["END", [""], [3], [None]])
def test_what_is_no_stop_text_is_refused(texts):
    with pytest.raises(InputInvalid, match="stop"):
        StopTexts(texts)
