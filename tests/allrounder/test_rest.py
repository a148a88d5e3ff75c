"""The small parts of the contract: progress, tensor names, the gather's declaration, golden prompts."""

import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder import progress as progress_module
from allrounder import tensors
from allrounder.gather import TOKEN_GATHER
from allrounder.golden import GoldenPrompt, decode_golden, encode_golden
from allrounder.progress import TerminalProgress, note, silent


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_one_line_at_the_start_and_one_at_the_end(clock):
    out = io.StringIO()
    tell = TerminalProgress(out)
    for done in range(5):
        clock[0] += 1
        tell("hashing", done, 4)
    assert out.getvalue() == "hashing: 0/4\nhashing: 4/4 (4.0 s)\n"


def test_the_same_task_again_is_timed_anew(clock):
    out = io.StringIO()
    tell = TerminalProgress(out)
    for _ in range(2):
        tell("hashing", 0, 1)
        clock[0] += 2
        tell("hashing", 1, 1)
        clock[0] += 60
    assert out.getvalue() == "hashing: 0/1\nhashing: 1/1 (2.0 s)\n" * 2


def test_a_terminal_gets_one_line_that_changes_at_most_ten_times_a_second(clock):
    out = Terminal()
    tell = TerminalProgress(out)
    for done in range(101):
        clock[0] += 0.01
        tell("hashing", done, 100)
    drawn = out.getvalue().split("\r\x1b[K")[1:]
    assert drawn[0] == "hashing: 0/100"
    assert drawn[-1] == "hashing: 100/100 (1.0 s)\n"
    assert 9 <= len(drawn) <= 12
    assert out.getvalue().count("\n") == 1


def test_work_of_unknown_length_does_not_end(clock):
    out = io.StringIO()
    tell = TerminalProgress(out)
    for done in (1, 2, 3):
        tell("training", done, 0)
    assert out.getvalue() == "training: 1/?\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_note_is_a_line_of_its_own(clock, stream):
    out = stream()
    show = TerminalProgress(out)
    note(show, "note: this first")
    show("hashing", 1, 1)
    assert out.getvalue().splitlines()[0] == "note: this first"
    assert out.getvalue().count("\n") == 2


def test_progress_goes_to_stderr_or_nowhere(capsys):
    silent("task", 1, 2)
    TerminalProgress()("task", 0, 2)
    assert capsys.readouterr() == ("", "task: 0/2\n")


def test_tensor_names_are_unique_and_all_exported():
    names = {name: value for name, value in vars(tensors).items() if name.isupper()}
    assert sorted(names) == sorted(tensors.__all__)
    assert len(set(names.values())) == len(names)
    for name in ("CACHE_KEY", "CACHE_VALUE", "CACHE_KEY_OUT", "CACHE_VALUE_OUT"):
        assert names[name].format(layer=7) == f"{name.lower()}.7"


def test_the_gather_is_declared_as_the_design_says():
    assert (TOKEN_GATHER.domain, TOKEN_GATHER.name) == ("allrounder", "TokenGather")
    assert [tuple(tensor) for tensor in TOKEN_GATHER.inputs] == [
        ("hidden", "T", ("B", "S", "H")),
        ("position_ids", "INT64", ("A", "B", "S")),
        ("scores", "FLOAT", ("N",)),
        ("image_index", "INT64", ("N",)),
        ("image_of", "INT64", ("N",)),
        ("keep_counts", "INT64", ("I",)),
    ]
    assert [tuple(tensor) for tensor in TOKEN_GATHER.outputs] == [
        ("gathered", "T", ("B", "R", "H")),
        ("gathered_position_ids", "INT64", ("A", "B", "R")),
        ("keep_indices", "INT64", ("T",)),
    ]
    assert TOKEN_GATHER.attributes == ("plugin_namespace", "plugin_version")


_text = st.text(st.characters(exclude_categories=["Cs"]))
_ids = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)


_part = st.one_of(st.just({"type": "image"}), st.builds(lambda text: {"type": "text", "text": text}, _text))
_message = st.fixed_dictionaries({"role": _text, "content": _text | st.lists(_part, max_size=3)})
_messages = st.lists(_message, max_size=3)


@given(st.lists(st.builds(GoldenPrompt, messages=_messages, text=_text, input_ids=_ids), max_size=4))
def test_golden_prompts_come_back(prompts):
    assert decode_golden(encode_golden(prompts)) == prompts


@pytest.mark.parametrize("data", [b"{}", b"no", b'{"messages": [], "text": "t", "input_ids": [1.5]}'])
def test_other_golden_lines_are_refused(data):
    with pytest.raises(msgspec.MsgspecError):
        decode_golden(data)
