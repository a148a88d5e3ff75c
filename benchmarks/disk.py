"""What versions cost on disk: all five in one bundle against `full` alone, and `full` against its parameters.

python benchmarks/disk.py [--shape 0.5b]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from allrounder.commands.pipeline.random_model import build_bundle_of, write_random_model
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.progress import TerminalProgress
from allrounder.versions import FULL, VERSIONS
from allrounder.vlm.checkpoint import Checkpoint

PROMISED = {"all over full": 1.25, "full over its parameters": 1.15}


def total(bundle: OpenBundle) -> int:
    """Returns the bytes of all files of a bundle."""
    return sum(record.bytes for record in bundle.manifest.files.values())


def main() -> int:
    """Measures; returns 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.5b", help="a named random shape, in fp32")
    arguments = parser.parse_args()
    progress = TerminalProgress()
    with tempfile.TemporaryDirectory(prefix="allrounder-disk-") as name:
        folder = Path(name)
        pair = write_random_model(folder, arguments.shape)
        checkpoint = Checkpoint(pair.vlm)
        parameters = 4 * sum(math.prod(checkpoint.shape(weight)) for weight in checkpoint.names())
        full = total(build_bundle_of(pair, folder / "full", (FULL,), progress))
        five = total(build_bundle_of(pair, folder / "five", tuple(VERSIONS), progress))
    ratios = {"all over full": five / full, "full over its parameters": full / parameters}
    met = {name: ratios[name] <= wanted for name, wanted in PROMISED.items()}
    for name, wanted in PROMISED.items():
        print(f"{name}: {ratios[name]:.4f}, promised at most {wanted}: {'met' if met[name] else 'MISSED'}")
    print(json.dumps({"parameters_bytes": parameters, "full_bytes": full, "five_bytes": five, "met": met}))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
