"""allrounder-native, as scripts use it: what it prints, what it answers, how it fails; on the tiny bundle."""

import json
import os
import shutil
import subprocess

import fake_bundle
import msgspec
import native_bundles
import numpy as np
import pytest
from PIL import Image

from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.native.c_api import installed_ort
from allrounder.runtime import Runtime

RGB = np.random.default_rng(3).integers(0, 256, (9, 6, 3), np.uint8)
OPTIONS = {"max_new_tokens": 8}
QUESTION = "what is it?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    here = backend("onnxruntime").fingerprint(EngineOptions(threads=1))
    figures = {"full": (100.0, 10.0), "t2-l2": (50.0, 5.0)}
    entries = [fake_bundle.entry(name, latency=fake_bundle.latency(here, *each)) for name, each in figures.items()]
    fake_bundle.write_bundle(folder / "bundle", entries)
    Image.fromarray(RGB).save(folder / "image.ppm")
    (folder / "image.rgb").write_bytes(RGB.tobytes())
    return folder


@pytest.fixture(scope="module")
def tool(program, folder):
    """Runs the program in the folder; returns what it printed, after checking how it ended."""
    command = program("allrounder-native")
    environment = os.environ | {"ALLROUNDER_ORT_LIBRARY": str(installed_ort()), "XDG_CACHE_HOME": str(folder / "cache")}

    def run(*words, stdin="", code=0):
        done = subprocess.run(
            [command, *words], input=stdin, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture(scope="module")
def python(folder):
    with Runtime.load(folder / "bundle", version="t2-l2", threads=1) as runtime:
        yield runtime


def asking(question, image="image.ppm"):
    """Returns a request of `ask`."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": parts}]}


def last(text):
    return json.loads(text.splitlines()[-1])


def test_run_answers_as_python_does(tool, python):
    wanted = python.generate(RGB, QUESTION, **OPTIONS)
    words = ("bundle", "image.ppm", QUESTION, "--version", "t2-l2", "--threads", "1", "--max-new-tokens", "8")
    out = tool("run", *words)
    got = last(out)
    assert got["token_ids"] == list(wanted.token_ids)
    assert got["text"] == wanted.text
    assert got["keep_indices"] == list(wanted.keep_indices)
    assert got["kept_layers"] == list(wanted.kept_layers)
    assert (got["version"], got["finish"]) == ("t2-l2", wanted.finish)
    assert out.startswith(wanted.text)
    streamed = tool("run", *words, "--stream")
    assert streamed.startswith(wanted.text)
    assert last(streamed)["token_ids"] == got["token_ids"]


def test_a_seed_draws_the_same_again(tool):
    words = ("bundle", "image.ppm", QUESTION, "--threads", "1", "--temperature", "8", "--seed")
    one, again, other = (last(tool("run", *words, seed))["token_ids"] for seed in ("5", "5", "6"))
    assert one == again != other


def test_raw_bytes_answer_as_the_image(tool):
    words = ("what is it?", "--threads", "1", "--max-new-tokens", "4")
    raw = last(tool("run", "bundle", "image.rgb", *words, "--size", "6x9"))
    assert raw["token_ids"] == last(tool("run", "bundle", "image.ppm", *words))["token_ids"]


@pytest.mark.parametrize("jobs", [1, 8])
def test_ask_answers_many_as_python_does(tool, python, jobs):
    questions = [f"question {number}?" for number in range(24)]
    requests = [
        {"id": f"q{number}", "stream": number % 2 == 0, **asking(question), **OPTIONS}
        for number, question in enumerate(questions)
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    out = tool("ask", "bundle", "--version", "t2-l2", "--threads", "1", "--jobs", str(jobs), stdin=lines)
    answers = {answer["id"]: answer for answer in map(json.loads, out.splitlines())}
    assert len(answers) == len(requests)
    for question, request in zip(questions, requests, strict=True):
        wanted = python.generate(RGB, question, **OPTIONS)
        got = answers[request["id"]]
        assert got["token_ids"] == list(wanted.token_ids)
        assert "".join(got.get("pieces", [wanted.text])) == got["text"] == wanted.text


def test_ask_names_what_is_wrong_with_a_request_and_goes_on(tool):
    fine = asking("what?") | {"max_new_tokens": 2}
    bad = [
        "no json",
        json.dumps(asking("what?", image="none.ppm")),
        json.dumps(fine | {"beams": 4}),
        json.dumps(fine | {"text": "another prompt"}),
        json.dumps(fine | {"max_new_tokens": 1000}),
        json.dumps(fine | {"top_k": "many"}),
    ]
    out = tool("ask", "bundle", "--threads", "1", stdin="\n".join([*bad, json.dumps(fine)]) + "\n")
    *errors, answer = map(json.loads, out.splitlines())
    names = [error["error"]["name"] for error in errors]
    assert names == [*["RequestUnreadable"] * 3, "InputInvalid", "PromptTooLong", "RequestUnreadable"]
    assert [error["id"] for error in errors] == [1, 2, 3, 4, 5, 6]
    assert len(answer["token_ids"]) == 2


def test_ask_takes_conversations_rendered_text_and_ids(tool, python):
    from allrounder.chat.template import render

    images = ["image.ppm", {"raw": "image.rgb", "size": "6x9"}]
    parts = [{"type": "image", "image": each} for each in images]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [*parts, text("which?")]}]
    rendered = {"text": render(fake_bundle.TEMPLATE, messages), "images": images}
    ids = {"ids": python._door.engine()._prompter.ids(messages), "images": images}
    asked = [each | OPTIONS | {"keep": 0.75} for each in ({"messages": messages}, rendered, ids)]
    ask = ("ask", "bundle", "--version", "t2-l2", "--threads", "1")
    lines = "".join(json.dumps(each) + "\n" for each in asked)
    found = [json.loads(line) for line in tool(*ask, stdin=lines).splitlines()]
    both = [{"type": "image", "image": RGB}] * 2
    wanted = python.chat([messages[0], {"role": "user", "content": [*both, text("which?")]}], **OPTIONS, keep=0.75)
    assert [each["token_ids"] for each in found] == [list(wanted.token_ids)] * 3
    assert found[0]["usage"]["kept_image_tokens"] == wanted.usage.kept_image_tokens == 6


def text(words):
    return {"type": "text", "text": words}


def test_inspect_lists_what_the_manifest_says(tool, folder):
    out = tool("inspect", "bundle")
    assert last(out)["entries"] == json.loads(native_bundles.manifest_file(folder / "bundle").read_text())["entries"]
    assert "t2-l2" in out.splitlines()[2]


def test_a_target_chooses_by_the_recorded_latencies(tool):
    words = ("bundle", "image.ppm", QUESTION, "--threads", "1", "--max-new-tokens", "1", "--ttft-ms")
    for target, version in ((("120",), "full"), (("60",), "t2-l2"), (("1", "--fallback", "fastest"), "t2-l2")):
        assert last(tool("run", *words, *target))["version"] == version


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "usage"),
        (("dance",), 2, "usage"),
        (("run", "bundle"), 2, "BUNDLE IMAGE QUESTION"),
        (("inspect", "bundle", "--speed", "high"), 2, "unknown option --speed"),
        (("ask", "bundle", "--jobs"), 2, "--jobs needs a value"),
        (("ask", "bundle", "--jobs", "3x"), 2, "a number is wanted"),
        (("ask", "bundle", "--threads", "4294967297"), 2, "--threads"),
        (("ask", "bundle", "--weights", "slow"), 2, "fast or shared"),
        (("ask", "bundle", "--fallback", "slowest"), 2, "fastest"),
        (("ask", "bundle", "--ttft-ms", "1", "--threads", "1"), 1, "NoEngineMeetsTarget: "),
        (("inspect", "nowhere"), 1, "BundleError: "),
        (("ask", "bundle", "--version", "par-none"), 1, "UnknownVersion: "),
        (("run", "bundle", "bundle/bundle.json", "what?"), 1, "not a binary PPM"),
        (("run", "bundle", "image.rgb", "what?", "--size", "600x900"), 1, "ends before its last pixel"),
    ],
)
def test_what_is_wrong_is_said_on_stderr(tool, words, code, message):
    assert message in tool(*words, code=code)


def with_native_op(source, folder):
    """Returns the bundle with entries that ask for the native gather op."""
    return native_bundles.variant(source, folder, lambda entry: msgspec.structs.replace(entry, native_op=True))


def test_the_native_op_is_used_where_it_is_and_changes_nothing(program, demo_bundle, tmp_path):
    bundle = with_native_op(demo_bundle, tmp_path / "asking")
    Image.fromarray(RGB).resize((192, 192)).save(tmp_path / "image.ppm")
    tool, alone = program("allrounder-native"), tmp_path / "alone"
    alone.mkdir()
    shutil.copy(program("liballrounder.so").resolve(), alone / "liballrounder.so.0")  # nothing lies beside it
    known = os.environ | {"ALLROUNDER_ORT_LIBRARY": str(installed_ort()), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    there = {"ALLROUNDER_ORT_OPS": str(program("liballrounder_ort_ops.so"))}
    absent = {"LD_LIBRARY_PATH": str(alone)}
    damaged = {"ALLROUNDER_ORT_OPS": str(tmp_path / "image.ppm")}

    def run(place, extra, code=0):
        words = [tool, "run", place, tmp_path / "image.ppm", "what is it?", "--version", "par-lite", "--threads", "1"]
        done = subprocess.run(words, env=known | extra, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    wanted = last(run(demo_bundle, there).stdout)
    for extra, said in ((there, "the native gather op is taken from"), (absent, "which is not installed")):
        done = run(bundle, extra)
        assert said in done.stderr
        got = last(done.stdout)
        assert [got[name] for name in native_bundles.SAME] == [wanted[name] for name in native_bundles.SAME]
    assert "the same bundle runs without it" in run(bundle, damaged, code=1).stderr
