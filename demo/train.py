"""The trainer of the demo models: lessons in a row, each resumable after a kill at any time.

``python -m allrounder.demo.train --out DIR --minutes 90`` trains all lessons; ``--lesson`` and ``--steps`` narrow it.
With ``--tiles --start models/demo`` it makes the model of tiles of the other one.
Batches are pure functions of the step number, so a resumed run goes on exactly where the killed one stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from allrounder.demo.model import SHIPPED, SHIPPED_TILES, TINY, TINY_TILES, Shape, load_model, save_model
from allrounder.demo.tokenizer import build_tokenizer
from allrounder.demo.training.lessons import (
    LESSONS,
    TILE_LESSONS,
    Batch,
    Learner,
    LessonName,
    lesson_loss,
    lesson_parts,
    make_batch,
)
from allrounder.demo.training.packing import Packer
from allrounder.progress import TerminalProgress

SHARES: dict[LessonName, float] = {
    "read": 0.35,
    "see": 0.2,
    "whole": 0.2,
    "polish": 0.25,
    "place": 0.2,
    "tiles": 0.8,
}
FIRST_SEED: dict[LessonName, int] = {name: number << 40 for number, name in enumerate(SHARES, 1)}


@dataclass(frozen=True)
class Plan:
    """How one lesson is run. Ends at ``steps`` or after ``minutes`` of training, whichever is set."""

    lesson: LessonName
    minutes: float
    steps: int | None
    images: int
    questions: int
    muon_rate: float
    adam_rate: float
    weight_decay: float = 0.5
    warmup_steps: int = 30
    decay_from: float = 0.5
    bf16: bool = True
    save_every_s: float = 60.0
    seed: int = 0


@dataclass
class Progress:
    """How far a run is: steps done, seconds of training spent."""

    step: int = 0
    spent_s: float = 0.0

    def fraction(self, plan: Plan) -> float:
        """How much of the plan is done, 0..1."""
        done = self.step / plan.steps if plan.steps is not None else self.spent_s / (60.0 * plan.minutes)
        return min(done, 1.0)


class Optimizers:
    """Muon for the matrices inside layers, AdamW for everything else, under one learning-rate factor."""

    def __init__(self, learner: Learner, plan: Plan) -> None:
        matrices, others = [], []
        for part in lesson_parts(learner, plan.lesson):
            for name, parameter in part.named_parameters():
                inside = parameter.ndim == 2 and "layers." in name
                (matrices if inside else others).append(parameter)
        self.parameters = [*matrices, *others]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=plan.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=plan.muon_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self.all.append(muon)
        self.rates = [group["lr"] for optimizer in self.all for group in optimizer.param_groups]

    def step(self, factor: float) -> None:
        """One clipped step at ``factor`` of the full learning rates."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        groups = [group for optimizer in self.all for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * factor
        for optimizer in self.all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def rate_factor(plan: Plan, progress: Progress) -> float:
    """Warm-up, plateau, then straight down to nothing."""
    warm = min(1.0, (progress.step + 1) / plan.warmup_steps)
    left = 1.0 - progress.fraction(plan)
    return warm * min(1.0, left / (1.0 - plan.decay_from))


