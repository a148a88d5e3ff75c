"""``allrounder train-router``: the meta-router of a frozen model, taught by the model itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from allrounder.calib.tables import table
from allrounder.errors import EngineUnavailable, InputInvalid, ModelUnsupported, PromptsInvalid
from allrounder.images.plan import ImagePlan
from allrounder.images.planning import plan_images
from allrounder.prompts import PromptSet, read_usable
from allrounder.runtime.image import image_size
from allrounder.versions import FULL, VERSIONS

__all__ = ["MemoryReport", "TrainReport", "add_arguments", "run"]

_DEMO = "demo"
_DEMO_MODEL = Path(__file__).resolve().parent.parent / "models" / "demo"
_MINUTES = 10.0
_IMAGES = 400  # each is read once before it can teach, and then remembered
_QUESTIONS = 8  # per image that teaches; all of them share one reading of it
_VALIDATION = (40, 5)  # images, questions each: fewer cannot separate two good routers
_HELD_OUT = 10  # one prompt in so many validates, whole images, where no file does
_BASELINE_DRAWS = 3  # random scores are drawn so often, and averaged


class TrainReport(msgspec.Struct, frozen=True):
    """The last line of stdout. ``versions`` holds, by name, divergence and agreement of the router and of chance."""

    router: str
    step: int  # the best one, which is what was saved
    steps: int
    seconds: float
    versions: dict[str, dict[str, float]]


class MemoryReport(msgspec.Struct, frozen=True):
    """The last line of stdout with ``--estimate``: bytes on the device, in main memory, and of every part."""

    device_bytes: int
    main_bytes: int
    parts: dict[str, int]
    image_tokens: int  # of the largest image that was counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``train-router`` to ``parser``."""
    parser.description = "Train the meta-router of a model. The model is its own teacher: prompts need no answers."
    parser.add_argument("--model", default=_DEMO, help="demo, a Hugging Face directory, or a hub id")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="PATH",
        help="JSONL of images and questions, or a folder with prompts.jsonl, or one of images with a .txt of the"
        " same name each, one question per line (demo: drawn)",
    )
    parser.add_argument("--validation", type=Path, metavar="PATH", help="likewise (default: the tail of --prompts)")
    parser.add_argument("--images", type=int, default=_IMAGES, help=f"demo scenes that are drawn (default: {_IMAGES})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the router; an unfinished run goes on")
    parser.add_argument(
        "--init", type=Path, metavar="DIR", help="a router to start from; another model's may be, if of the same shape"
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="print what it would take of memory, and stop; --model may be a config.json's folder, or llava-1.5-7b",
    )
    parser.add_argument("--minutes", type=float, help=f"when to stop (default: {_MINUTES:g}, or when --steps says)")
    parser.add_argument("--steps", type=int, help="when to stop, in optimiser steps")
    parser.add_argument("--batch", type=int, help="prompts at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of the frozen model")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="any option of training or run, for example attention=bidirectional, prune_layer=0, validate_every=40",
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, prints a table and, as the last line of stdout, one JSON object."""
    options, limits = _options(arguments)
    drawn = arguments.model == _DEMO
    model = _DEMO_MODEL if drawn else arguments.model
    if arguments.estimate:
        _print_estimate(model, options, limits, arguments.precision)
        return 0
    _check(arguments, drawn=drawn)

    import torch

    from allrounder.router.training.start import read_start
    from allrounder.router.training.train import train
    from allrounder.vlm.model import load_model

    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    vlm = load_model(model, dtype, arguments.device)
    start = None if arguments.init is None else read_start(arguments.init, vlm)
    data, image = _examples(arguments, vlm, limits.answer_tokens)
    print(_summary(vlm.spec, options, limits, arguments.precision, image), file=sys.stderr)
    result = train(vlm, data, arguments.out, options, limits, start)
    versions = _compared(vlm, data[1], arguments.out, (options.prune_layer, limits.answer_tokens))
    for name, figures in versions.items():
        print("  ".join([f"{name:<9}", *(f"{key} {value:.4f}" for key, value in figures.items())]))
    report = TrainReport(str(arguments.out), result.step, result.steps, result.seconds, versions)
    print(msgspec.json.encode(report).decode())
    return 0


def _check(arguments: argparse.Namespace, *, drawn: bool) -> None:
    """Refuses what can be refused before a model is loaded, which may take minutes."""
    if arguments.out is None:
        raise InputInvalid("where is the router to be written?", where="--out", wanted="a directory")
    if arguments.init is not None and arguments.init.resolve() == arguments.out.resolve():
        raise InputInvalid(
            "a run cannot start from what it replaces", where="--init", got=arguments.init, remedy="give another --out"
        )
    _check_device(arguments.device)
    if arguments.prompts is None and not drawn:
        wanted = "a JSONL file or a folder; answers are not read"
        raise InputInvalid("training needs images with questions", where="--prompts", wanted=wanted)
    if arguments.images < 1:
        raise InputInvalid("no images to learn from", where="--images", got=arguments.images)
    for path in (arguments.prompts, arguments.validation):
        if path is not None and not path.exists():
            raise PromptsInvalid("there is no such file or folder", where=path)


def _options(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Returns what is learned (`TrainOptions`) and how long (`RunOptions`)."""
    from allrounder.router.training.objective import TrainOptions
    from allrounder.router.training.train import RunOptions

    minutes = _MINUTES if arguments.minutes is None and arguments.steps is None else arguments.minutes
    limits: dict[str, Any] = {"steps": arguments.steps, "minutes": minutes, "bfloat16": arguments.precision == "bf16"}
    given: dict[str, Any] = {} if arguments.batch is None else {"batch": arguments.batch}
    for setting in arguments.settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputInvalid("a setting is NAME=VALUE", where="--set", got=setting)
        record = limits if name in RunOptions.__struct_fields__ else given
        record[name] = tuple(value.split(",")) if name == "budgets" else value
    return _converted(given, TrainOptions()), _converted(limits, RunOptions())


