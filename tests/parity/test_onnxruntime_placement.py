"""What the released CUDA provider takes of our graphs, without a GPU: its own library, CUDA's as stand-ins.

Wants `pip install --target DIR onnxruntime-gpu` and ALLROUNDER_ORT_GPU=DIR, CUDA's headers, and gcc.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STUBS = Path(__file__).parents[1] / "stubs"
HEADERS = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"


@pytest.fixture(scope="module")
def facts(tiny, tmp_path_factory):
    """What `placed.py` prints for full and par-lite, static and dynamic, in each precision."""
    package = os.environ.get("ALLROUNDER_ORT_GPU")
    if not package:
        pytest.skip("ALLROUNDER_ORT_GPU names no folder with onnxruntime-gpu")
    if not (HEADERS / "driver_types.h").is_file():
        pytest.skip(f"{HEADERS} has no CUDA headers (CUDA_HOME)")
    from allrounder import build_engine

    sys.path.insert(0, str(STUBS))
    from cuda_libraries import build

    folder = tmp_path_factory.mktemp("placed")
    libraries = build(Path(package, "onnxruntime/capi/libonnxruntime_providers_cuda.so"), HEADERS, folder)
    found = {}
    for precision in ("fp32", "fp16", "bf16"):
        out = folder / precision
        words = ["--version", "full,par-lite", "--precision", precision, "--layer-policy"]
        assert build_engine.main(tiny.arguments(out, *words, "static")) == 0
        assert build_engine.main(tiny.arguments(out, *words, "dynamic")) == 0
        environment = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": package}
        command = [sys.executable, str(STUBS / "placed.py"), str(out), str(folder)]
        said = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        found[precision] = json.loads(said.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_all_entries_open_with_nothing_but_shapes_on_the_cpu(facts, precision):
    assert facts[precision]["failed"] == {}
    kinds = {name.partition("-")[0] for name in facts[precision]["left"]}
    assert kinds == {"vision", "router", "prefill", "decode"}  # images are the CPU's own


def test_a_step_sees_what_its_cells_hold_now(facts):
    assert facts["fp32"]["seen"] == [[6, 5], [7, 6], [51, 50]]
