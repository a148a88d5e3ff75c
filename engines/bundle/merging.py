"""What a bundle's manifest becomes when entries are added: pure functions over records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from allrounder import __version__
from allrounder.errors import BundleMismatch
from allrounder.manifest import (
    SCHEMA,
    ChatTemplate,
    Entry,
    FileRecord,
    Frozen,
    Limits,
    Manifest,
    Model,
    Recommendation,
)

__all__ = ["Identity", "Key", "check_same", "check_same_file", "merge", "needed"]

Key = tuple[str, str, str, int, str]
_REMEDY = "build into another directory, or remove this bundle first"


class Identity(NamedTuple):
    """What all entries of a bundle share."""

    model: Model
    chat: ChatTemplate
    limits: Limits

    @classmethod
    def of(cls, document: Manifest | Frozen) -> Identity:
        return cls(document.model, document.chat, document.limits)


def check_same(old: Identity, new: Identity, *, where: object) -> Identity:
    """Returns the identity of both together; the name stays the old one's, a missing router is filled in.

    Raises:
        BundleMismatch: Another model, router, prompt or limits.
    """
    routers = [router for router in (old.model.router, new.model.router) if router]
    pairs = (
        ("model", old.model.digest, new.model.digest),
        ("router", routers[:1], routers[-1:]),
        ("chat template", old.chat, new.chat),
        ("limits", old.limits, new.limits),
    )
    for what, before, after in pairs:
        if before != after:
            raise BundleMismatch(
                f"this bundle was made with another {what}", where=where, got=after, wanted=before, remedy=_REMEDY
            )
    model = msgspec.structs.replace(old.model, router=routers[0] if routers else None)
    if model != msgspec.structs.replace(new.model, router=model.router, name=model.name):
        raise BundleMismatch(
            "this bundle describes the same model differently",
            where=where,
            got=new.model,
            wanted=old.model,
            remedy=_REMEDY,
        )
    return Identity(model, old.chat, old.limits)


def check_same_file(path: str, old: FileRecord, new: FileRecord) -> None:
    """Two files of one name are one file.

    Raises:
        BundleMismatch: They differ.
    """
    if old != new:
        raise BundleMismatch(
            "this bundle holds another file of that name",
            where=path,
            got=f"sha256 {new.sha256}",
            wanted=f"sha256 {old.sha256}",
            remedy=_REMEDY,
        )


def merge(
    old: Manifest | None,
    identity: Identity,
    entries: Mapping[Key, Entry],
    files: Mapping[str, FileRecord],
    recommendations: Sequence[Recommendation] = (),
) -> Manifest:
    """Returns the manifest with ``entries`` replacing those of the same key and following the others.

    ``files`` are those of the new entries; the result still lists every file of both. ``recommendations`` replace
    those of the same versions; one that was there goes where an entry of its version, or its fidelity, is another.

    Raises:
        BundleMismatch: Both list a file of one name with different content.
    """
    known = {} if old is None else old.files
    for path, record in files.items():
        check_same_file(path, known.get(path, record), record)
    kept = {} if old is None else {entry.key: entry for entry in old.entries}
    merged = {**kept, **entries}
    given = {recommendation.version for recommendation in recommendations}
    present = [
        each
        for each in (() if old is None else old.recommendations)
        if each.version not in given and _weighed(kept, each.version) == _weighed(merged, each.version)
    ]
    return Manifest(
        schema=SCHEMA,
        producer=f"allrounder {__version__}",
        model=identity.model,
        chat=identity.chat,
        limits=identity.limits,
        files={**known, **files},
        entries=tuple(merged.values()),
        recommendations=(*present, *recommendations),
    )


def _weighed(entries: Mapping[Key, Entry], version: str) -> dict[Key, Entry]:
    """Returns what a recommendation of a version weighs: its entries but for their latency."""
    return {
        key: msgspec.structs.replace(entry, latency=None) for key, entry in entries.items() if entry.version == version
    }


def needed(entries: Iterable[Entry], files: Iterable[str], references: Callable[[str], Iterable[str]]) -> set[str]:
    """Returns those of ``files`` that belong to ``entries``.

    These are the entries' graphs, the weights that they point into (``references``), and all that is no graph:
    everything outside `graphs/`.
    """
    graphs = {path for entry in entries for path in msgspec.structs.astuple(entry.graphs) if path is not None}
    listed = set(files)
    wanted = {path for path in listed if path in graphs or not path.startswith("graphs/")}
    models = sorted(path for path in wanted & graphs if path.endswith(".onnx"))
    return wanted.union(*(references(path) for path in models))
