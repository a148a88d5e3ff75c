"""Writes the tiny bundle that tests of the C++ runtime load: python native/tests/write_bundle.py FOLDER.

What it is: the bundle of Python's unit tests, `full` and `t2-l2`, with latencies of a machine that is none, by which
no target chooses. What it knows: `tests/helpers/fake_bundle.py`. What it does not know: C++.

Tests find it by the environment's ALLROUNDER_TEST_BUNDLE.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

import fake_bundle

from allrounder.fingerprint import Machine

ELSEWHERE = Machine(cpu="elsewhere", cores=64, threads=64, backend="onnxruntime 9")


def main() -> None:
    """Writes the bundle into a folder that must not exist."""
    folder = Path(sys.argv[1])
    if folder.exists():
        sys.exit(f"{folder} is there already")
    entries = [
        fake_bundle.entry("full", latency=fake_bundle.latency(ELSEWHERE, 100.0, 10.0)),
        fake_bundle.entry(
            "t2-l2", fidelity=fake_bundle.fidelity(0.1), latency=fake_bundle.latency(ELSEWHERE, 50.0, 5.0)
        ),
    ]
    fake_bundle.write_bundle(folder, entries)


if __name__ == "__main__":
    main()
