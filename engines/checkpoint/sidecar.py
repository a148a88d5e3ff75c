"""The sidecar: what a pruned checkpoint says about itself, `allrounder.json` beside a stock `config.json`.

A pruned checkpoint is a stock Hugging Face directory of L layers. Which tokens are kept is not in its weights: the
graphs below `image/` turn an image and a prompt into T rows, and the serving stack feeds these in place of N image
tokens.
Files written into it later (a launch script, an engine) are not checked here: listed ones are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from allrounder.engines.bundle.stamps import verify_once
from allrounder.errors import BundleCorrupt, BundleError, InvalidBudget
from allrounder.hashing import check_path
from allrounder.manifest import (
    ChatTemplate,
    Fidelity,
    FileRecord,
    Latency,
    Limits,
    Model,
    Precision,
    SharedGraphs,
    check_schema,
)
from allrounder.progress import Progress, silent
from allrounder.pruning import PruningConfig
from allrounder.records import Record

__all__ = ["IMAGE_FOLDER", "SIDECAR", "PrunedEntry", "Sidecar", "open_sidecar", "read_sidecar"]

SIDECAR = "allrounder.json"
IMAGE_FOLDER = "image"  # the graphs, their weights, and the tokenizer with its golden prompts


class PrunedEntry(Record, frozen=True, kw_only=True):
    """The version that a pruned checkpoint holds; its keys are those of a bundle's entry."""

    pruning: PruningConfig  # K = 0 and static: layer i here is `kept_layers[i]` of the model
    backend: str
    precision: Precision  # of the graphs below `image/`; the weights keep the dtype of the model
    positions: Literal["unpruned"] = "unpruned"  # fidelity holds where rows have those of the unpruned prompt
    fidelity: Fidelity | None  # of the same decision's frozen graphs
    latency: Latency | None = None  # the serving stack's business

    @property
    def label(self) -> str:
        """What it is, as people read it."""
        return f"{self.pruning.version} ({self.backend}, {self.pruning.layer_policy}, K={self.pruning.prune_layer})"


class Sidecar(Record, frozen=True, kw_only=True):
    """`allrounder.json`."""

    schema: Literal[3]
    producer: str  # program and version that wrote it
    model: Model  # model and router, each by digest
    chat: ChatTemplate
    limits: Limits
    entry: PrunedEntry
    graphs: SharedGraphs  # paths relative to the checkpoint; no router where every token is kept
    files: dict[str, FileRecord]  # every file that was written but this one


def read_sidecar(root: Path) -> Sidecar:
    """Returns the sidecar of a checkpoint; files are not read.

    Raises:
        BundleError: There is no such directory.
        BundleFromFuture: Its schema is newer than this program.
        BundleCorrupt: It has no sidecar, or one that cannot be read or contradicts itself.
    """
    path = root / SIDECAR
    if not root.is_dir():
        raise BundleError("there is no such directory", where=root, remedy="give the directory of a pruned checkpoint")
    try:
        data = path.read_bytes()
    except OSError as error:
        remedy = "build one: allrounder build --backend checkpoint --prune-layer 0"
        raise BundleCorrupt("this is not a pruned checkpoint", where=path, got=error, remedy=remedy) from error
    check_schema(data, where=path)
    try:
        sidecar = msgspec.json.decode(data, type=Sidecar)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleCorrupt(
            "the sidecar is malformed", where=path, got=error, remedy="build the checkpoint again"
        ) from error
    _check(sidecar, path)
    return sidecar


def open_sidecar(path: Path | str, folder: str = "", progress: Progress = silent) -> tuple[Path, Sidecar]:
    """Returns a checkpoint's root, links resolved, and its sidecar, after verifying its files.

    Each is hashed the first time this user meets it on this machine, like those of a bundle.

    Args:
        path: The checkpoint.
        folder: Verify what lies below this folder alone: whoever reads `image/` need not hash the weights.
        progress: Gets the MiB that are hashed.

    Raises:
        BundleError: There is no such directory, or it cannot be read.
        BundleFromFuture, BundleCorrupt: See `read_sidecar`; or a file is missing or changed.
    """
    root = Path(path).resolve()
    sidecar = read_sidecar(root)
    below = f"{folder}/" if folder else ""
    listed = {name: record for name, record in sidecar.files.items() if name.startswith(below)}
    try:
        verify_once(root, listed, progress, place=root / folder)
    except OSError as error:
        raise BundleError("the checkpoint cannot be read", where=root, got=error) from error
    return root, sidecar


def _check(sidecar: Sidecar, path: Path) -> None:
    pruning, model, graphs = sidecar.entry.pruning, sidecar.model, sidecar.graphs
    for name in sidecar.files:
        check_path(name, where=path)
    try:
        pruning.check(layers=model.layers)
    except InvalidBudget as error:
        raise BundleCorrupt("the sidecar has an impossible budget", where=path, got=error) from error
    if pruning.prune_layer or pruning.layer_policy != "static":
        raise BundleCorrupt("no checkpoint is pruned so", where=path, got=sidecar.entry.label, wanted="K=0, static")
    if (graphs.router is None) == pruning.routes:
        raise BundleCorrupt("a router is there exactly where tokens are dropped", where=path, got=graphs.router)
    for name in (graphs.vision, graphs.router):
        if name is not None and name not in sidecar.files:
            raise BundleCorrupt("a graph is not among the listed files", where=path, got=ascii(name[:200]))
