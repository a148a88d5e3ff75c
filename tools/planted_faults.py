"""Plants one fault at a time in this checkout, which must be clean, and says which test catches it first.

What it is: `FAULTS`, key lines and a wrong form of each, and the loop over them. A tier of tests may shrink as long as
it still catches them all. What it does not know: the tests.

    python tools/planted_faults.py                       # the fast tier: what `pytest` runs
    python tools/planted_faults.py -- -m "slow or not slow"       # everything
    python tools/planted_faults.py --only positions ties -- tests/parity
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Fault(NamedTuple):
    """A line of a file, and a wrong form of it."""

    file: str
    right: str
    wrong: str


FAULTS = {
    "positions renumbered after the gather": Fault(
        "export/graph/decoder.py",
        'return _Rows(hidden, position_ids, tensors.KEPT_SLOTS, "R_kept")',
        "ones = graph.node('Min', [position_ids, graph.ints(1)], 'ones')\n"
        "    again = graph.node('CumSum', [ones, graph.int(2)], 'again')\n"
        "    return _Rows(hidden, again, tensors.KEPT_SLOTS, 'R_kept')",
    ),
    "the worst tokens kept": Fault("export/graph/gather.py", '_node("Greater", "other', '_node("Less", "other'),
    "an image's quota taken from another's": Fault(
        "export/graph/gather.py", '"wins same_image", "better"', '"wins wins", "better"'
    ),
    "ties to the higher index in the graph": Fault(
        "export/graph/gather.py", '_node("Less", "other_index', '_node("Greater", "other_index'
    ),
    "a tower's last norm is forgotten": Fault("export/vision.py", "if vision.last_norm:", "if False:"),
    "marks beside an image stay plain text": Fault("vlm/model.py", " | mark_ids(processor, texts)", ""),
    "patches that take another's position": Fault(
        "vlm/smolvlm/spec.py", "_check_positions(grid)\n    return", "return"
    ),
    "NaN counts as best": Fault("export/graph/gather.py", 'float("-inf")', 'float("inf")'),
    "ties to the higher index": Fault(
        "router/selection.py",
        "clean.argsort(dim=-1, descending=True, stable=True)",
        "clean.flip(-1).argsort(dim=-1, descending=True, stable=True).neg().add(scores.shape[-1] - 1)",
    ),
    "a layer that is not kept runs": Fault("export/graph/decoder.py", "kept, run, skip,", "kept, run, run,"),
    "layers chosen one off": Fault("runtime/cache.py", "[: layers - prune_layer]", "[1 : layers - prune_layer + 1]"),
    "a sequence that moves takes the clocks of who left": Fault(
        "runtime/cache.py", "self._clocks[slot] = last", "pass"
    ),
    "a sequence that moves leaves its rows behind": Fault(
        "runtime/cache.py", "slots.move(len(self._clocks), slot)", "pass"
    ),
    "a slot is used again as it was left": Fault("runtime/cache.py", "slots.clear(slot)", "pass"),
    "decoding forgets the new token": Fault(
        "export/graph/decoder.py", 'graph.size(rows.hidden, 1, "new_count")', "graph.ints(0)"
    ),
    "the next position counts kept rows": Fault(
        "runtime/engine.py", "Clocks(layout.next_position,", "Clocks(layout.rows - dropped,"
    ),
    "an image's tokens in another's place": Fault(
        "src/allrounder/layout.py", "image = image_of[-1] + 1 if image_of else 0", "image = 0"
    ),
    "linear layers lie as they are stored": Fault(
        "export/weights/layout.py", "stored.t() if tensor.linear", "stored if tensor.linear"
    ),
    "the slowest that meets the target": Fault("runtime/choice.py", "if misses[index] <= 1:", "if misses[index] <= 2:"),
    "top_p keeps one token too many": Fault(
        "runtime/sampling.py", "np.argmax(reached)) + 1 :", "np.argmax(reached)) + 2 :"
    ),
    "the stop text is shown": Fault("runtime/text.py", "return text[: min(found)[1]]", "return text[: min(found)[0]]"),
    "photographs lie on their side": Fault("runtime/image.py", "ImageOps.exif_transpose(image)", "image"),
    "a changed file goes unnoticed": Fault(
        "src/allrounder/hashing.py", "if digest != files[path].sha256:", "if len(digest) != len(files[path].sha256):"
    ),
    "user text becomes special tokens": Fault(
        "src/allrounder/chat/tokenization.py",
        "tokenizer.encode_special_tokens = True",
        "tokenizer.encode_special_tokens = False",
    ),
    "a text's control token is the template's": Fault(
        "src/allrounder/chat/marks.py", "lambda found: found[0] + mark", "lambda found: found[0]"
    ),
    "texts have no borders": Fault("src/allrounder/chat/marks.py", 'f"{self.mark}{core}{self.mark}", 1', "core, 1"),
    "pruned layers keep their old numbers": Fault(
        "engines/checkpoint/weights.py",
        'f"decoder.layers.{kept.index(tensor.layer)}."',
        'f"decoder.layers.{tensor.layer}."',
    ),
    "agreement with the truth in place of full": Fault(
        "calib/figures.py", "outcomes.agrees.astype(np.float64)", "outcomes.correct.astype(np.float64)"
    ),
}


def main() -> int:
    """Plants each fault, runs the tests up to the first failure, prints a row; returns 1 where one was not caught."""
    parser = argparse.ArgumentParser(description="Which test catches which planted fault?")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="faults whose name holds one of these words")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    arguments = parser.parse_args()
    changed = _run("git", "status", "--porcelain", "--untracked-files=no").stdout
    assert not changed, f"faults are planted in the checkout itself, which has changes: {changed}"
    named = {name: fault for name, fault in FAULTS.items() if any(word in name for word in arguments.only or [""])}
    missed = 0
    for name, fault in named.items():
        started = time.monotonic()
        found = _caught(fault, arguments.pytest)
        missed += not found
        print(f"| {name} | {found or '**not caught**'} | {time.monotonic() - started:.0f} s |", flush=True)
    print(f"{len(named) - missed} of {len(named)} planted faults caught")
    return int(bool(missed))


def _caught(fault: Fault, words: list[str]) -> str:
    """Returns the first test that fails with the fault in place; empty where none does."""
    path = ROOT / fault.file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(fault.right) == 1, f"{fault.file}: the line to break is not there once: {fault.right}"
    path.write_text(whole.replace(fault.right, fault.wrong), encoding="utf-8")
    try:
        done = _run(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words)
    finally:
        path.write_text(whole, encoding="utf-8")
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    assert found or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return found[1] if found else ""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
