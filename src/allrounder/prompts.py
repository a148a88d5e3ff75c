"""Prompts files: pictures with questions, for calibration and training.

What it is: the record of one line and the reader of a whole file.
What it knows: JSON lines of ``{"image": "path", "question": "...", "answer": "...", "kind": "..."}``; image
paths are relative to the file; ``answer`` and ``kind`` are optional.
What it does not know: how pictures are decoded (only that the file is there), or what prompts are for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.errors import PromptsInvalid

__all__ = ["Prompt", "PromptSet", "read_prompts"]


class Prompt(NamedTuple):
    """One picture question."""

    image: Path
    question: str
    answer: str | None
    kind: str


class PromptSet(NamedTuple):
    """All usable prompts of a file; ``name`` holds its file name and a digest of its text and pictures."""

    name: str
    prompts: tuple[Prompt, ...]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: str
    question: str
    answer: str | None = None
    kind: str = ""


def read_prompts(path: str | Path) -> PromptSet:
    """Reads a prompts file.

    Raises:
        PromptsInvalid: The file cannot be read, holds no prompt, or has bad lines; all of them are named.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors put a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsInvalid("the prompts file cannot be read", where=file, got=error) from error
    prompts: list[Prompt] = []
    complaints: list[str] = []
    digest = hashlib.sha256(text.encode())
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt = _parse(line, file.parent)
            digest.update(hashlib.sha256(prompt.image.read_bytes()).digest())
            prompts.append(prompt)
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            complaints.append(f"line {number}: {error}")
    if complaints:
        raise PromptsInvalid(
            f"{len(complaints)} unusable lines in the prompts file",
            where=file,
            got="; ".join(complaints[:20]) + (" ..." if len(complaints) > 20 else ""),
            wanted='{"image": "relative/path.png", "question": "...", "answer": "..."}, the answer optional',
            remedy="mend or remove these lines",
        )
    if not prompts:
        raise PromptsInvalid("the prompts file holds no prompt", where=file)
    return PromptSet(f"{file.name}:{digest.hexdigest()[:16]}", tuple(prompts))


def _parse(line: str, folder: Path) -> Prompt:
    record = msgspec.json.decode(line, type=_Line)
    if not record.question.strip():
        raise ValueError("the question is empty")
    image = folder / record.image
    if not image.is_file():
        raise ValueError(f"there is no picture {image}")
    return Prompt(image, record.question, record.answer, record.kind)
