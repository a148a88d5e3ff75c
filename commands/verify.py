"""``allrounder verify``: is every byte of a bundle what its manifest says?"""

from __future__ import annotations

import argparse
from pathlib import Path

from allrounder.engines.bundle.reader import open_bundle
from allrounder.progress import TerminalProgress

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``verify`` to ``parser``."""
    parser.description = "Hash every file of a bundle, whatever was hashed before, and compare with its manifest."
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/demo"), help="default: bundles/demo")


def run(arguments: argparse.Namespace) -> int:
    """Prints one line where every byte is right.

    Raises:
        BundleError: A file is missing or changed, or there is no bundle.
    """
    bundle = open_bundle(arguments.bundle, progress=TerminalProgress(), again=True)
    size = sum(record.bytes for record in bundle.manifest.files.values())
    print(f"{bundle.path}: {len(bundle.manifest.files)} files, {size:,} bytes, all as manifest {bundle.digest} says")
    return 0
