"""Uses the native half of the installed package, as a user would: python use_wheel.py BUNDLE, outside the checkout.

What it shows: the libraries are in the installation, the C++ runtime answers, the gather op is accepted by ONNX
Runtime, and C and C++ programs of others find the package through `allrounder.native.cmake_dir`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import allrounder
from allrounder import native
from allrounder.native.client import NativeRuntime


def main() -> None:
    """Ends with an error where anything is not as it should be."""
    package = Path(allrounder.__file__).parent
    assert package.is_relative_to(sys.prefix), package
    for part in ("library", "ort_ops", "cmake_dir"):
        assert native.require(part).is_relative_to(package), part
    assert not [path for path in package.rglob("*") if path.is_symlink()], "a wheel holds no links"
    answers(sys.argv[1])
    accepted_op()
    consumers()
    print(f"used the native half in {package}")


def answers(bundle: str) -> None:
    """Asks the C++ runtime."""
    rgb = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    with NativeRuntime(bundle, threads=1) as runtime:
        answer = runtime.generate(rgb, "what is this?", max_new_tokens=4)
    assert (len(answer.token_ids), answer.finish) == (4, "length") or answer.finish == "stop", answer


def accepted_op() -> None:
    """Registers the op library."""
    import onnxruntime

    onnxruntime.SessionOptions().register_custom_ops_library(str(native.require("ort_ops")))


def consumers() -> None:
    """Builds and runs the programs beside this one."""
    source = Path(__file__).resolve().parent / "consumer"
    with tempfile.TemporaryDirectory() as folder:
        found = f"-Dallrounder_DIR={native.require('cmake_dir')}"
        subprocess.run(
            ["cmake", "-S", source, "-B", folder, "-G", "Ninja", found], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(["cmake", "--build", folder], check=True, stdout=subprocess.DEVNULL)
        for name in ("c_consumer", "cxx_consumer"):
            said = subprocess.run([Path(folder) / name], check=True, capture_output=True, text=True).stdout
            assert said == f"{allrounder.__version__} BundleError\n", said


if __name__ == "__main__":
    main()
