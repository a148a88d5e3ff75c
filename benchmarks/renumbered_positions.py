"""What it costs when a serving stack numbers the kept rows from 0 on, instead of handing on their positions.

Stock transformers runs pruned checkpoints on held-out questions of the demo model with three kinds of positions:
*kept*, which rows have in the unpruned prompt, as in the frozen graphs; *counted*, by a stack that takes none; and
*spread*, evenly over the places of all N rows, whichever were kept: one table from counted to spread serves all.

python benchmarks/renumbered_positions.py CHECKPOINT... [--questions 300]    (one of them of the version full)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from allrounder.calib.bootstrap import mean_estimate
from allrounder.calib.fidelity import same_answer
from allrounder.demo.prompts import Example, examples
from allrounder.demo.questions import CLASSES
from allrounder.demo.scenes import Split
from allrounder.serving.kept_rows import KeptRows, RowReader
from allrounder.versions import FULL
from allrounder.vlm.keywords import CACHE

NEW_TOKENS = 24
BATCH = 32
KINDS = ("kept", "counted", "spread")


class Answer(NamedTuple):
    """A greedy answer, up to its stop token, and whether it is right."""

    ids: tuple[int, ...]
    right: bool


def positions(read: KeptRows, kind: str) -> Tensor:
    """Returns the positions [R - N + T] of a prompt's rows."""
    if kind == "kept":
        return torch.from_numpy(read.positions[0])
    if kind == "counted":
        return torch.arange(len(read.kept))
    tokens, count = read.layout.image_tokens, len(read.keep)
    even = (2 * np.arange(count) + 1) * tokens // (2 * count)  # the middle of each of T equal stretches
    return torch.from_numpy(read._replace(keep=tuple(even.tolist())).positions[0])


def decoder_rows(read: KeptRows, embed: Any) -> Tensor:
    """Returns the rows [R - N + T, H] of a pruned prompt: its text embedded by the model, and its image tokens."""
    ids = torch.tensor(read.layout.input_ids)[torch.from_numpy(read.kept)]
    images = torch.from_numpy(np.isin(read.kept, read.layout.image_index))
    rows = embed(ids.masked_fill(images, 0)).clone()
    rows[images] = torch.from_numpy(read.rows)
    return rows


@torch.no_grad()
def answers(model: Any, batch: list[KeptRows], kind: str) -> Tensor:
    """Returns greedy tokens [B, NEW_TOKENS] of prompts of equal length."""
    embed = model.get_input_embeddings()
    inputs: dict[str, Tensor] = {"inputs_embeds": torch.stack([decoder_rows(read, embed) for read in batch])}
    places = torch.stack([positions(read, kind) for read in batch])
    # Without mask and cache transformers takes gaps between positions for borders of packed sequences.
    seen, cache, tokens = torch.ones_like(places), None, []
    for _ in range(NEW_TOKENS):
        output = model(**inputs, position_ids=places, attention_mask=seen, logits_to_keep=1, **{CACHE: cache})
        cache, places = output[CACHE], places[:, -1:] + 1
        seen = torch.cat([seen, seen[:, :1]], dim=1)
        tokens.append(output.logits[:, -1].argmax(dim=-1, keepdim=True))
        inputs = {"input_ids": tokens[-1]}
    return torch.cat(tokens, dim=1)


def ask(checkpoint: Path, asked: list[Example]) -> dict[str, list[Answer]]:
    """Returns the answers by kind of positions, in the order of the questions."""
    reader = RowReader(checkpoint)
    model = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    reads = [reader.read(example.image, example.question) for example in asked]
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, read in enumerate(reads):
        by_length[len(read.kept)].append(number)
    batches = [group[at : at + BATCH] for group in by_length.values() for at in range(0, len(group), BATCH)]
    kinds = KINDS if reader.sidecar.graphs.router else KINDS[:1]  # where every row is kept, all three are the same
    found: dict[str, dict[int, Answer]] = {kind: {} for kind in kinds}
    for batch in batches:
        for kind, rows in found.items():
            tokens = answers(model, [reads[number] for number in batch], kind).tolist()
            for number, ids in zip(batch, tokens, strict=True):
                cut = _until_stop(ids, reader.sidecar.model.stop_ids)
                rows[number] = Answer(cut, same_answer(reader.text(cut), asked[number].answer))
    return {kind: [rows[number] for number in range(len(asked))] for kind, rows in found.items()}


def _until_stop(ids: list[int], stop_ids: tuple[int, ...]) -> tuple[int, ...]:
    ends = [place for place, token in enumerate(ids) if token in stop_ids]
    return tuple(ids[: ends[0] + 1] if ends else ids)


def share(flags: list[bool], images: tuple[str, ...]) -> dict[str, float]:
    """Returns a share with its bootstrap 95 % interval over images."""
    estimate = mean_estimate(np.array(flags, np.float64), images)
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def main() -> int:
    """Measures and prints a table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--questions", type=int, default=300)
    arguments = parser.parse_args()
    asked = list(examples(Split.TEST, arguments.questions))
    images = tuple(str(number // len(CLASSES)) for number in range(len(asked)))
    found = {RowReader(path).sidecar.entry.pruning.version: ask(path, asked) for path in arguments.checkpoints}
    if FULL not in found:
        parser.error(f"give a checkpoint of the version {FULL} as well: the others are compared with it")
    reference = found[FULL]["kept"]
    report: dict[str, Any] = {"questions": len(asked)}
    print(f"{len(asked)} held-out questions; shares with bootstrap 95 % intervals over images")
    for version, kinds in found.items():
        report[version] = {
            kind: {
                "right": share([given.right for given in rows], images),
                "as_full": share([a.ids == b.ids for a, b in zip(rows, reference, strict=True)], images),
                "as_kept": share([a.ids == b.ids for a, b in zip(rows, kinds["kept"], strict=True)], images),
            }
            for kind, rows in kinds.items()
        }
        for kind, shares in report[version].items():
            text = "   ".join(
                f"{name} {each['mean']:.3f} ({each['low']:.3f} to {each['high']:.3f})" for name, each in shares.items()
            )
            print(f"{version:<9} {kind:<8} {text}")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