def _converted(given: dict[str, Any], defaults: Any) -> Any:
    """Returns the record ``defaults`` with the given values, texts read as what the field wants."""
    try:
        return msgspec.convert(msgspec.structs.asdict(defaults) | given, type(defaults), strict=False)
    except msgspec.ValidationError as error:
        names = ", ".join(type(defaults).__struct_fields__)
        raise InputInvalid("not a training option", got=error, wanted=f"one of {names}, each in its range") from error


def _check_device(device: str) -> None:
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InputInvalid("unknown device", where="--device", got=device, wanted="cpu, cuda or cuda:N") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise EngineUnavailable(
            "there is no such CUDA device",
            where="--device",
            got=device,
            wanted=f"one of {torch.cuda.device_count()}",
            remedy="train with --device cpu, or install a torch with CUDA",
        )


class _Largest(NamedTuple):
    """The largest image that a run may meet."""

    image_tokens: int
    tiles: int


def _examples(arguments: argparse.Namespace, vlm: Any, answer_tokens: int) -> tuple[tuple[Any, Any], _Largest]:
    """Returns the examples to learn from and those to validate on, and the largest of their images."""
    from allrounder.demo.scenes import Split
    from allrounder.images.plan import Canvases
    from allrounder.router.training.examples import FileExamples, SceneExamples
    from allrounder.router.training.usable import held_out

    if arguments.prompts is None:
        # Seeds behind those of the shipped calibration prompts, whose scenes are of the validation split too.
        tiles = isinstance(vlm.images.layout, Canvases)
        validation = SceneExamples(Split.VALIDATION, 10_000, *_VALIDATION, tiles=tiles)
        teaching = SceneExamples(Split.TRAIN, 0, arguments.images, _QUESTIONS, tiles=tiles)
        return (teaching, validation), _possible(vlm.images, vlm.spec)
    prompts = _usable(arguments.prompts, vlm, answer_tokens)
    if arguments.validation is None:
        parts = held_out(prompts, _HELD_OUT)
    else:
        parts = prompts, _usable(arguments.validation, vlm, answer_tokens)
    images = {prompt.image for part in parts for prompt in part.prompts}
    return (FileExamples(parts[0]), FileExamples(parts[1])), _largest(vlm.images, images)


def _largest(plan: ImagePlan, images: Iterable[Path]) -> _Largest:
    planned = [plan_images(plan, [image_size(image)])[0] for image in images]
    return _Largest(max(each.tokens for each in planned), max(each.tiles for each in planned))


def _possible(plan: ImagePlan, spec: Any) -> _Largest:
    """Returns the largest image that a model can be given, whatever the examples are."""
    return _Largest(min(plan.most_tokens, spec.decoder.max_positions), plan.most_tiles)


