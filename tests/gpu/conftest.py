"""Where tests on a device find the native build."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The folder with the native libraries, built with CUDA."""
    named = os.environ.get("ALLROUNDER_NATIVE_BUILD")
    if not named:
        pytest.skip("ALLROUNDER_NATIVE_BUILD names no build of native/")
    return Path(named).resolve() / "lib"
