"""Where the native half is, if it was installed.

What it is: the paths of its libraries and of its CMake package, or None where only the pure Python wheel is installed.
What it knows: their names, and the environment's ALLROUNDER_NATIVE_LIBRARY_DIR, a folder that developers name instead
(`lib` in a CMake build folder). What it does not know: what is in them; whoever loads one says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from allrounder.errors import EngineUnavailable, InputInvalid

__all__ = ["Part", "cmake_dir", "library", "ort_ops", "require", "tensorrt_plugin"]

Part = Literal["library", "ort_ops", "tensorrt_plugin", "cmake_dir"]

_VARIABLE = "ALLROUNDER_NATIVE_LIBRARY_DIR"
_NAMES: dict[Part, str] = {
    "library": "liballrounder.so",
    "ort_ops": "liballrounder_ort_ops.so",
    "tensorrt_plugin": "liballrounder_tensorrt_plugin.so",
    "cmake_dir": "cmake/allrounder",
}
_REMEDIES: dict[Part, str] = {
    "library": "install with ALLROUNDER_NATIVE=1 in the environment (native/README.md)",
    "ort_ops": "install with ALLROUNDER_NATIVE=1 and ORT_ROOT, ONNX Runtime's headers (native/README.md)",
    "tensorrt_plugin": "build native/ with -DALLROUNDER_CUDA=ON -DALLROUNDER_TENSORRT=ON (native/README.md)",
    "cmake_dir": "install with ALLROUNDER_NATIVE=1 in the environment (native/README.md)",
}


def library() -> Path | None:
    """Returns the runtime's shared library, which `c_api.h` describes."""
    return _find("library")


def ort_ops() -> Path | None:
    """Returns the library with the gather op for ONNX Runtime."""
    return _find("ort_ops")


def tensorrt_plugin() -> Path | None:
    """Returns the library with the gather op for TensorRT."""
    return _find("tensorrt_plugin")


def cmake_dir() -> Path | None:
    """Returns the folder to give to CMake as ``allrounder_DIR``."""
    return _find("cmake_dir")


def require(part: Part) -> Path:
    """Returns a part's path.

    Raises:
        EngineUnavailable: It is not there.
        InputInvalid: ALLROUNDER_NATIVE_LIBRARY_DIR names no folder.
    """
    path = _find(part)
    if path is None:
        raise EngineUnavailable(
            f"this installation has no {_NAMES[part]}",
            where=" or ".join(map(str, _folders())),
            remedy=_REMEDIES[part],
        )
    return path


def _find(part: Part) -> Path | None:
    return next((path for folder in _folders() if (path := folder / _NAMES[part]).exists()), None)


def _folders() -> list[Path]:
    named = os.environ.get(_VARIABLE)
    if not named:
        return [Path(folder) / "lib" for folder in __path__]  # an editable install has two: sources, and what was built
    folder = Path(named)
    if not folder.is_dir():
        raise InputInvalid("no such folder", where=_VARIABLE, got=named, wanted="the folder with liballrounder.so")
    return [folder]
