"""What is raced: a model of a named shape, and a bundle of its versions, both kept in the work folder.

What it is: two steps that do nothing where their outcome stands already, so that a run that was cut off goes on.
What it knows: the shapes; that a model is written tensor by tensor, so that a 7B never stands in memory.
What it does not know: time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import torch

from allrounder.commands.pipeline.random_model import RandomModel, spread, write_random_model
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.errors import InputInvalid
from allrounder.export.freezer import FreezeOptions, Freezer, default_limits
from allrounder.manifest import Limits, Precision
from allrounder.progress import Progress
from allrounder.pruning import LayerPolicy, PruningConfig, PruningKey, pruning_configs
from allrounder.versions import FULL
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_text
from allrounder.vlm.random.model import SHAPES, Shape
from allrounder.vlm.spec import ModelSpec

__all__ = ["DTYPES", "NAMES", "Settings", "built", "claim", "model"]

_ROOT = Path(__file__).resolve().parents[2]
_DEMO = RandomModel(_ROOT / "models" / "demo", _ROOT / "models" / "demo-router")  # the one that is not random
_PRUNE_LAYER = 2
_SHAPES = {
    # LLaVA-1.5-7B: a Llama of 32 layers behind CLIP-L/14-336.
    "7b": Shape(
        text={
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
        },
        vision=SHAPES["0.5b"].vision,
        top={"vision_feature_layer": -2},
    ),
    "0.5b": SHAPES["0.5b"],
    "tiny": Shape(text={"num_hidden_layers": 4}, vision={"image_size": 56}),
}
NAMES = (*_SHAPES, "demo")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a work folder was made for."""

    shape: str
    precision: Precision
    versions: tuple[str, ...]
    policies: tuple[LayerPolicy, ...]
    text_tokens: int
    new_tokens: int


def claim(work: Path, settings: Settings) -> None:
    """Makes the work folder, or sees that it was made for the same.

    Raises:
        InputInvalid: It was made for something else.
    """
    file, data = work / "settings.json", msgspec.json.encode(settings)
    work.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_bytes(data)
    if file.read_bytes() != data:
        was, wanted = file.read_text(encoding="utf-8"), data.decode()
        remedy = "give another --work, or remove this one"
        raise InputInvalid("the work folder was made for others", where=file, got=was, wanted=wanted, remedy=remedy)


def model(work: Path, settings: Settings, progress: Progress) -> RandomModel:
    """Returns model and router, which are written where they are missing."""
    if settings.shape == "demo":
        return _DEMO
    place = work / "model"
    if not place.exists():
        part = work / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        write_random_model(part, _SHAPES[settings.shape], dtype=DTYPES[settings.precision], progress=progress)
        part.rename(place)
    return RandomModel(place / "model", place / "router")


def built(work: Path, settings: Settings, backends: tuple[str, ...], progress: Progress) -> OpenBundle:
    """Returns the bundle, to which every engine is added that is missing.

    Static layers are spread evenly over the layers: how fast one is does not depend on which layers it holds.

    Raises:
        EngineUnavailable: A backend is not there.
        UnknownVersion: There is no such version.
    """
    pair, place, frozen = model(work, settings, progress), work / "bundle", work / "frozen"
    if not frozen.exists():
        part = work / "frozen.part"
        shutil.rmtree(part, ignore_errors=True)
        _freeze(pair, part, settings, progress)
        part.rename(frozen)
    keys = [pruning.key for pruning in _prunings(settings, Checkpoint(pair.vlm).spec)]
    for name in backends:
        # Plans take minutes each: published one by one. Graphs of ONNX Runtime are links: all at once.
        plannable = [key for key in keys if name == "onnxruntime" or key[2] == "static"]
        groups = [plannable] if name == "onnxruntime" else [[key] for key in plannable]
        for group in groups:
            _add(place, frozen, name, group, progress)
    return open_bundle(place, progress=progress)


def _prunings(settings: Settings, spec: ModelSpec) -> tuple[PruningConfig, ...]:
    layers, versions = spec.decoder.layers, dict.fromkeys((FULL, *settings.versions))
    found = pruning_configs(versions, layers=layers, prune_layer=_PRUNE_LAYER, policies=settings.policies)
    return tuple(spread(pruning, layers) for pruning in found)


def _freeze(pair: RandomModel, out: Path, settings: Settings, progress: Progress) -> None:
    spec = Checkpoint(pair.vlm).spec
    most = default_limits(spec, load_text(pair.vlm, spec).images)
    # Backends with caches of a fixed size pay for the limits: no more than what is asked.
    limits = Limits(
        images=1,
        image_tokens=spec.image_tokens,
        text_tokens=min(max(settings.text_tokens, 64), most.text_tokens),
        new_tokens=min(settings.new_tokens, most.new_tokens),
        batch=1,
    )
    options = FreezeOptions(settings.precision, limits, name=_name(settings.shape))
    freezer = Freezer(pair.vlm, pair.router, out, options, progress)
    freezer.shared()
    for pruning in _prunings(settings, spec):
        freezer.add(pruning)
    freezer.finish()


def _name(shape: str) -> str:
    return shape if shape == "demo" else f"random {shape}"


def _add(place: Path, frozen: Path, name: str, keys: list[PruningKey], progress: Progress) -> None:
    standing = open_bundle(place, progress=progress).manifest.entries if place.exists() else ()
    there = {each.pruning.key for each in standing if each.backend == name}
    missing = frozenset(key for key in keys if key not in there)
    if missing:
        with Staging(place, progress=progress) as staging:
            backend(name).build(frozen, staging, BuildOptions(only=missing, progress=progress))
            publish(staging)
