"""The ctypes face over the C interface: its structs are the header's, and nothing that it is given goes unseen."""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_header import read_header

from allrounder import errors
from allrounder.native import c_api
from allrounder.native.client import NativeRuntime

INCLUDE = Path(__file__).parents[2] / "native/include"
RGB = np.zeros((24, 24, 3), np.uint8)
STRUCTS = {
    "ar_load_options": c_api.Load,
    "ar_part": c_api.Part,
    "ar_message": c_api.Message,
    "ar_request": c_api.Request,
    "ar_timing": c_api.Timing,
    "ar_usage": c_api.Usage,
}


def test_structs_lie_as_the_compiler_lays_them(tmp_path):
    header = read_header((INCLUDE / "allrounder/c_api.h").read_text(encoding="utf-8"))
    lines = ['#include "allrounder/c_api.h"', "#include <stdio.h>", "int main(void) {"]
    wanted = []
    for name, struct in STRUCTS.items():
        fields = [field.split()[-1].lstrip("*") for field in header.structs[name]]
        assert [field for field, _ in struct._fields_] == fields
        for field in fields:
            lines.append(f'printf("%zu %zu\\n", offsetof({name}, {field}), sizeof((({name}*)0)->{field}));')
            wanted.append(f"{getattr(struct, field).offset} {getattr(struct, field).size}")
        lines.append(f'printf("%zu\\n", sizeof({name}));')
        wanted.append(str(ctypes.sizeof(struct)))
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "return 0; }"]), encoding="utf-8")
    subprocess.run(["gcc", f"-I{INCLUDE}", str(source), "-o", str(tmp_path / "layout")], check=True)
    said = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said == wanted


def test_what_is_called_is_declared():
    header = read_header((INCLUDE / "allrounder/c_api.h").read_text(encoding="utf-8"))
    for name, (_, arguments) in c_api._PROTOTYPES.items():
        declared = re.search(r"\((.*)\)", header.functions[name])[1]
        assert len(arguments) == (0 if declared == "void" else declared.count(",") + 1), name


@pytest.fixture(scope="module")
def runtime(native_library, small_bundle):
    with NativeRuntime(small_bundle, version="t2-l2", threads=1) as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"wersion": "full"}, "wersion"),
        ({"threads": 0}, "threads"),
        ({"ttft_ms": 0}, "ttft_ms"),
        ({"tpot_ms": 0.0}, "tpot_ms"),
        ({"percentile": 0}, "percentile"),
        ({"version": "par\0lite"}, "version"),
        ({"device": "cpu\0"}, "device"),
    ],
)
def test_load_options_that_c_would_read_as_something_else(native_library, small_bundle, options, names):
    with pytest.raises(errors.InputInvalid, match=names):
        NativeRuntime(small_bundle, **options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"stopp": ["x"]}, "stopp"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"top_p": 0.0}, "top_p"),
        ({"keep": 0}, "keep"),
        ({"stop": ["a\0b"]}, "stop"),
    ],
)
def test_request_options_that_c_would_read_as_something_else(runtime, options, names):
    with pytest.raises(errors.InputInvalid, match=names):
        runtime.generate(RGB, "what?", **options)


@pytest.mark.parametrize(
    "image", [RGB.astype(np.float32), RGB[..., 0], np.zeros((2, 2, 4), np.uint8), b"123", RGB.view(np.int8)]
)
def test_what_is_no_image(runtime, image):
    with pytest.raises(errors.ImageInvalid, match="height, width, 3"):
        runtime.generate(image, "what?")


def test_a_image_need_not_lie_in_one_piece(runtime):
    wide = np.random.default_rng(0).integers(0, 256, (24, 48, 3), np.uint8)
    whole = runtime.generate(wide[:, ::2].copy(), "what?", max_new_tokens=2)
    assert runtime.generate(wide[:, ::2], "what?", max_new_tokens=2)[:6] == whole[:6]
    cast = memoryview(wide[:, ::2].tobytes()).cast("B", (24, 24, 3))
    assert runtime.generate(cast, "what?", max_new_tokens=2)[:6] == whole[:6]


def test_what_a_piece_raises_comes_out(runtime):
    heard = []

    def piece(text, count):
        heard.append((text, count))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.generate(RGB, "what?", max_new_tokens=8, piece=piece)
    assert len(heard) == 1
    assert runtime.generate(RGB, "what?", max_new_tokens=1).finish == "length", "the runtime goes on"


def asking(**options):
    parts = [{"type": "image", "image": RGB}, {"type": "text", "text": "what?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_new_tokens": 4, **options}


def test_of_several_each_has_its_own_end(runtime):
    def piece(text, count):
        raise LookupError(text)

    fine, raising, long, short = runtime.generate_batch(
        [asking(), asking(piece=piece), asking(max_new_tokens=1000), asking(max_new_tokens=1)]
    )
    assert fine.token_ids == runtime.chat(**asking()).token_ids
    assert isinstance(raising, LookupError)
    assert isinstance(long, errors.PromptTooLong)
    assert short.token_ids == fine.token_ids[:1]
    assert runtime.generate_batch([]) == []


def test_an_interrupt_ends_several_at_once(runtime):
    def piece(text, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.generate_batch([asking(), asking(piece=piece)])


def test_more_requests_than_the_limit_are_refused(runtime):
    with pytest.raises(errors.InputInvalid, match="--max-batch"):
        runtime.generate_batch([asking()] * 9)


@pytest.mark.parametrize("part", [{"type": "audio", "audio": b""}, {"type": "image"}, {}])
def test_what_is_no_part(runtime, part):
    with pytest.raises(errors.InputInvalid, match="no part of a message"):
        runtime.chat([{"role": "user", "content": [part]}])


def test_a_closed_runtime_says_so(native_library, small_bundle):
    runtime = NativeRuntime(small_bundle, version="full", threads=1)
    runtime.close()
    runtime.close()
    with pytest.raises(errors.RuntimeClosed):
        runtime.generate(RGB, "what?")
