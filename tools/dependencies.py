"""Which versions of other packages this project is installed and tried with.

What it is: `lock` writes requirements/lock.txt, which the README's commands take as constraints; `try_end` installs the
oldest or the newest versions that pyproject.toml allows, builds, asks, runs a part of the tests, and where something
fails finds the package that broke it. torch stands at the locked version in both: it is the largest by far.
What it does not know: what the packages are for; pyproject.toml says that, with the reason of each bound.

    python tools/dependencies.py lock                   # the newest versions within the bounds; then run the tests
    python tools/dependencies.py try oldest|newest      # .ci/full does both
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "lock.txt"
EXTRAS = ("build", "demo", "openvino", "report", "test")
HELD = "torch"  # at the locked version everywhere
HEADER = """\
# Exact versions of everything that the README's two commands install; pass it as constraints (pip install -c).
# Written by `python tools/dependencies.py lock`. Packages of one CUDA version are left out: torch's build names them.
"""
# Graphs, runtime, tokenizer and backends against stock transformers: what a new release has broken or may break.
SMOKE = ("tests/faults", "tests/parity/test_removed_equals_masked.py", "tests/parity/test_runtime_parity.py")
_CUDA = re.compile(r"nvidia-|cuda-|triton$|.*[-_]cu\d+")


class Failure(NamedTuple):
    """A step that failed, and what it printed last."""

    step: str
    output: str


def lock(extra: str = "dev") -> None:
    """Resolves ``extra`` anew, installs nothing, and writes the versions."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        asked = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report), f"{ROOT}[{extra}]"]
        subprocess.run([sys.executable, "-m", "pip", "install", *asked], check=True)
        found = [each["metadata"] for each in json.loads(report.read_text(encoding="utf-8"))["install"]]
    pins = {canonicalize_name(each["name"]): Version(each["version"]).public for each in found}
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins) if name != "allrounder" and not _CUDA.match(name)]
    LOCK.parent.mkdir(exist_ok=True)
    LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{LOCK.relative_to(ROOT)}: {len(lines)} packages")


def try_end(end: str) -> int:
    """Tries one end of the bounds; returns 1 where it fails, after naming each package that fails alone."""
    locked = dict(line.split("==") for line in LOCK.read_text(encoding="utf-8").split("\n") if "==" in line)
    pins = {name: version for name, version in ends(end) if locked.get(name) != version}
    print(f"{end}: {', '.join(f'{name} {version}' for name, version in pins.items()) or 'nothing'}", flush=True)
    if not pins:
        print(f"{end}: the same as in the lock, with which all tests run", flush=True)
        return 0
    failure = _tried({HELD: locked[HELD], **pins})
    if failure is None:
        print(f"{end}: works", flush=True)
        return 0
    print(
        f"{end}: {failure.step} failed\n{failure.output}\nlooking for the package, each alone beside the lock",
        flush=True,
    )
    guilty = [name for name, version in pins.items() if _tried(locked | {name: version}, free=name)]
    print(
        f"{end}: broken by {', '.join(f'{n} {pins[n]}' for n in guilty) or 'none alone, but by some of them together'}"
    )
    return 1


def ends(end: str) -> Iterator[tuple[str, str]]:
    """Gives name and version of every direct dependency at the ``oldest`` or ``newest`` released version in bounds."""
    for each in _requirements():
        if each.name != HELD and (each.marker is None or each.marker.evaluate()):
            listed = _run(sys.executable, "-m", "pip", "index", "versions", each.name).stdout
            known = [
                Version(word) for word in listed.split("Available versions:")[1].split("\n")[0].split(", ") if word
            ]
            allowed = sorted(each.specifier.filter(known))
            yield each.name, str(allowed[0] if end == "oldest" else allowed[-1])


def _requirements() -> Iterable[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = list(project["dependencies"])
    for extra in EXTRAS:
        listed += project["optional-dependencies"][extra]
    found = {each.name: each for each in map(Requirement, listed) if each.name != project["name"]}
    return found.values()


def _tried(pins: dict[str, str], *, free: str | None = None) -> Failure | None:
    """Installs ``pins`` into an environment of its own, builds, asks and tests; returns the first step that failed.

    Where ``free`` is given, pip may move what that package needs, but not what this project names.
    """
    with tempfile.TemporaryDirectory() as folder:
        home, constraints = Path(folder), Path(folder) / "constraints.txt"
        named = {canonicalize_name(each.name) for each in _requirements()}
        kept = pins if free is None else {name: pin for name, pin in pins.items() if name in named}
        constraints.write_text("".join(f"{name}=={pin}\n" for name, pin in kept.items()), encoding="utf-8")
        bundle, python = home / "bundle", home / "venv" / "bin" / "python"
        question = ("--image", "examples/scene.png", "--question", "what is the red object?")
        steps = {
            "environment": (sys.executable, "-m", "venv", home / "venv"),
            "install": (python, "-m", "pip", "install", "-q", "-c", constraints, "-e", ".[test]"),
            # -W default: warnings are shown, which commands otherwise hide
            "build": (python, "-W", "default", "build_engine.py", "--version", "par-lite", "--out", bundle),
            "run": (python, "-W", "default", "-m", "allrounder.commands", "run", "--bundle", bundle, *question),
            "tests": (python, "-m", "pytest", "-q", "-x", *SMOKE),
        }
        for step, command in steps.items():
            done = _run(*map(str, command), cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": folder})
            wrong = done.returncode != 0 or (step == "run" and "a square." not in done.stdout)
            warned = step in ("build", "run") and "Warning" in done.stderr
            if wrong or warned:
                return Failure(f"{step}{' (a warning)' if warned else ''}", (done.stdout + done.stderr)[-4000:])
    return None


def _run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Write the lock, or try one end of the bounds.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock", help="write requirements/lock.txt")
    commands.add_parser("try", help="install, build, ask, test").add_argument("end", choices=("oldest", "newest"))
    arguments = parser.parse_args()
    if arguments.command == "try":
        return try_end(arguments.end)
    lock()
    return 0


if __name__ == "__main__":
    sys.exit(main())
