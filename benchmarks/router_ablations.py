"""Which objective and which options train the better router: the same model, prompts and minutes for each.

python benchmarks/router_ablations.py --out DIR [--model models/demo] [--minutes 3] [--images 60] [--only NAME,...]

References are computed once, before any clock runs. A variant whose ``result.json`` is in ``--out`` is not run again,
so a killed comparison goes on. One run each: only large differences mean anything. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from router_objectives import objectives

from allrounder.demo.scenes import Split
from allrounder.progress import TerminalProgress
from allrounder.router.checkpoint import load_router
from allrounder.router.decisions import quota
from allrounder.router.training.examples import SceneExamples
from allrounder.router.training.losses import gate_loss
from allrounder.router.training.measure import Closeness, measure, random_scorer, router_scorer
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.references import References
from allrounder.router.training.train import RunOptions, train
from allrounder.versions import EVERYTHING
from allrounder.vlm.model import LoadedModel, load_model

QUESTIONS = 5
TEACHING, VALIDATING, MEASURED = 50_000, 20_000, 21_000  # first seeds; none of them is used by the shipped router
BOTH = ("par-base", "par-lite", "par-nano")
VARIANTS: dict[str, dict[str, Any]] = {
    "gate, bidirectional": {"attention": "bidirectional"},
    "gate, causal": {"attention": "causal"},
    "gate, soft token gates in the forward pass": {"attention": "bidirectional", "token_gates": "soft"},
    "gate, one budget (par-base, as the paper)": {"attention": "bidirectional", "budgets": ("par-base",)},
    "gate, three budgets in each step": {"attention": "bidirectional", "budgets_per_step": 3},
    "gate, from the model's first layer": {"attention": "bidirectional", "start": "model"},
    "preference (the paper's), causal": {"objective": "preference", "attention": "causal", "budgets": ("par-base",)},
    "preference, bidirectional, three budgets": {"objective": "preference", "attention": "bidirectional"},
    "preference, reference-free": {"objective": "reference-free", "attention": "bidirectional"},
    "policy (all decisions, by advantage)": {"objective": "policy", "attention": "bidirectional"},
    "listwise (all decisions, by rank)": {"objective": "listwise", "attention": "bidirectional"},
}


def main() -> int:
    """Trains every variant, measures it, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--out", type=Path, required=True, help="one router directory per variant")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, each")
    parser.add_argument("--images", type=int, default=60, help=f"that teach, with {QUESTIONS} questions each")
    parser.add_argument("--measured", type=int, default=40, help="images that measure, of other seeds")
    parser.add_argument("--only", help="names of variants, separated by semicolons")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = load_model(arguments.model, torch.float32, "cpu")
    shares = ((Split.TRAIN, TEACHING, arguments.images), (Split.VALIDATION, VALIDATING, 8))
    teaching, validating = (_references(vlm, split, first, count) for split, first, count in shares)
    measured = _references(vlm, Split.VALIDATION, MEASURED, arguments.measured)
    chosen = arguments.only.split(";") if arguments.only else list(VARIANTS)
    judged = {"gate": gate_loss} | objectives()
    rows = {"random scores": _report(vlm, measured, random_scorer(vlm, 1))}
    for name in chosen:
        place = arguments.out / "".join(letter if letter.isalnum() else "-" for letter in name)
        done = place / "result.json"
        if not done.is_file():
            run = RunOptions(minutes=arguments.minutes, validate_every=60)
            options = dict(VARIANTS[name])
            objective = judged[options.pop("objective", "gate")]
            train(vlm, (teaching, validating), place, TrainOptions(**options), run, objective=objective)
            router = load_router(place, model_spec=vlm.spec, model_digest=vlm.digest)
            done.write_text(json.dumps(_report(vlm, measured, router_scorer(router)) | {"steps": _steps(place)}))
        rows[name] = json.loads(done.read_text())
        print(f"{name}: {rows[name]}", file=sys.stderr)
    print(_table(rows))
    print(json.dumps(rows))
    return 0


def _references(vlm: LoadedModel, split: Split, first: int, images: int) -> References:
    """Returns references that are all computed already."""
    references = References(vlm, SceneExamples(split, first, images, QUESTIONS))
    progress, count = TerminalProgress(), len(references.examples)
    for index in range(0, count, QUESTIONS):
        references.batch(range(index, index + QUESTIONS))
        progress("references", min(index + QUESTIONS, count), count)
    return references


def _report(vlm: LoadedModel, references: References, scorer: Any) -> dict[str, Any]:
    """Returns divergence and agreement at each version, and with tokens or layers alone at par-lite's budget."""
    layers = vlm.spec.decoder.layers
    named = {name: quota(name, layers) for name in BOTH}
    lite = named["par-lite"]
    named |= {"tokens alone": lite._replace(layers=layers), "layers alone": lite._replace(keep=EVERYTHING)}
    found: list[Closeness] = measure(vlm, references, scorer, list(named.values()), prune_layer=2)
    return {name: [round(figure, 4) for figure in close] for name, close in zip(named, found, strict=True)}


def _steps(place: Path) -> int:
    """Returns how many steps a finished run took."""
    lines = (place / "training" / "log.jsonl").read_text().splitlines()
    return max(json.loads(line)["step"] for line in lines)


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the rows as Markdown: nats per token / share of equal answers."""
    columns = [*BOTH, "tokens alone", "layers alone"]
    lines = ["| variant | steps | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name, row in rows.items():
        cells = [f"{row[column][0]:.3f} / {row[column][1]:.1%}" for column in columns]
        lines.append(f"| {name} | {row.get('steps', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
