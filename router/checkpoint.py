"""Router directories: ``router.safetensors`` and ``router.json``.

``router.json`` is read first and its schema before anything else. The weights file is replaced before the record that
names its digest, each atomically: a kill between the two leaves a pair that `load_router` refuses, never one that it
takes for something else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import AutoConfig

from allrounder.errors import RouterMismatch
from allrounder.manifest import FileRecord
from allrounder.router.model import AttentionKind, MetaRouter, Scope
from allrounder.vlm.spec import ModelSpec

__all__ = [
    "RECORD",
    "SCHEMA",
    "WEIGHTS",
    "RouterRecord",
    "load_router",
    "load_state",
    "read_record",
    "save_router",
    "write_atomically",
]

SCHEMA = 1
WEIGHTS = "router.safetensors"
RECORD = "router.json"

Fact = str | int | float | bool
Positive = Annotated[int, Meta(ge=1)]


class RouterRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """``router.json``; what has its default is not written, so that a router keeps its digest."""

    schema: Literal[1]
    attention: AttentionKind
    scope: Scope = "prompt"
    router_layers: Positive
    image_tokens: Positive  # of one image, of the model
    model_layers: Positive  # M of the model
    hidden: Positive  # H of the model
    model_digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # digest of the model's weights and config
    weights: FileRecord  # of router.safetensors
    decoder: dict[str, Any]  # the Hugging Face config of the router's own layers
    training: dict[str, Fact]  # how it was trained, for people to read


def save_router(
    router: MetaRouter, directory: Path | str, *, model_digest: str, training: dict[str, Fact] | None = None
) -> RouterRecord:
    """Writes a router directory, replacing the router in it; other files there stay.

    Args:
        router: Written in float32.
        directory: Made where it is missing.
        model_digest: 64 hex digits, see `allrounder.vlm.checkpoint.Checkpoint.digest`.
        training: Facts for the record; numbers must be finite.

    Raises:
        RouterMismatch: The record would not be valid: a digest that is none, or a number that is not finite (JSON
            would hold null for it, and no fact may be null).
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: value.detach().float().cpu().contiguous() for name, value in router.state_dict().items()})
    record = RouterRecord(
        schema=SCHEMA,
        attention=router.attention,
        scope=router.scope,
        router_layers=len(router.layers),
        image_tokens=router.image_tokens,
        model_layers=router.model_layers,
        hidden=router.layer_tokens.shape[1],
        model_digest=model_digest,
        weights=FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)),
        decoder=router.config.to_dict(),
        training=training or {},
    )
    text = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    _decoded(text, folder / RECORD)  # what would not be read back is not written
    write_atomically(folder / WEIGHTS, data)
    write_atomically(folder / RECORD, text)
    return record


def read_record(directory: Path | str) -> RouterRecord:
    """Returns ``router.json`` of a router directory; its schema is judged before all else.

    Raises:
        RouterMismatch: Missing, unreadable, from the future, or malformed.
    """
    path = Path(directory) / RECORD
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RouterMismatch(
            "no router here", where=path, got=error, remedy="give a directory that `allrounder train-router` wrote"
        ) from error
    return _decoded(data, path)


def load_router(directory: Path | str, *, model_spec: ModelSpec, model_digest: str) -> MetaRouter:
    """Returns the router of a directory for the model of that spec and digest, in float32, in evaluation mode.

    Raises:
        RouterMismatch: Trained for another model, damaged, or not a router.
    """
    folder = Path(directory)
    record = read_record(folder)
    _check_model(record, folder / RECORD, model_spec, model_digest)
    state = _read_weights(folder / WEIGHTS, record)
    try:
        config: Any = AutoConfig.for_model(**record.decoder)
        config.num_hidden_layers = record.model_layers
        router = MetaRouter(model_spec, config, record.attention, record.router_layers, record.scope)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RouterMismatch("the router's config is unusable", where=folder / RECORD, got=error) from error
    load_state(router, state, folder / WEIGHTS)
    return router.eval()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing: a temporary file beside it, synced, then renamed onto it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp makes private files; a shipped router is for everybody
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _decoded(data: bytes, where: Path) -> RouterRecord:
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RouterMismatch("the router's record is not JSON", where=where, got=error) from error
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA:
        raise RouterMismatch(
            "the router is from the future",
            where=where,
            got=f"schema {schema}",
            wanted=f"schema {SCHEMA} or older",
            remedy="update allrounder, or train the router again with this one",
        )
    try:
        record = msgspec.convert(plain, RouterRecord)
    except msgspec.ValidationError as error:
        raise RouterMismatch("the router's record is malformed", where=where, got=error) from error
    return record


def _check_model(record: RouterRecord, where: Path, spec: ModelSpec, digest: str) -> None:
    trained = (record.image_tokens, record.model_layers, record.hidden)
    wanted = (spec.image_tokens, spec.decoder.layers, spec.decoder.hidden)
    remedy = "train a router for this model with `allrounder train-router`, or give the model that it was trained for"
    if trained != wanted:
        raise RouterMismatch(
            "the router was trained for a model of another shape",
            where=where,
            got="{} image tokens, {} layers, hidden {}".format(*trained),
            wanted="{} image tokens, {} layers, hidden {}".format(*wanted),
            remedy=remedy,
        )
    if record.model_digest != digest:
        raise RouterMismatch(
            "the router was trained for another model",
            where=where,
            got=record.model_digest,
            wanted=digest,
            remedy=remedy,
        )


def _read_weights(path: Path, record: RouterRecord) -> dict[str, torch.Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RouterMismatch("the router's weights cannot be read", where=path, got=error) from error
    found = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    if found != record.weights:
        raise RouterMismatch(
            "the router's weights are not those its record names: truncated or changed",
            where=path,
            got=f"{found.bytes} bytes, sha256 {found.sha256}",
            wanted=f"{record.weights.bytes} bytes, sha256 {record.weights.sha256}",
            remedy="copy the router again, or train it again",
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise RouterMismatch("the router's weights are not safetensors", where=path, got=error) from error


def load_state(router: MetaRouter, state: dict[str, torch.Tensor], where: object, remedy: str | None = None) -> None:
    """Gives a router the tensors of another one.

    Raises:
        RouterMismatch: They are not those of its shape.
    """
    own = {name: tuple(value.shape) for name, value in router.state_dict().items()}
    read = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name in own.keys() | read.keys() if own.get(name) != read.get(name))
    if wrong:
        name = wrong[0]
        raise RouterMismatch(
            f"{len(wrong)} tensors of the router are missing, unknown or of another shape",
            where=f"{where}: {name}",
            got=read.get(name, "absent"),
            wanted=own.get(name, "no such tensor"),
            remedy=remedy,
        )
    router.load_state_dict(state)
