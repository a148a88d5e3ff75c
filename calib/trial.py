"""One try: engines that were just built are opened and asked once, before anybody else opens them.

A made-up image and a question go through every graph of an entry, one decode step included; logits must be finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import why_not
from allrounder.errors import AllRounderError, BackendError
from allrounder.manifest import Entry
from allrounder.progress import Progress, note
from allrounder.runtime.engine import Engine
from allrounder.runtime.memory import fits

__all__ = ["TRIAL", "try_engines"]

TRIAL = "What is in the image?"  # the shortest question that a bundle must take


def try_engines(bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions, progress: Progress) -> None:
    """Asks each of ``entries`` once, one after another; those that cannot run in this process are passed over.

    One that does not fit into memory is noted, and not tried.

    Raises:
        BackendError: An entry cannot be opened, or does not answer.
    """
    for entry in entries:
        if why_not(entry, options):
            continue
        if not fits(bundle, [entry], options):
            note(progress, f"note: {entry.label} was not tried: it does not fit into this machine's memory")
            continue
        try:
            finite = _ask(Engine.open(bundle, entry, options))
        except AllRounderError as error:
            raise BackendError("an engine was built and does not run here", where=entry.label, got=error) from error
        if not finite:
            raise BackendError("an engine was built and gives logits that are not finite", where=entry.label)


def _ask(engine: Engine) -> bool:
    """Returns whether the logits of a prompt and of one token after it are finite."""
    side = engine.model.images.size
    images = engine.prepare([np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)])
    state = engine.start(images, engine.layout(question(TRIAL)), free_slots=1)
    first = state.logits
    return bool(np.isfinite(first).all() and np.isfinite(engine.decode(state, [int(first.argmax())])).all())
