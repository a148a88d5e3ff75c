"""A random host with a random router, for measuring speed and for tests.

What it is: one function that writes both directories.
What it knows: the named shapes of `allrounder.hosts.random`. What it does not know: training; such a pair shows speed
and parity, never fidelity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from allrounder.hosts.checkpoint import Checkpoint
from allrounder.hosts.random import Shape, write_random_checkpoint
from allrounder.hosts.spec import read_config
from allrounder.progress import Progress, silent
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter

__all__ = ["RandomModel", "write_random_model"]


class RandomModel(NamedTuple):
    """Two directories that belong together."""

    host: Path
    router: Path


def write_random_model(
    directory: Path, shape: str | Shape, *, seed: int = 0, dtype: Any = None, progress: Progress = silent
) -> RandomModel:
    """Writes ``host/`` and ``router/`` below ``directory``, in float32; the host in ``dtype`` where one is given.

    Raises:
        InputInvalid: There is no shape of that name.
    """
    import torch

    dtype = dtype or torch.float32
    host = write_random_checkpoint(directory / "host", shape, seed=seed, dtype=dtype, progress=progress)
    checkpoint = Checkpoint(host)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        text_config: Any = read_config(host).text_config
        router = MetaRouter(checkpoint.spec, text_config)
    save_router(router, directory / "router", host_digest=checkpoint.digest)
    return RandomModel(host, directory / "router")