def save_checkpoint(path: Path, learner: Learner, optimizers: Optimizers, progress: Progress) -> None:
    """Write everything a resumed run needs; a kill leaves the old file or the new one, never half of one."""
    state = {
        "learner": learner.state_dict(),
        "optimizers": optimizers.state_dict(),
        "step": progress.step,
        "spent_s": progress.spent_s,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train_lesson(learner: Learner, packer: Packer, plan: Plan, out: Path) -> Progress:
    """Run or resume one lesson; afterwards ``out``/<lesson>.pt holds its end."""
    device = next(learner.parameters()).device
    path, progress = out / f"{plan.lesson}.pt", Progress()
    learner.requires_grad_(requires_grad=False)
    for part in lesson_parts(learner, plan.lesson):
        part.requires_grad_(requires_grad=True)
    optimizers = Optimizers(learner, plan)
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizers.load_state_dict(state["optimizers"])
        progress = Progress(state["step"], state["spent_s"])
    saved_at = time.monotonic()
    report = TerminalProgress()
    with (out / "log.jsonl").open("a") as log:
        while progress.fraction(plan) < 1.0:
            begun = time.monotonic()
            record = _train_step(learner, packer, plan, progress, optimizers)
            progress = Progress(progress.step + 1, progress.spent_s + time.monotonic() - begun)
            if progress.step % 10 == 0:
                log.write(json.dumps({"lesson": plan.lesson, "step": progress.step, **record}) + "\n")
                log.flush()
            report(f"lesson {plan.lesson}", progress.step, plan.steps or 0)
            if time.monotonic() - saved_at > plan.save_every_s:
                save_checkpoint(path, learner, optimizers, progress)
                saved_at = time.monotonic()
    save_checkpoint(path, learner, optimizers, progress)
    return progress


def _train_step(
    learner: Learner, packer: Packer, plan: Plan, progress: Progress, optimizers: Optimizers
) -> dict[str, float]:
    device = next(learner.parameters()).device
    first = FIRST_SEED[plan.lesson] + (plan.seed << 32) + progress.step * plan.images
    batch = make_batch(plan.lesson, packer, range(first, first + plan.images), plan.questions)
    batch = _to_device(batch, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
        loss, record = lesson_loss(learner, plan.lesson, batch, first)
    loss.backward()
    factor = rate_factor(plan, progress)
    optimizers.step(factor)
    return {"loss": float(loss.detach()), **record, "rate": factor, "spent_s": progress.spent_s}


def _to_device(batch: Batch, device: torch.device) -> Batch:
    text = None if batch.text is None else batch.text.to(device)
    pixels = None if batch.pixels is None else batch.pixels.to(device, non_blocking=True)
    return replace(batch, text=text, labels=batch.labels.to(device, non_blocking=True), pixels=pixels)


def default_plan(lesson: LessonName, minutes: float, steps: int | None = None) -> Plan:
    """The shipped model's way through ``lesson``."""
    images, questions, muon_rate, adam_rate, decay_from = {
        "read": (12, 7, 3e-3, 3e-3, 0.5),
        "see": (32, 0, 2e-3, 1e-3, 0.5),
        "whole": (4, 16, 8e-4, 5e-4, 0.3),
        "polish": (4, 16, 6e-4, 3e-4, 0.3),
        "place": (6, 1, 2e-3, 1e-3, 0.5),
        "tiles": (4, 12, 1e-3, 5e-4, 0.3),
    }[lesson]
    return Plan(lesson, minutes, steps, images, questions, muon_rate, adam_rate, decay_from=decay_from)


def train(out: Path, plans: list[Plan], shape: Shape, device: torch.device, start: Path | None = None) -> Learner:
    """Run ``plans`` in order; each lesson starts from the one before it, the first one from the model ``start``."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    packer = Packer(tokenizer)
    learner = Learner(tokenizer, shape, seed=0).to(device)
    if start is not None:
        learner.start_from(load_model(start))
    for plan in plans:
        order = TILE_LESSONS if plan.lesson in TILE_LESSONS else LESSONS
        before = order.index(plan.lesson) - 1
        earlier = out / f"{order[before]}.pt" if before >= 0 else None
        if earlier is not None and earlier.exists():
            learner.load_state_dict(torch.load(earlier, map_location=device, weights_only=True)["learner"])
        train_lesson(learner, packer, plan, out)
    save_model(learner.model, tokenizer, out / "model")
    return learner


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model; the same command again resumes.")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log.jsonl and at the end model/")
    parser.add_argument("--minutes", type=float, default=90.0, help="training time of all chosen lessons together")
    parser.add_argument("--lesson", choices=[*LESSONS, *TILE_LESSONS, "all"], default="all")
    parser.add_argument("--start", type=Path, help="a demo model whose weights the first lesson starts from")
    parser.add_argument("--steps", type=int, help="steps per lesson instead of minutes")
    parser.add_argument("--tiles", action="store_true", help="the LLaVA-OneVision that sees windows in tiles")
    parser.add_argument("--tiny", action="store_true", help="a toy size, to try the trainer itself")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    every = TILE_LESSONS if options.tiles else LESSONS
    if options.lesson != "all" and options.lesson not in every:
        parser.error(f"--lesson: {options.lesson} is none of {', '.join(every)}; --tiles has lessons of its own")
    if options.tiles and options.start is None:
        parser.error("--tiles needs --start: the demo model whose weights it begins with")
    chosen: list[LessonName] = list(every) if options.lesson == "all" else [options.lesson]
    shapes = (SHIPPED_TILES, TINY_TILES) if options.tiles else (SHIPPED, TINY)
    share = sum(SHARES[lesson] for lesson in chosen)
    plans = [default_plan(name, options.minutes * SHARES[name] / share, options.steps) for name in chosen]
    train(options.out, plans, shapes[options.tiny], torch.device(options.device), options.start)
    print(json.dumps({"model": str(options.out / "model")}), file=sys.stdout)


if __name__ == "__main__":
    main()
