"""Training: a router learns from the unpruned model alone.

Everything random in a step is drawn from (seed, step), so a resumed run repeats an unbroken one. What is minimised is
in `losses`. The output directory holds the best router so far (by validation divergence) and ``training/`` with
``state.pt`` and ``log.jsonl``; the latter two are for the trainer alone and may be deleted afterwards.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import nn

from allrounder.errors import InputInvalid, RouterMismatch
from allrounder.progress import TerminalProgress
from allrounder.router.checkpoint import save_router, write_atomically
from allrounder.router.decisions import quota
from allrounder.router.training.examples import Examples
from allrounder.router.training.losses import Learner, Moment, Objective, batch_loss, gate_loss
from allrounder.router.training.measure import Closeness, measure, router_scorer
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.order import Hard, Walk, mixed_seed
from allrounder.router.training.references import References
from allrounder.router.training.start import Start, first_router
from allrounder.vlm.model import LoadedModel

__all__ = ["RunOptions", "TrainResult", "train", "weights_digest"]

VALIDATED_AT = ("par-lite", "par-nano")  # the best router is the one with the least mean divergence at these
CLIP = 1.0  # gradient norm
FINAL_RATE = 0.05  # of the learning rate, at the end of the cosine
Positive = Annotated[int, Meta(ge=1)]
Data = tuple[Examples | References, Examples | References]


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and with what means. The run ends with what comes first."""

    steps: Positive | None = None
    minutes: Annotated[float, Meta(gt=0)] | None = None  # of training, over all resumed runs together
    validate_every: Positive = 50  # steps
    save_every: Positive = 50  # steps
    bfloat16: bool = False  # autocast
    answer_tokens: Positive = 16  # answers are cut here
    cache_mib: Annotated[int, Meta(ge=0)] = 2048  # of references, a quarter of it for validation
    checkpoint: bool = False  # the model's layers are computed twice, and far less of them is remembered


class TrainResult(NamedTuple):
    """``closeness`` by version, of the best router, at ``step``; ``divergence`` is their mean, what was selected by."""

    step: int
    divergence: float
    closeness: dict[str, Closeness]
    steps: int
    seconds: float


def train(  # noqa: PLR0913, PLR0917 - the last one is for comparisons alone
    vlm: LoadedModel,
    data: Data,
    out: Path,
    options: TrainOptions,
    run: RunOptions,
    start: Start | None = None,
    objective: Objective = gate_loss,
) -> TrainResult:
    """Trains a router for a model, or goes on where a killed run stopped.

    Args:
        vlm: Frozen; verified to be unchanged afterwards.
        data: Examples to learn from, and examples to validate on. References of them may be given instead, made with
            what `options` and `run` say: several runs then compute them once.
        out: Router directory, see the module.
        options: What is learned.
        run: How long.
        start: Weights to begin with; None draws them from the seed. A run that goes on has its own.
        objective: What is minimised.

    Raises:
        InputInvalid: No end is given, a budget does not fit, or ``out`` holds a run with other options or data.
        RouterMismatch: ``out`` holds a run for another model.
    """
    if run.steps is None and run.minutes is None:
        raise InputInvalid("training needs an end", wanted="steps, minutes, or both")
    before = weights_digest(vlm.model)
    trainer = _Trainer(vlm, data, out, (options, run, objective), start)
    trainer.resume()
    result = trainer.run()
    if weights_digest(vlm.model) != before:
        raise RouterMismatch("the model changed while its router was trained", where=vlm.source)
    return result


