"""Which releases of TensorRT-LLM are known and what each can do, and the checks before an installed one is used."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from allrounder.engines.releases import Release, installed_release
from allrounder.errors import EngineUnavailable

__all__ = [
    "ENGINE_PATH",
    "FOLDER",
    "PACKAGE",
    "PYTORCH_PATH",
    "require_engine_path",
    "require_gpu",
    "require_pytorch_path",
]

PACKAGE = "tensorrt_llm"
FOLDER = "tensorrt_llm"  # below a pruned checkpoint
ENGINE_PATH = (Release(1, 0), Release(1, 2, 1))  # first and last whose sources were read
_LAST_ENGINES = Release(1, 3, 0, 20)  # its notes call it the last one that supports the TensorRT backend
PYTORCH_PATH = (Release(1, 0), Release(1, 4, 0, 1))
_OLDEST_SM = 80  # Ampere; TensorRT-LLM 1.x is tested from it on


def require_engine_path() -> Release:
    """Returns the installed release, which builds engines.

    Raises:
        EngineUnavailable: None is installed; its release builds no engines any more; or it is not one that was read.
    """
    text, release = _installed("the engine path", *ENGINE_PATH)
    if release is not None and release > _LAST_ENGINES:
        raise EngineUnavailable(
            "this TensorRT-LLM builds no engines: the engine path was removed after 1.3.0rc20",
            got=f"{PACKAGE} {text}",
            wanted=f"{ENGINE_PATH[0]} to {ENGINE_PATH[1]}",
            remedy="build with --backend checkpoint and serve that in its PyTorch backend "
            "(allrounder.serving.tensorrt_llm), or install tensorrt_llm 1.2.1",
        )
    return _within(text, release, ENGINE_PATH, "the engine path")


def require_pytorch_path() -> Release:
    """Returns the installed release, whose PyTorch backend is known.

    Raises:
        EngineUnavailable: None is installed, or it is not one that was read.
    """
    text, release = _installed("the PyTorch backend", *PYTORCH_PATH)
    return _within(text, release, PYTORCH_PATH, "the PyTorch backend")


def require_gpu(release: Release) -> None:
    """Refuses a GPU that the release does not build for, where the driver's tool names it.

    Raises:
        EngineUnavailable: There is none, or it is too old.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise EngineUnavailable(
            "no NVIDIA GPU is here to build an engine on",
            got="no nvidia-smi",
            wanted=f"compute capability {_OLDEST_SM / 10} or later, and its driver",
            remedy="run build.sh on the GPU's machine",
        )
    line = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(line, check=False, capture_output=True, text=True)  # noqa: S603 - a fixed line
    found = [int(major) * 10 + int(minor) for major, minor in re.findall(r"^(\d+)\.(\d+)", done.stdout, re.MULTILINE)]
    if not found or min(found) < _OLDEST_SM:
        raise EngineUnavailable(
            f"TensorRT-LLM {release} does not build for this GPU",
            got=done.stdout.strip() or done.stderr.strip() or "none",
            wanted=f"compute capability {_OLDEST_SM / 10} or later",
            remedy="run build.sh on a machine with such a GPU; this one can serve a bundle: --backend onnxruntime",
        )


def _installed(what: str, first: Release, last: Release) -> tuple[str, Release | None]:
    found = installed_release(PACKAGE)
    if found is None:
        raise EngineUnavailable(
            "TensorRT-LLM is not installed",
            got=f"no package {PACKAGE} in {sys.prefix}",
            wanted=f"{PACKAGE} {first} to {last} for {what}",
            remedy="install NVIDIA's wheel or use its container; it needs Linux, CUDA and an NVIDIA GPU",
        )
    return found


def _within(text: str, release: Release | None, known: tuple[Release, Release], what: str) -> Release:
    first, last = known
    if release is None or not first <= release <= last:
        raise EngineUnavailable(
            f"{what} of this TensorRT-LLM is not known",
            got=f"{PACKAGE} {text}",
            wanted=f"{first} to {last}",
            remedy=f"install a release between {first} and {last}, or a newer allrounder",
        )
    return release
