"""The op is declared once: the native library has the names that the contract has, and exports its one symbol."""

import json
import shutil
import subprocess

import pytest

from allrounder.gather import TOKEN_GATHER


def test_declaration_is_the_contracts(program):
    done = subprocess.run([program("gather_declaration")], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "domain": TOKEN_GATHER.domain,
        "name": TOKEN_GATHER.name,
        "version": str(TOKEN_GATHER.version),
        "inputs": [tensor.name for tensor in TOKEN_GATHER.inputs],
        "outputs": [tensor.name for tensor in TOKEN_GATHER.outputs],
        "attributes": list(TOKEN_GATHER.attributes),
    }


def run(tool, *arguments):
    if shutil.which(tool) is None:
        pytest.skip(f"binutils' {tool} is not installed")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def test_library_exports_one_symbol(program):
    lines = run("nm", "-D", "--defined-only", program("liballrounder_ort_ops.so")).splitlines()
    assert [line.split()[-1] for line in lines] == ["RegisterCustomOps"]


def test_library_needs_the_language_alone(program):
    lines = run("readelf", "-d", program("liballrounder_ort_ops.so")).splitlines()
    needed = {line.split("[")[1].rstrip("]").split(".so")[0] for line in lines if "(NEEDED)" in line}
    sanitizers = {"libasan", "libubsan", "libtsan"}  # in builds for tests
    assert needed - sanitizers <= {"libc", "libm", "libstdc++", "libgcc_s", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert not any("RPATH" in line or "RUNPATH" in line for line in lines)
