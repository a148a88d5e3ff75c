"""Writes what the C interface must keep: python native/tests/abi/freeze.py LIBRARY.

What it is: the only writer of `symbols.txt` (what the library exports) and of `c_api_MAJOR_MINOR.h` (the header of each
release, frozen with it). What it knows: neither may shrink; it refuses to write a list that lacks an old symbol, and
it never touches the frozen header of another release. What it does not know: whether a release has happened. Run it
when a function is added, and before a release; the header of the version that is being worked on is written anew.
"""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
HEADER = FOLDER.parents[1] / "include" / "allrounder" / "c_api.h"
SYMBOLS = FOLDER / "symbols.txt"


def exported(library: str | Path) -> list[str]:
    """Returns what a shared library exports, sorted."""
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(library)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(line.split()[0].partition("@")[0] for line in lines)


def main() -> int:
    """Writes both files, or says why not."""
    symbols = exported(sys.argv[1])
    lost = sorted(set(SYMBOLS.read_text(encoding="utf-8").split()) - set(symbols)) if SYMBOLS.exists() else []
    if lost:
        print(f"not written: {', '.join(lost)} would be lost; the C interface only grows", file=sys.stderr)
        return 1
    text = HEADER.read_text(encoding="utf-8")
    version = dict(re.findall(r"define AR_VERSION_(MAJOR|MINOR) (\d+)", text))
    SYMBOLS.write_text("".join(f"{symbol}\n" for symbol in symbols), encoding="utf-8")
    (FOLDER / f"c_api_{version['MAJOR']}_{version['MINOR']}.h").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
