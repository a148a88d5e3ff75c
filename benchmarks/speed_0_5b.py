"""The decoder of par-lite against that of `full` on a random model of 0.5B shape, interleaved.

Thin around ``allrounder bench --shape 0.5b``: it prints the same table, then whether prefill and decode reach what the
project promises on a CPU. TTFT with tower and router stands in the table beside it.

    python benchmarks/speed_0_5b.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec

from allrounder.commands.bench import BenchOptions, bench_bundle, render
from allrounder.commands.pipeline.random_model import build_shape
from allrounder.progress import TerminalProgress
from allrounder.versions import DEFAULT_VERSION, FULL

PROMISED = {"prefill": 2.5, "tpot": 1.25}


def main() -> int:
    """Benches; returns 1 where a promise is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, fast and shared weights")
    arguments = parser.parse_args()
    progress = TerminalProgress()
    modes = ("fast", "shared") if arguments.memory else ("fast",)
    options = BenchOptions(
        weights=modes, text_tokens=70, repeats=arguments.repeats, threads=arguments.threads, memory=arguments.memory
    )
    with tempfile.TemporaryDirectory(prefix="allrounder-speed-") as folder:
        bundle = build_shape("0.5b", Path(folder), (FULL, DEFAULT_VERSION), progress, ("dynamic", "static"))
        report = bench_bundle(bundle, options, progress)
    print(render(report))
    ratios = {row.entry: row.speedup for row in report.rows if row.version != FULL and row.weights == "fast"}
    met = True
    for entry, speedup in ratios.items():
        assert speedup is not None, "full was benched beside it"
        for name, wanted in PROMISED.items():
            good = speedup[name] >= wanted
            met = met and good
            print(f"{entry}, {name}: {speedup[name]:.2f}x of full, promised {wanted}x: {'met' if good else 'MISSED'}")
    print(json.dumps({"speedup": ratios, "met": met, "report": msgspec.to_builtins(report)}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
