"""Runtimes that a forked process inherits, and runtimes that are still in use when the interpreter ends.

Each program is a process of its own: what goes wrong there hangs or aborts it.
"""

import subprocess
import sys

import pytest
from doors import IMAGE, QUESTION

HEAD = """
import gc, os, subprocess, sys, threading, time
from allrounder.errors import AllRounderError, EngineUnavailable, RuntimeClosed
from allrounder.runtime import Runtime

BUNDLE, Image, QUESTION = sys.argv[1:]

def ask(runtime):
    return runtime.generate(Image, QUESTION, max_new_tokens=4).token_ids

def fork(work):
    child = os.fork()
    if child == 0:
        work()
        sys.exit(0)
    return child

def ended(children, seconds=30):
    until = time.time() + seconds
    left = set(children)
    while left and time.time() < until:
        for child in sorted(left):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                assert status == 0, status
                left.remove(child)
        time.sleep(0.02)
    for child in left:
        os.kill(child, 9)
    assert not left, "children that never end"

def refused(call):
    try:
        call()
    except RuntimeClosed as error:
        assert "fork" in str(error), error
    else:
        raise AssertionError("nothing was refused")
"""


@pytest.fixture(scope="module", params=["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def bundle(request, tmp_path_factory):
    """A bundle of each backend."""
    from allrounder import build_engine
    from allrounder.vlm.random.model import write_random_checkpoint

    root = tmp_path_factory.mktemp("inherited")
    model = str(write_random_checkpoint(root / "model", "llama-mha"))
    words = ["--model", model, "--version", "full", "--backend", request.param, "--out", str(root / "bundle")]
    assert build_engine.main(words) == 0
    return root / "bundle"


@pytest.fixture
def run(bundle):
    """Runs a program with the bundle."""

    def program(body: str, *, loaded: bool = True) -> "subprocess.CompletedProcess[str]":
        load = "runtime = Runtime.load(BUNDLE, threads=2)\nbefore = ask(runtime)\n" if loaded else ""
        words = [sys.executable, "-c", HEAD + load + body, str(bundle), str(IMAGE), QUESTION]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return program


def test_a_forked_process_can_end_while_its_parent_goes_on(run):
    run("""
def collect():
    global runtime, stream
    del runtime, stream
    gc.collect()

import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(abs, [-1, -2]).get(30) == [1, 2]
    pool.close()
    pool.join()
stream = runtime.stream(Image, QUESTION, max_new_tokens=4)
first = next(stream)
with runtime:
    ended([fork(lambda: None), fork(lambda: os._exit(0)), fork(collect)])
    assert fork(lambda: None) > 0  # leaves this block by SystemExit
    assert first + "".join(stream) == stream.answer.text
    assert ask(runtime) == stream.answer.token_ids == before
""")


def test_every_call_of_an_inherited_runtime_or_engine_says_so(run):
    run("""
import numpy as np
from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import open_bundle
from allrounder.runtime.engine import Engine

def use():
    for call in (lambda: engine.embed_image(rgb), lambda: engine.layout(messages), lambda: engine.text([5])):
        refused(call)
    for call in (lambda: engine.prefill(layout, image_embeds, None, free_slots=1), lambda: engine.decode(state, [5])):
        refused(call)
    refused(lambda: engine.start(prepared, layout, free_slots=1))
    calls = [lambda: ask(runtime), lambda: runtime.stream(Image, QUESTION), runtime.close, lambda: next(stream)]
    calls += [lambda: runtime.chat(question("why?", 0)), lambda: runtime.stream_chat(question("why?", 0))]
    for call in [*calls, stream.close]:
        refused(call)
    with runtime, stream:
        pass

bundle = open_bundle(BUNDLE)
engine = Engine.open(bundle, bundle.manifest.entries[0])
rgb = np.zeros((20, 20, 3), np.uint8)
prepared, messages = engine.prepare([rgb]), question(QUESTION)
image_embeds, layout = engine.embed_image(rgb), engine.layout(messages)
state = engine.prefill(layout, image_embeds, None, free_slots=2)
stream = runtime.stream(Image, QUESTION, max_new_tokens=4)
next(stream)
ended([fork(use)])
engine.decode(state, [5])
assert ask(runtime) == before
""")


def test_a_fork_amid_requests_of_other_threads(run):
    run("""
def work():
    while not stop.is_set():
        answers.add(ask(runtime))

stop, answers = threading.Event(), set()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
children = []
for _ in range(8):
    time.sleep(0.02)
    children.append(fork(lambda: refused(lambda: ask(runtime))))
ended(children)
stop.set()
for thread in threads:
    thread.join()
assert answers == {before}
""")


def test_a_forked_process_loads_its_own_runtime_or_is_told_that_it_cannot(run):
    run("""
def load():
    try:
        with Runtime.load(BUNDLE, threads=2) as own:
            assert ask(own) == before
    except EngineUnavailable as error:
        assert "OpenVINO" in str(error) and "spawn" in str(error), error

ended([fork(load)])
""")


def test_processes_that_inherit_nothing_load_as_ever(run):
    run(
        """
def load():
    with Runtime.load(BUNDLE, threads=2) as own:
        ask(own)

ended([fork(load)])  # forked before anything is loaded
runtime = Runtime.load(BUNDLE, threads=2)
code = "import sys; from allrounder.runtime import Runtime; Runtime.load(sys.argv[1]).close()"
subprocess.run([sys.executable, "-c", code, BUNDLE], check=True, timeout=60)
""",
        loaded=False,
    )


def test_daemon_threads_that_ask_while_the_interpreter_ends(run):
    run("""
def work():
    while True:
        ask(runtime)

for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
""")


def test_first_requests_at_once_and_a_runtime_left_open_amid_a_stream(run):
    run(
        """
runtime = Runtime.load(BUNDLE, threads=2)
answers = set()
threads = [threading.Thread(target=lambda: answers.add(ask(runtime)), daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
assert len(answers) == 1 and not any(thread.is_alive() for thread in threads)
stream = runtime.stream(Image, QUESTION, max_new_tokens=4)
next(stream)
""",
        loaded=False,
    )
