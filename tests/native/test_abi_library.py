"""What the shared library is to those who link it: what it exports, what it needs, and an old program that uses it."""

import os
import re
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from c_header import read_header

from allrounder.native.c_api import installed_ort

NATIVE = Path(__file__).parents[2] / "native"
ABI = NATIVE / "tests/abi"
SYMBOLS = (ABI / "symbols.txt").read_text(encoding="utf-8").split()
# libc and its loader, libm (part of libc), and the two libraries of the C++ compiler
MAY_NEED = r"libc\.so\.6|libm\.so\.6|libstdc\+\+\.so\.6|libgcc_s\.so\.1|ld-linux[-\w]*\.so\.\d"


@pytest.fixture(scope="module")
def freeze():
    spec = spec_from_file_location("freeze", ABI / "freeze.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def library(program):
    return program("liballrounder.so")


def run(*command, **options):
    return subprocess.run([str(each) for each in command], check=True, capture_output=True, text=True, **options).stdout


def dynamic(path, tag):
    return re.findall(rf"\({tag}\).*\[(.*)\]", run("readelf", "--dynamic", "--wide", path))


def test_it_exports_its_c_interface_and_nothing_else(library, freeze):
    assert freeze.exported(library) == SYMBOLS


def test_the_list_is_that_of_the_header_and_keeps_what_was_released():
    headers = [NATIVE / "include/allrounder/c_api.h", *ABI.glob("c_api_*.h")]
    current, *frozen = (set(read_header(path.read_text(encoding="utf-8")).functions) for path in headers)
    assert set(SYMBOLS) == current
    assert frozen
    assert all(released <= current for released in frozen)
    assert sorted(SYMBOLS) == SYMBOLS


def test_a_lost_symbol_is_refused_by_the_writer(library, freeze, tmp_path, monkeypatch, capsys):
    listed = tmp_path / "symbols.txt"
    listed.write_text("ar_was_there\n", encoding="utf-8")
    monkeypatch.setattr(freeze, "SYMBOLS", listed)
    monkeypatch.setattr("sys.argv", ["freeze.py", str(library)])
    assert freeze.main() == 1
    assert "ar_was_there" in capsys.readouterr().err
    assert listed.read_text(encoding="utf-8") == "ar_was_there\n"


def test_it_needs_only_the_c_and_cxx_libraries(library):
    needed = dynamic(library, "NEEDED")
    assert needed, "a library that needs nothing was not read"
    assert [name for name in needed if not re.fullmatch(MAY_NEED, name)] == []
    assert dynamic(library, "RPATH") + dynamic(library, "RUNPATH") == [], "it would look in the builder's folders"


def test_its_name_carries_the_major_version_alone(library):
    version = re.search(r"AR_VERSION_MAJOR (\d+)", (NATIVE / "include/allrounder/c_api.h").read_text(encoding="utf-8"))
    assert dynamic(library, "SONAME") == [f"liballrounder.so.{version[1]}"]


@pytest.mark.parametrize("name", ["liballrounder_ort_ops.so", "liballrounder_tensorrt_plugin.so"])
def test_a_plugin_needs_no_more_either(program, native_build, name):
    if not list(native_build.rglob(name)):
        cache = (native_build / "CMakeCache.txt").read_text(encoding="utf-8")
        assert name == "liballrounder_tensorrt_plugin.so", "tests/native runs on builds with ONNX Runtime's headers"
        assert "ALLROUNDER_TENSORRT:BOOL=OFF" in cache
        pytest.skip("this build has no TensorRT (ALLROUNDER_TENSORRT=OFF)")
    needed = [each for each in dynamic(program(name), "NEEDED") if not re.fullmatch(MAY_NEED, each)]
    assert [each for each in needed if not each.startswith("libnvinfer.so.")] == []


@pytest.fixture(scope="module", params=["c99", "c++17"])
def client(request, library, tmp_path_factory):
    """A program of the first release, compiled against its header and linked with today's library."""
    out = tmp_path_factory.mktemp("client") / "abi_client"
    compiler = ["gcc"] if request.param == "c99" else ["g++", "-x", "c++"]
    flags = [f"-std={request.param}", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{ABI}"]
    run(*compiler, *flags, ABI / "abi_client.c", "-x", "none", library, "-o", out)
    return out


def told(client, library, *arguments):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    lines = run(client, *arguments, env=environment, cwd="/").splitlines()
    return dict(line.partition(" ")[::2] for line in lines)


def test_an_old_program_is_told_what_is_wrong(client, library):
    said = told(client, library)
    assert said == {"version": "0.1.0", "status": "20", "name": "BundleError"}


def test_an_old_program_gets_its_answer(client, library, tiny_bundle):
    from allrounder.runtime import Runtime

    said = told(client, library, tiny_bundle, installed_ort())
    with Runtime.load(tiny_bundle, version="par-lite", threads=1) as runtime:
        answer = runtime.generate(np.full((48, 64, 3), 128, np.uint8), "what is this?", max_new_tokens=4)
    for name in ("token_ids", "prompt_ids", "keep_list", "layer_plan"):
        assert said[name] == " ".join(map(str, getattr(answer, name))), name
    assert said["prompt_ids"] == f"{said['prefix']} {said['suffix']}"
    assert (said["finish"], said["entry"]) == (answer.finish, "par-lite")
    assert (said["streamed"], said["timed"]) == ("all", "yes")
