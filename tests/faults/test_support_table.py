"""A cell of the support table that no test runs: every backend, precision, layer policy and K that the help offers.

The cells come from what the build itself says it takes, so that a new one without a row here fails. A cell is built and
asked, with the tokens of ONNX Runtime in fp32; or built and told to be unmeasured here; or refused with a command that
works. bfloat16 of a random model gives tokens of its own: there the first ones must be the same every time, and the
demo model's answers those of fp32.
"""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
from doors import IMAGE, ours, stock

from allrounder import build_engine
from allrounder.commands.cli import main
from allrounder.commands.pipeline.random_model import write_random_model
from allrounder.errors import BackendError
from allrounder.runtime import Runtime
from allrounder.runtime.engine import Engine

QUESTIONS = ("what is the red object?", "is it?")
POLICIES, GATHERS = ("dynamic", "static"), (0, 2)
SAME, CLOSE, UNMEASURED, ELSEWHERE, WRITTEN, ABSENT = "same", "close", "unmeasured", "elsewhere", "written", "absent"
TABLE = {
    "onnxruntime": {"fp32": SAME, "fp16": SAME, "bf16": UNMEASURED},
    "openvino": {"fp32": SAME, "fp16": SAME, "bf16": CLOSE},
    "tensorrt": {"fp32": ABSENT, "fp16": ABSENT, "bf16": ABSENT},  # not installed here: what it says then
    "tensorrt-rtx": {"fp32": ELSEWHERE, "fp16": ELSEWHERE, "bf16": ELSEWHERE},
    "checkpoint": {"fp32": WRITTEN, "fp16": WRITTEN, "bf16": "refused"},
    "tensorrt-llm": {"fp32": WRITTEN, "fp16": WRITTEN, "bf16": "refused"},
}
LIBRARIES = {"openvino": "openvino", "tensorrt-rtx": "tensorrt_rtx"}
CELLS = [
    pytest.param((name, precision, policy, gather), id=f"{name}-{precision}-{policy}-K{gather}")
    for name, row in TABLE.items()
    for precision in row
    for policy in POLICIES
    for gather in GATHERS
]


def said(capfd, *arguments):
    """What the build says on stderr to arguments that it refuses."""
    capfd.readouterr()
    with contextlib.suppress(SystemExit):
        assert build_engine.main(list(arguments)) == 2
    return capfd.readouterr().err


def test_the_table_has_a_row_for_all_that_the_command_takes(capfd):
    backends = said(capfd, "--backend", "?").partition("wanted: one of ")[2].strip().split(", ")
    precisions, policies = (
        re.findall(r"'(\w+)'", said(capfd, flag, "?").partition("choose from")[2])
        for flag in ("--precision", "--layer-policy")
    )
    assert sorted(TABLE) == sorted(backends)
    assert all(sorted(row) == sorted(precisions) for row in TABLE.values())
    assert sorted(policies) == sorted(("both", *POLICIES))
    with contextlib.suppress(SystemExit):
        build_engine.main(["--help"])
    told = capfd.readouterr().out
    pages = [Path(build_engine.__file__).parent / page for page in ("README.md", "docs/backends.md")]
    texts = [told, *(page.read_text(encoding="utf-8") for page in pages)]
    assert [name for name in backends for text in texts if name not in text] == []


@pytest.fixture
def make(tiny, tmp_path, capfd):
    """Builds a version of the tiny model into a place of its own; gives code, stderr and the place."""

    def run(name, precision, policy, gather, *more, version="par-nano"):
        out = tmp_path / f"{name}-{precision}"
        decision = ("--layer-policy", policy, "--prune-layer", str(gather), "--version", version)
        capfd.readouterr()
        code = build_engine.main(tiny.arguments(out, "--backend", name, "--precision", precision, *decision, *more))
        return code, capfd.readouterr().err, out

    return run


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    """The tokens of ONNX Runtime in fp32 by policy and K, each asked once."""
    known = {}

    def get(policy, gather):
        if (policy, gather) not in known:
            out = tmp_path_factory.mktemp("reference") / "bundle"
            decision = ("--layer-policy", policy, "--prune-layer", str(gather), "--version", "par-nano")
            assert build_engine.main(tiny.arguments(out, *decision)) == 0
            known[policy, gather] = ours(out, QUESTIONS, 6)
        return known[policy, gather]

    return get


def command(capfd, *arguments):
    """Runs a command; it works, or ends in an error of ours."""
    capfd.readouterr()
    code = main(list(map(str, arguments)))
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert code == 0 or (code == 2 and f"allrounder {arguments[0]}: " in told.err)
    return code, told.out + told.err


def check_refused(capfd, code, told, out):
    """It left nothing, and the command that it names is one that works."""
    assert code == 2
    assert not out.exists()
    line = shlex.split(told.strip().splitlines()[-1].rpartition("remedy: ")[2])
    assert line[:2] == ["allrounder", "build"]
    assert main(line[1:]) == 0, capfd.readouterr().err


