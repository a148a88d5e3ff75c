"""What the shared library and its header are to those who use them: what it exports, what it needs, which languages."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_header import read_header

INCLUDE = Path(__file__).parents[2] / "native/include"
FUNCTIONS = read_header((INCLUDE / "allrounder/c_api.h").read_text(encoding="utf-8")).functions
# libc and its loader, libm (part of libc), and the two libraries of the C++ compiler
MAY_NEED = r"libc\.so\.6|libm\.so\.6|libstdc\+\+\.so\.6|libgcc_s\.so\.1|ld-linux[-\w]*\.so\.\d"


@pytest.fixture(scope="module")
def library(program):
    return program("liballrounder.so")


def run(*command):
    return subprocess.run([str(each) for each in command], check=True, capture_output=True, text=True).stdout


def dynamic(path, tag):
    return re.findall(rf"\({tag}\).*\[(.*)\]", run("readelf", "--dynamic", "--wide", path))


def test_it_exports_its_c_interface_and_nothing_else(library):
    lines = run("nm", "--dynamic", "--defined-only", "--format=posix", library).splitlines()
    assert sorted(line.split()[0].partition("@")[0] for line in lines) == sorted(FUNCTIONS)
    assert len(FUNCTIONS) >= 25, "the header was read"


def test_it_needs_only_the_c_and_cxx_libraries(library):
    needed = dynamic(library, "NEEDED")
    assert needed, "a library that needs nothing was not read"
    assert [name for name in needed if not re.fullmatch(MAY_NEED, name)] == []
    assert dynamic(library, "RPATH") + dynamic(library, "RUNPATH") == [], "it would look in the builder's folders"


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c17"), ("g++", "c++11"), ("g++", "c++17")])
def test_the_header_alone_is_c_and_cxx(compiler, standard, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    source = tmp_path / ("alone.c" if compiler == "gcc" else "alone.cpp")
    source.write_text('#include "allrounder/c_api.h"\nint main(void) { return AR_OK; }\n', encoding="utf-8")
    flags = [f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{INCLUDE}"]
    done = subprocess.run([compiler, *flags, str(source)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