def _usable(path: Path, vlm: Any, answer_tokens: int) -> PromptSet:
    """Returns what of a file or folder can be used; the rest is named on stderr, each with what helps."""
    from allrounder.router.training.usable import checks

    prompts, complaints = read_usable(path, checks(vlm, answer_tokens))
    for complaint in complaints:
        print(f"{path}: {complaint}", file=sys.stderr)
    if complaints:
        print(f"{path}: {len(prompts.prompts)} prompts are used, {len(complaints)} left out", file=sys.stderr)
    return prompts


def _compared(vlm: Any, validation: Any, out: Path, reading: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Returns divergence and agreement of the saved router and of random scores, by version."""
    from allrounder.router.checkpoint import load_router
    from allrounder.router.decisions import quota
    from allrounder.router.training.measure import measure, random_scorer, router_scorer
    from allrounder.router.training.references import References

    router = load_router(out, model_spec=vlm.spec, model_digest=vlm.digest).to(vlm.model.device)
    names = [name for name in VERSIONS if name != FULL]
    budgets = [quota(name, vlm.spec.decoder.layers) for name in names]
    prune_layer, answer_tokens = reading
    references = References(vlm, validation, answer_tokens)
    found = measure(vlm, references, router_scorer(router), budgets, prune_layer)
    chance = [
        measure(vlm, references, random_scorer(vlm, seed), budgets, prune_layer) for seed in range(_BASELINE_DRAWS)
    ]
    report = {}
    for place, name in enumerate(names):
        drawn = [each[place] for each in chance]
        report[name] = {
            "divergence": round(found[place].divergence, 6),
            "agreement": round(found[place].agreement, 6),
            "random_divergence": round(sum(close.divergence for close in drawn) / len(drawn), 6),
            "random_agreement": round(sum(close.agreement for close in drawn) / len(drawn), 6),
        }
    return report


def _print_estimate(model: str | Path, options: Any, limits: Any, precision: str) -> None:
    """Prints the table, and as the last line of stdout one JSON object. Reads a config, never weights."""
    from allrounder.router.training.known import known_spec

    if Path(model).is_dir():
        spec, image = _configured(Path(model))
    else:
        spec = known_spec(str(model))
        image = _Largest(spec.image_tokens, 1)
    found = _estimate(spec, options, limits, precision, image)
    rows = [[part.phase, part.name, _gib(part.bytes)] for part in found.parts]
    rows.append(["", "peak on the device", _gib(found.device)])
    rows.append(["", "beside it, in main memory", _gib(found.main)])
    print(table(["when", "what", "GiB"], rows))
    print(f"counted for images of up to {image.image_tokens} tokens, {image.tiles} tiles")
    print("not in it: what the device's libraries take for themselves, and fragmentation")
    parts = {part.name: part.bytes for part in found.parts}
    report = MemoryReport(found.device, found.main, parts, image.image_tokens)
    print(msgspec.json.encode(report).decode())


def _configured(directory: Path) -> tuple[Any, _Largest]:
    """Returns the spec of a directory with a config, and its largest image, if its processor is there."""
    from allrounder.vlm.config import read_config, read_spec
    from allrounder.vlm.families import FAMILIES
    from allrounder.vlm.processor import load_processor

    config = read_config(directory)
    spec = read_spec(config)
    try:
        processor = load_processor(directory, spec.model_type)
    except ModelUnsupported as error:
        print(f"note: images are counted as one tile each, {spec.image_tokens} tokens: {error}", file=sys.stderr)
        return spec, _Largest(spec.image_tokens, 1)
    return spec, _possible(FAMILIES[spec.model_type].image_plan(processor, config, spec), spec)


def _summary(spec: Any, options: Any, limits: Any, precision: str, image: _Largest) -> str:
    """Returns one line."""
    found = _estimate(spec, options, limits, precision, image)
    always = sum(part.bytes for part in found.parts if part.phase == "always")
    return (
        f"memory: about {_gib(found.device)} GiB on the device ({_gib(always)} of it weights and optimiser),"
        f" references up to {_gib(found.main)} GiB of main memory (--estimate lists them),"
        f" images of up to {image.image_tokens} tokens"
    )


def _estimate(spec: Any, options: Any, limits: Any, precision: str, image: _Largest) -> Any:
    from allrounder.router.training.memory import Means, estimate

    means = Means(
        weight=2 if precision == "bf16" else 4,
        autocast=limits.bfloat16,
        checkpoint=limits.checkpoint,
        answer=limits.answer_tokens,
        cache_mib=limits.cache_mib,
        image_tokens=image.image_tokens,
        tiles=image.tiles,
    )
    return estimate(spec, options, means)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
