"""No command shows a warning of another package to who types it; who asks for warnings sees them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doors import IMAGE

ROOT = IMAGE.parents[1]
LOUD = """
import builtins, warnings
quiet_import = builtins.__import__
def loud_import(name, *rest, **more):
    if name == "msgspec":
        warnings.warn("a loud package", FutureWarning)
    return quiet_import(name, *rest, **more)
builtins.__import__ = loud_import
"""
DOORS = {
    "build_engine.py": ("build_engine.py", "--version", "nowhere"),
    "python -m": ("-m", "allrounder.commands", "inspect", "nowhere"),
    "console script": (str(Path(sys.executable).with_name("allrounder")), "inspect", "nowhere"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("asked", [False, True], ids=["usual", "asked for"])
def test_warnings_of_other_packages_are_shown_only_where_asked_for(door, asked, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LOUD)  # python runs it at its start: importing msgspec then warns
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment = kept | {"PYTHONPATH": str(tmp_path)} | ({"PYTHONWARNINGS": "default"} if asked else {})
    command = [sys.executable, *DOORS[door]]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert ("a loud package" in done.stderr) == asked
    assert "nowhere" in done.stderr
