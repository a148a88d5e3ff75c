"""`allrounder`, `allrounder run` and `allrounder inspect` on a small bundle."""

import argparse
import json
import subprocess
import sys

import fake_bundle
import msgspec
import numpy as np
import pytest
from PIL import Image

from allrounder.commands import cli
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.errors import AllRounderError
from allrounder.runtime import Runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("commands") / "bundle"
    fake_bundle.write_graphs(place)
    here = backend("onnxruntime").fingerprint(EngineOptions())
    there = msgspec.structs.replace(here, cpu="elsewhere")
    full = fake_bundle.entry("full", latency=fake_bundle.latency(here, 100.0, 10.0), fidelity=fake_bundle.fidelity(0.0))
    pruned = fake_bundle.entry("t2-l2", latency=fake_bundle.latency(there, 50.0, 5.0))
    return fake_bundle.write_manifest(place, [full, pruned])


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return path


def ask(folder, image, *extra):
    arguments = ["--bundle", folder, "--image", image, "--question", "what is it?", "--max-new-tokens", 6, *extra]
    return cli.main(["run", *map(str, arguments)])


def test_run_prints_answer_engine_and_times(folder, image, capsys):
    assert ask(folder, image, "--version", "t2-l2") == 0
    out = capsys.readouterr().out
    with Runtime.load(folder, version="t2-l2") as runtime:
        assert out.startswith(runtime.generate(image, "what is it?", max_new_tokens=6).text)
    assert "engine  t2-l2 (onnxruntime, fp32, static, K=1): 2 tokens of each image, 2 decoder layers" in out
    assert "first token after" in out
    assert "of text and 4 of images (2 stay) in, 6 out, ended by length" in out


def test_run_streams_the_same_text(folder, image, capsys):
    ask(folder, image)
    whole = capsys.readouterr().out
    ask(folder, image, "--stream")
    assert capsys.readouterr().out.split("\nengine")[0] == whole.split("\nengine")[0]


def test_run_prints_json(folder, image, capsys):
    assert ask(folder, image, "--json", "--version", "full", "--stream") == 0
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["version"] == "full"
    assert len(answer["token_ids"]) == 6
    assert answer["keep_indices"] == [0, 1, 2, 3]
    assert answer["timing"]["ttft_ms"] > 0
    assert answer["usage"]["image_tokens"] == answer["usage"]["kept_image_tokens"] == 4


def run_json(folder, capsys, *arguments):
    """The object that `allrounder run --json` prints of a greedy answer."""
    asked = ["run", "--bundle", folder, "--json", "--max-new-tokens", 6, *arguments]
    assert cli.main([str(word) for word in asked]) == 0
    return json.loads(capsys.readouterr().out)


def same(printed, answer):
    names = ("text", "token_ids", "prompt_ids", "keep_indices", "usage")
    return {name: printed[name] for name in names} == {
        name: value for name, value in json.loads(msgspec.json.encode(answer)).items() if name in names
    }


def test_run_takes_several_images_or_none_and_a_system_prompt(folder, image, capsys):
    several = run_json(
        folder, capsys, "--image", image, "--image", image, "--question", "same?", "--system", "be brief"
    )
    none = run_json(folder, capsys, "--question", "what is it?", "--version", "t2-l2")
    with Runtime.load(folder) as runtime:
        parts = [{"type": "image", "image": image}] * 2 + [{"type": "text", "text": "same?"}]
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
        assert same(several, runtime.chat(messages, max_new_tokens=6))
    with Runtime.load(folder, version="t2-l2") as runtime:
        messages = [{"role": "user", "content": "what is it?"}]
        assert same(none, runtime.chat(messages, max_new_tokens=6))
    assert none["usage"]["image_tokens"] == 0
    assert none["usage"]["text_tokens"] > 0


def test_run_reads_messages_whose_images_lie_beside_them(folder, image, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(image.read_bytes())
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image", "image": "pictures/a.png"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "image", "path": "pictures/a.png"}, {"type": "text", "text": "again?"}]},
    ]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(turns))
    printed = run_json(folder, capsys, "--messages", file, "--version", "t2-l2")
    for turn, place in ((0, 1), (2, 0)):
        part = turns[turn]["content"][place]
        part.update({key: image for key in part if key != "type"})
    with Runtime.load(folder, version="t2-l2") as runtime:
        assert same(printed, runtime.chat(turns, max_new_tokens=6))
    assert printed["usage"]["kept_image_tokens"] == 4


@pytest.mark.parametrize(("keep", "kept"), [("0.25", 1), ("0.5", 2), ("3", 3), ("1", 4), ("99", 4)])
def test_run_keeps_what_it_is_asked_to(folder, image, capsys, keep, kept):
    asked = ["--image", image, "--question", "what is it?", "--version", "t2-l2", "--keep", keep]
    assert run_json(folder, capsys, *asked)["usage"]["kept_image_tokens"] == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a question is asked, or messages are"),
        (["--question", "what?", "--messages", "FILE"], "either a question is asked, or messages are"),
        (["--messages", "FILE", "--image", "a.png"], "a file of messages holds its images"),
        (["--messages", "FILE", "--system", "be brief"], "a file of messages holds its images"),
        (["--messages", "/nowhere.json"], "the messages cannot be read; where: /nowhere.json"),
        (["--messages", "FILE"], "messages[0].content[0]"),
        (["--question", "what?", "--keep", "1.5"], "InvalidBudget: impossible keep rule; where: --keep; got: 1.5"),
        (["--question", "what?", "--keep", "0.5", "--version", "full"], "this entry keeps every image token"),
    ],
)
def test_run_refuses_what_cannot_be_asked(folder, tmp_path, capsys, arguments, message):
    file = tmp_path / "messages.json"
    file.write_text('[{"role": "user", "content": [{"type": "sound"}]}]')
    given = [str(file) if word == "FILE" else word for word in arguments]
    assert cli.main(["run", "--bundle", str(folder), *given]) == 2
    assert message in capsys.readouterr().err


