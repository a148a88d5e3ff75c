"""Embedding the runtime: one bundle, one latency target, questions from standard input.

python examples/ask.py bundles/demo examples/scene.png --ttft-ms 500
"""

import argparse
import sys

from allrounder.runtime import LatencyTarget, Runtime

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("bundle")
parser.add_argument("image")
parser.add_argument("--ttft-ms", type=float)
arguments = parser.parse_args()

target = LatencyTarget(ttft_ms=arguments.ttft_ms) if arguments.ttft_ms else None
with Runtime.load(arguments.bundle, target=target) as runtime:
    print(f"{runtime.entry.label}; one question a line", file=sys.stderr)
    for question in sys.stdin:
        for piece in runtime.stream(arguments.image, question.strip()):
            print(piece, end="", flush=True)
        print()
