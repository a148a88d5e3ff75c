"""Faults that users met, each mended as a kind: small odd inputs, tried through the public doors alone.

The doors are `build_engine.main`, `Runtime` and the command line; the reference is stock transformers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doors import Built, Edit

from allrounder import build_engine


@pytest.fixture
def model(tmp_path) -> Callable[..., Path]:
    """Writes a tiny random model; ``edits`` maps a JSON file's name to what changes its content."""
    from allrounder.vlm.random.model import write_random_checkpoint

    def write(shape: Any = "llama-mha", name: str = "model", edits: dict[str, Edit] | None = None, **options) -> Path:
        directory = Path(write_random_checkpoint(tmp_path / name, shape, **options))
        for file, edit in (edits or {}).items():
            content = json.loads((directory / file).read_text(encoding="utf-8"))
            edit(content)
            (directory / file).write_text(json.dumps(content), encoding="utf-8")
        return directory

    return write


@pytest.fixture
def build(capfd) -> Callable[..., Built]:
    """Runs the build command in this process, for ``full`` unless the arguments name a version."""

    def run(directory: Path, *more: str) -> Built:
        bundle = directory.with_name(f"{directory.name}.bundle")
        version = () if "--version" in more else ("--version", "full")
        capfd.readouterr()
        code = build_engine.main(["--model", str(directory), "--out", str(bundle), *version, *more])
        printed = capfd.readouterr()
        return Built(code, printed.out, printed.err, bundle)

    return run