def test_run_chooses_by_target(folder, image, capsys):
    assert ask(folder, image, "--ttft-ms", "10000", "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == "full"
    assert ask(folder, image, "--tpot-ms", "0.0001") == 2
    assert "NoEngineMeetsTarget" in capsys.readouterr().err
    assert ask(folder, image, "--tpot-ms", "0.0001", "--fallback", "fastest") == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--version", "par-lite"], "UnknownVersion: the bundle has no version 'par-lite'"),
        (["--image", "nothing.png"], "ImageInvalid: there is no such image file; where: nothing.png"),
        (["--question", ""], "InputInvalid: the question is empty"),
        (["--bundle", "/nowhere"], "BundleError: there is no such directory"),
        (["--max-new-tokens", "99999"], "PromptTooLong"),
        (["--version", "full", "--ttft-ms", "3"], "InputInvalid: give a target or a version"),
    ],
)
def test_errors_are_one_clean_message(folder, image, capsys, extra, message):
    assert ask(folder, image, *extra) == 2
    captured = capsys.readouterr()
    assert f"allrounder run: {message}" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    with pytest.raises(AllRounderError):
        cli.main(["--traceback", "run", "--bundle", "/nowhere", "--image", "x", "--question", "x"])


def test_inspect_prints_tables(folder, capsys):
    assert cli.main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "fake" in lines["model"]
    assert "3 images (12 image tokens), 64 text tokens in, 32 out" in " ".join(out.split())
    assert "96 tokens" in out
    assert "0-2" in out
    assert "0, 2" in out
    assert "0.0000 [0.0000, 0.0000]" in out
    assert "100.00" in out
    assert "no: elsewhere" in out
    assert out.count("  yes") == 1
    assert all(path in out for path in ("graphs/t2-l2.decoder.onnx", "tokenizer/golden.jsonl"))


def test_inspect_draws_what_is_kept(folder, image, tmp_path, capsys):
    out = tmp_path / "kept.png"
    assert cli.main(["inspect", str(folder), "--image", str(image), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "full: 4 of 4 tokens, 3 of 3 layers" in printed
    assert "t2-l2: 2 of 4 tokens, 2 of 3 layers" in printed
    drawn = np.asarray(Image.open(out))
    panel = drawn.shape[1] // 2
    with Runtime.load(folder, version="t2-l2") as runtime:
        kept = runtime.generate(image, "What is in the image?", max_new_tokens=1).keep_indices
    half = 192  # a cell of the grid of 2 x 2
    for index in range(4):
        top, left = (40 + half * (index // 2), 12 + half * (index % 2))
        same = [drawn[top + 8 : top + half - 8, at + left + 8 : at + left + half - 8].astype(int) for at in (0, panel)]
        assert (np.abs(same[0] - same[1]).max() == 0) == (index in kept)
        faded = same[1].max(axis=2) - same[1].min(axis=2)
        assert (faded.max() == 0) == (index not in kept)


def test_inspect_draws_the_image_as_the_model_sees_it(folder, tmp_path):
    plain = tmp_path / "plain.png"
    Image.new("RGB", (9, 5), (200, 100, 50)).save(plain)
    out = tmp_path / "kept.png"
    arguments = ["--image", str(plain), "--out", str(out), "--version", "full"]
    assert cli.main(["inspect", str(folder), *arguments]) == 0
    assert tuple(np.asarray(Image.open(out))[100, 100]) == (200, 100, 50)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--image", "x.png"], "--image and --out belong together"),
        (["--image", "x.png", "--out", "y.png"], "ImageInvalid"),
        (["--version", "par-lite", "--image", "IMAGE", "--out", "y.png"], "UnknownVersion"),
        (["--image", "IMAGE", "--out", "/nowhere/y.png"], "cannot be written"),
        (["--image", "IMAGE", "--out", "no-ending"], "cannot be written"),
    ],
)
def test_inspect_refuses(folder, image, capsys, extra, message):
    arguments = [str(image) if word == "IMAGE" else word for word in extra]
    assert cli.main(["inspect", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_command_lists_all(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["nothing"])
    assert caught.value.code == 2
    complaint = capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    for name in ("build", "train-router", "calibrate", "run", "bench", "inspect", "verify"):
        assert f"'{name}'" in complaint
        assert f"\n  {name} " in listed


def test_a_missing_package_is_named(monkeypatch, capsys):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = argparse.Namespace(add_arguments=lambda parser: None, run=fail)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    assert cli.main(["build"]) == 2
    assert "needs the package torch; remedy: pip install 'allrounder[build]'" in capsys.readouterr().err


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    module = argparse.Namespace(add_arguments=lambda parser: None, run=interrupt)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
    assert cli.main(["bench"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_module_runs_and_loads_no_framework():
    code = "import sys; from allrounder.commands.cli import main; main(['run', '--bundle', '/nowhere', '--image', 'x', "
    code += "'--question', 'x']); print(*sorted({'torch', 'onnx', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert "BundleError" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "allrounder.commands", "nope"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "invalid choice: 'nope'" in done.stderr


def test_a_closed_pipe_is_no_traceback(folder):
    command = f"{sys.executable} -m allrounder.commands inspect {folder} | true"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
