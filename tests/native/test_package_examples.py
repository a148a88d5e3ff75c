"""The example services: the one in C++, built against an installed allrounder, and its flat copy in Python.

Both are started on a free port of this machine, asked the same question, and give the runtime's own answer.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from allrounder.native.c_api import installed_ort

EXAMPLES = Path(__file__).parents[2] / "examples"
RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
QUESTION = "what is number 1 & 2?"


@pytest.fixture(scope="module")
def service(prefix, tmp_path_factory):
    """The C++ service."""
    folder = tmp_path_factory.mktemp("service")
    found = f"-Dallrounder_DIR={prefix}/lib/cmake/allrounder"
    configure = ["cmake", "-S", EXAMPLES / "cpp-service", "-B", folder, "-G", "Ninja", found]
    for command in (configure, ["cmake", "--build", folder]):
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "service"


@contextmanager
def started(*command):
    """Starts a service on a free port and gives its address."""
    environment = {**os.environ, "ALLROUNDER_ORT_LIBRARY": str(installed_ort())}
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield "http://" + process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def post(address, body, **query):
    request = urllib.request.Request(f"{address}/ask?{urlencode(query)}", data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("kind", ["cpp", "python"])
def test_a_service_answers(kind, tiny_bundle, request):
    from allrounder.runtime import Runtime

    with Runtime.load(tiny_bundle) as runtime:
        wanted = runtime.generate(RGB, QUESTION)
        version = runtime.entry.version
    program = (
        [request.getfixturevalue("service")] if kind == "cpp" else [sys.executable, EXAMPLES / "python_service.py"]
    )
    with started(*program, tiny_bundle, 0) as address:
        size = {"width": 32, "height": 24}
        status, said = post(address, RGB.tobytes(), question=QUESTION, **size)
        assert status == 200, said
        assert said.pop("ttft_ms") > 0
        assert said == {"version": version, "text": wanted.text, "token_ids": list(wanted.token_ids)}
        for body, query, error in (
            (RGB.tobytes()[:-1], {"question": QUESTION, **size}, "BadRequest"),
            (b"", {"question": QUESTION, "width": 0, "height": 0}, "BadRequest"),
            (RGB.tobytes(), {"question": QUESTION}, "BadRequest"),
            (RGB.tobytes(), {"question": "", **size}, "InputInvalid"),
            (RGB.tobytes(), {"question": "word " * 1000, **size}, "PromptTooLong"),
        ):
            status, said = post(address, body, **query)
            assert (status, said.get("error")) == (400, error), said
        assert post(address, RGB.tobytes(), question=QUESTION, **size)[0] == 200, "and goes on"


@pytest.mark.parametrize("kind", ["cpp", "python"])
def test_a_service_says_why_it_does_not_start(kind, tmp_path, request):
    program = (
        [request.getfixturevalue("service")] if kind == "cpp" else [sys.executable, EXAMPLES / "python_service.py"]
    )
    done = subprocess.run(
        [str(each) for each in (*program, tmp_path / "none", 0)], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert str(tmp_path / "none") in done.stderr
    assert done.stdout == ""