def check_cell(make, reference, capfd, cell):
    """Builds one cell and holds it to its row."""
    name, precision, policy, gather = cell
    kind = TABLE[name][precision]
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    code, told, out = make(*cell)
    if kind in (WRITTEN, "refused"):
        if kind == "refused" or (policy, gather) != ("static", 0):
            check_refused(capfd, code, told, out)
        else:
            assert (code, (out / "allrounder.json").is_file()) == (0, True), told
        return
    if policy == "dynamic" and name.startswith("tensorrt"):
        line = shlex.split(told.strip().splitlines()[-1].rpartition("remedy: ")[2])
        assert (code, line[line.index("--layer-policy") + 1]) == (2, "static")
        if kind != ABSENT:
            check_refused(capfd, code, told, out)
        return
    if kind == ABSENT:
        assert (code, out.exists(), "pip install" in told) == (2, False, True), told
        return
    assert code == 0, told
    if kind in (UNMEASURED, ELSEWHERE):
        assert "neither fidelity nor latency is measured" in told
        assert command(capfd, "run", "--bundle", out, "--image", IMAGE, "--question", "is it?")[0] == 2
        return
    found = ours(out, QUESTIONS, 6)
    assert found == ours(out, QUESTIONS, 6), "another answer the second time"
    if kind == SAME:
        assert found == reference(policy, gather)


SLOW = dict.fromkeys(LIBRARIES, pytest.mark.slow)  # the fast ones: tests/parity/test_openvino.py, test_tensorrt_rtx.py


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in TABLE])
def test_each_backend_with_its_own_defaults(make, reference, capfd, name):
    """The narrowest precision, in the decision that the command takes where nobody names one."""
    precision = [each for each in TABLE[name] if TABLE[name][each] != "refused"][-1]
    policy = "dynamic" if name in ("onnxruntime", "openvino") else "static"
    check_cell(make, reference, capfd, (name, precision, policy, 2))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(make, reference, capfd, cell):
    check_cell(make, reference, capfd, cell)


@pytest.mark.slow
@pytest.mark.timeout(900)  # OpenVINO compiles every graph anew for each command
@pytest.mark.parametrize("name", TABLE)
def test_the_other_commands_take_what_was_built_or_say_why_not(make, tiny, capfd, name):
    """Of each backend that builds here, `full` and a version that drops tokens."""
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name])
    gather, version = (0, "par-nano") if WRITTEN in TABLE[name].values() else (2, "full,par-nano")
    for precision, kind in TABLE[name].items():
        if kind in (ABSENT, "refused"):
            continue
        code, told, out = make(name, precision, "static", gather, version=version)
        assert code == 0, told
        asked = ("--image", IMAGE, "--question", "is it?")
        codes = [
            command(capfd, "run", "--bundle", out, *asked)[0],
            command(capfd, "bench", out, "--repeats", 1, "--new-tokens", 2, "--no-memory")[0],
            command(capfd, "calibrate", out, "--calib", tiny.prompts)[0],
        ]
        assert codes == [0 if kind in (SAME, CLOSE) else 2] * 3
        assert command(capfd, "inspect", out)[0] == (2 if kind == WRITTEN else 0)


@pytest.mark.parametrize("shape", ["llama-mha", "qwen2-siglip"])
def test_a_port_with_two_names_keeps_that_of_the_graph(model, build, shape):
    """fp16's last cast is one from fp32 to fp32 for OpenVINO, which folds it away: the port has both names then."""
    pytest.importorskip("openvino")
    directory = model(shape)
    built = build(directory, "--backend", "openvino", "--precision", "fp16")
    assert built.code == 0, built.stderr
    assert ours(built.bundle) == stock(directory)


def test_the_first_answer_in_bfloat16_is_that_of_every_time(tmp_path, capfd):
    """OpenVINO's first run left unwritten what a skipped last layer only hands on: zeros, or what lay there before."""
    pytest.importorskip("openvino")
    model, out = write_random_model(tmp_path, "llama-mha"), tmp_path / "bundle"
    decision = ("--keep", "4", "--layers", "4", "--prune-layer", "0", "--layer-policy", "dynamic")
    place = ("--model", model.vlm, "--router", model.router, "--out", out)
    arguments = ("--backend", "openvino", "--precision", "bf16", *decision, *map(str, place))
    assert build_engine.main(list(arguments)) == 0, capfd.readouterr().err
    with Runtime.load(out) as runtime:
        first, second = (runtime.generate(IMAGE, QUESTIONS[0], max_new_tokens=6) for _ in range(2))
    assert first.kept_layers == (0, 1, 2, 3), "the last layer must be left out for this to show"
    assert first.token_ids == second.token_ids


def test_what_does_not_run_is_not_published(model, build, monkeypatch):
    """No prompts and no latency of fp16 on a CPU: nobody opened it before the user did."""

    def fail(*_):
        raise BackendError("planted")

    directory = model()
    monkeypatch.setattr(Engine, "decode", fail)
    assert build(directory, "--precision", "fp16").refused("full (onnxruntime, fp16", "planted")