def weights_digest(model: nn.Module) -> str:
    """Returns 64 hex digits over all parameters and buffers of a model, bit by bit."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Trainer:
    """One run; what changes is `_router`, `_optimizer`, `_step`, `_seconds` and `_best`."""

    def __init__(
        self,
        vlm: LoadedModel,
        data: Data,
        out: Path,
        settings: tuple[TrainOptions, RunOptions, Objective],
        start: Start | None = None,
    ) -> None:
        options, run, self._objective = settings
        self._vlm, self._out, self._options, self._run = vlm, out, options, run
        self._progress = TerminalProgress()
        quarter = run.cache_mib // 4
        first, second = data
        if not isinstance(first, References):
            first = References(vlm, first, run.answer_tokens, run.cache_mib - quarter)
        if not isinstance(second, References):
            second = References(vlm, second, run.answer_tokens, quarter)
        self._training, self._validation = first, second
        self._walk, self._hard = Walk(len(first.examples), options.seed), Hard(len(first.examples))
        layers = vlm.spec.decoder.layers
        self._budgets = [quota(name, layers) for name in options.budgets]
        if options.focus and not 0 < round(options.focus * options.batch) < options.batch:
            raise InputInvalid(
                "this focus leaves no new or no hard examples in a batch",
                where="focus",
                got=f"{options.focus} of {options.batch}",
                wanted="a share that is at least one example, and not all of them",
                remedy="give a larger batch, or another focus",
            )
        if options.budgets_per_step > len(self._budgets):
            raise InputInvalid(
                "a step cannot have more budgets than there are",
                where="budgets_per_step",
                got=options.budgets_per_step,
                wanted=f"at most {len(self._budgets)}",
                remedy="name more budgets, for example budgets=par-base,par-lite,par-nano",
            )
        self._validated = {name: quota(name, layers) for name in VALIDATED_AT}
        self._start = start
        self._router = first_router(vlm, options, start)
        self._optimizer = torch.optim.AdamW(
            self._router.parameters(),
            options.learning_rate,
            weight_decay=options.weight_decay,
            foreach=False,  # a dozen tensors: all at once would be no faster, and takes their memory again
        )
        self._step, self._seconds = 0, 0.0
        self._best: TrainResult | None = None
        self._identity = msgspec.json.encode(
            {
                "options": options,
                "model": vlm.digest,
                "data": [part.examples.name for part in (first, second)],
                "run": {"answer_tokens": run.answer_tokens, "bfloat16": run.bfloat16},
                "start": None if start is None else start.digest,
            }
        ).decode()

    def run(self) -> TrainResult:
        started = time.monotonic() - self._seconds
        while not self._ended():
            facts = self._advance()
            self._seconds = time.monotonic() - started
            self._progress("training the router", self._step, self._run.steps or 0)
            self._log(facts)
            last = self._ended()
            if last or self._step % self._run.validate_every == 0:
                self._validate()
                self._seconds = time.monotonic() - started
            if last or self._step % self._run.save_every == 0:
                self._save()
        if self._best is None:
            raise InputInvalid("nothing to train: the run in this directory has ended", where=self._out)
        return self._best._replace(steps=self._step, seconds=round(self._seconds, 1))

    def _share(self) -> float:
        """How much of the run is done, 0 to 1, by the end that is nearer."""
        by_steps = self._step / self._run.steps if self._run.steps else 0.0
        by_time = self._seconds / (60 * self._run.minutes) if self._run.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _ended(self) -> bool:
        return self._share() >= 1.0

    def _advance(self) -> dict[str, Any]:
        options, share = self._options, self._share()
        rate = options.learning_rate * _rate_factor(share, options.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._router.train()
        learner = Learner(self._vlm, self._router, options, self._run.checkpoint)
        loss = divergence = 0.0
        for part in range(options.accumulate):
            chance = torch.Generator().manual_seed(mixed_seed(options.seed, self._step, part))
            indices = self._indices(part, chance)
            drawn = torch.randperm(len(self._budgets), generator=chance)[: options.budgets_per_step]
            batch = self._training.batch(indices)
            device = batch.embeddings.device
            budgets = tuple(self._budgets[place] for place in drawn.tolist())
            moment = Moment(share, budgets, torch.Generator(device).manual_seed(chance.initial_seed() + 1))
            with torch.autocast(device.type, torch.bfloat16, enabled=self._run.bfloat16):
                found = batch_loss(learner, batch, moment, self._objective)
            (found.loss / options.accumulate).backward()
            loss += found.value / options.accumulate
            self._hard.remember(indices, found.divergence)
            divergence += float(found.divergence.mean()) / options.accumulate
        norm = nn.utils.clip_grad_norm_(self._router.parameters(), CLIP).item()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return {"step": self._step, "loss": loss, "norm": norm, "rate": rate, "divergence": divergence}

    def _indices(self, part: int, chance: torch.Generator) -> list[int]:
        """Returns the examples of a part of this step: the walk's next, and hard ones as far as any are known."""
        options = self._options
        again = round(options.focus * options.batch)
        fresh = options.batch - again
        place = (self._step * options.accumulate + part) * fresh
        indices = self._walk.take(place, fresh)
        return indices + self._hard.draw(again, chance, but=indices)

    def _validate(self) -> None:
        self._router.eval()
        budgets = list(self._validated.values())
        with torch.autocast(self._vlm.model.device.type, torch.bfloat16, enabled=self._run.bfloat16):
            found = measure(
                self._vlm, self._validation, router_scorer(self._router), budgets, self._options.prune_layer
            )
        closeness = dict(zip(self._validated, found, strict=True))
        mean = sum(close.divergence for close in found) / len(found)
        self._log({"step": self._step, "validation": {name: close._asdict() for name, close in closeness.items()}})
        line = ", ".join(f"{name} {close.divergence:.4f} {close.agreement:.1%}" for name, close in closeness.items())
        self._progress(f"step {self._step}, validated: {line}", 1, 1)
        if self._best is None or mean < self._best.divergence:
            self._best = TrainResult(self._step, mean, closeness, self._step, round(self._seconds, 1))
            save_router(self._router, self._out, model_digest=self._vlm.digest, training=self._facts())

    def _facts(self) -> dict[str, str | int | float | bool]:
        assert self._best is not None
        facts: dict[str, str | int | float | bool] = {
            name: ", ".join(value) if isinstance(value, tuple) else value
            for name, value in msgspec.structs.asdict(self._options).items()
        }
        for name, close in self._best.closeness.items():
            facts[f"validation_divergence {name}"] = round(close.divergence, 6)
            facts[f"validation_agreement {name}"] = round(close.agreement, 6)
        validated = f"{self._validation.examples.name} ({len(self._validation.examples)} examples)"
        facts |= {"step": self._step, "data": self._training.examples.name, "validated_on": validated}
        facts |= {"answer_tokens": self._run.answer_tokens, "bfloat16": self._run.bfloat16}
        return facts | ({} if self._start is None else self._start.facts())

    def _log(self, facts: dict[str, Any]) -> None:
        with (self._folder / "log.jsonl").open("ab") as stream:
            stream.write(msgspec.json.encode(facts | {"seconds": round(self._seconds, 2)}) + b"\n")

    @property
    def _folder(self) -> Path:
        folder = self._out / "training"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _save(self) -> None:
        best = self._best
        state = {
            "identity": self._identity,
            "router": self._router.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "hard": self._hard.divergences,
            "step": self._step,
            "seconds": self._seconds,
            "best": None if best is None else msgspec.json.encode(best).decode(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self._folder / "state.pt", buffer.getvalue())

    def resume(self) -> None:
        """Takes up the state of a run that was killed; what was logged after that state is cut off."""
        path, log = self._folder / "state.pt", self._folder / "log.jsonl"
        if path.is_file():
            state = _read_state(path)
            self._check_identity(state["identity"], path)
            self._router.load_state_dict(state["router"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._hard.divergences = state["hard"]
            self._step, self._seconds = state["step"], state["seconds"]
            self._best = msgspec.json.decode(state["best"], type=TrainResult) if state["best"] else None
        if log.is_file():
            lines = [line for line in log.read_bytes().splitlines(keepends=True) if _logged_step(line) <= self._step]
            write_atomically(log, b"".join(lines))

    def _check_identity(self, found: str, where: Path) -> None:
        if found == self._identity:
            return
        theirs, ours = msgspec.json.decode(found), msgspec.json.decode(self._identity)
        differing = {name for name in ours if theirs.get(name) != ours[name]}
        kind = RouterMismatch if "model" in differing else InputInvalid
        raise kind(
            "a run with other options, data or model was begun here",
            where=where,
            got=found,
            wanted=self._identity,
            remedy="give another directory, or delete this one's training folder to begin again",
        )


def _rate_factor(share: float, warmup: float) -> float:
    """Linear warm-up, then a cosine down to FINAL_RATE; the very first step moves too."""
    if share < warmup:
        return max(share / warmup, 0.02)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9)))


def _logged_step(line: bytes) -> float:
    """Returns the step of a log line; a line that a kill cut short counts as after every step."""
    try:
        return msgspec.json.decode(line)["step"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return math.inf


def _read_state(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load has no error of its own: EOF, pickle, zip, runtime
        raise InputInvalid(
            "the state of the run is damaged", where=path, got=error, remedy="delete it to begin again"
        ) from error
