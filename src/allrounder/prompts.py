"""Prompts files: images with questions, for calibration and training.

`read_prompts` takes a whole file or nothing, for figures that must be the same tomorrow; `read_usable` leaves out what
cannot be used and says so, for learning from what there is.

A file holds JSON lines of ``{"image": "path", "question": "...", "answer": "...", "kind": "..."}``; image paths are
relative to the file; ``answer`` and ``kind`` are optional. A folder holds ``prompts.jsonl``, or images with text files
of the same name, one question per line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.errors import PromptsInvalid

__all__ = ["Complaint", "Prompt", "PromptSet", "Unusable", "read_prompts", "read_usable"]

FOLDER_FILE = "prompts.jsonl"
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
_LINE = '{"image": "relative/path.png", "question": "...", "answer": "..."}, the answer optional'


class Prompt(NamedTuple):
    """One image question."""

    image: Path
    question: str
    answer: str | None
    kind: str


class PromptSet(NamedTuple):
    """All usable prompts of a file; ``name`` holds its file name and a digest of its text and images."""

    name: str
    prompts: tuple[Prompt, ...]


class Complaint(NamedTuple):
    """One thing that was left out: ``where``, such as ``line 3`` or ``cat.txt line 2``; what is wrong; what helps."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}; left out. Remedy: {self.remedy}"


class Unusable(ValueError):
    """A prompt that cannot be used. It never leaves this module but as a `Complaint`, or inside `PromptsInvalid`."""

    def __init__(self, problem: str, remedy: str = "mend or remove this line") -> None:
        super().__init__(problem)
        self.remedy = remedy


Check = Callable[[Prompt], None]
Source = tuple[str, Callable[[], Prompt]]  # where a prompt is, and how it is read


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
    text = _text(file)
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
            wanted=_LINE,
            remedy="mend or remove these lines",
        )
    if not prompts:
        raise PromptsInvalid("the prompts file holds no prompt", where=file)
    return PromptSet(f"{file.name}:{digest.hexdigest()[:16]}", tuple(prompts))


def read_usable(path: str | Path, check: Check | None = None) -> tuple[PromptSet, tuple[Complaint, ...]]:
    """Reads what can be used of a prompts file or folder.

    Left out, each with a complaint: lines that are empty or malformed, lines whose image is not there, whole
    repetitions of an image and its question, what ``check`` refuses, and in a folder images or texts alone.

    Args:
        path: A prompts file, or a folder of `FOLDER_FILE` or of images and texts.
        check: Called with every prompt that could be read; raises `Unusable` to leave it out.

    Returns:
        The prompts, whose ``name`` is a digest of the questions and images that are really used, and the complaints.

    Raises:
        PromptsInvalid: The file or folder cannot be read, or nothing in it can be used.
    """
    place = Path(path)
    sources, complaints = _sources(place)
    prompts: list[Prompt] = []
    first: dict[tuple[Path, str], str] = {}
    images: dict[Path, bytes] = {}
    digest = hashlib.sha256()
    for where, read in sources:
        try:
            prompt = read()
            prompt = prompt._replace(image=prompt.image.resolve())  # one image has one name
            key = (prompt.image, prompt.question)
            if key in first:
                raise Unusable(f"the same image and question as in {first[key]}", "remove it, or ask something else")
            if key[0] not in images:
                images[key[0]] = hashlib.sha256(prompt.image.read_bytes()).digest()
            if check is not None:
                check(prompt)
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            complaints.append(Complaint(where, str(error), getattr(error, "remedy", f"write {_LINE}")))
            continue
        first[key] = where
        digest.update(images[key[0]] + hashlib.sha256(prompt.question.encode()).digest())
        prompts.append(prompt)
    if not prompts:
        raise PromptsInvalid(
            "nothing in it can be used",
            where=place,
            got="; ".join(map(str, complaints[:20])) or "no line at all",
            wanted=_LINE,
        )
    return PromptSet(f"{place.name}:{digest.hexdigest()[:16]}", tuple(prompts)), tuple(complaints)


def _sources(place: Path) -> tuple[list[Source], list[Complaint]]:
    """Returns where prompts are and how each is read, and what a folder lacks."""
    if place.is_dir() and not (place / FOLDER_FILE).is_file():
        return _folder(place)
    file = place / FOLDER_FILE if place.is_dir() else place
    lines = _text(file).removesuffix("\n").split("\n")
    return [(f"line {number}", partial(_parse, line, file.parent)) for number, line in enumerate(lines, 1)], []


def _folder(folder: Path) -> tuple[list[Source], list[Complaint]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    texts = {path.stem: path for path in files if path.suffix.lower() == ".txt"}
    sources: list[Source] = []
    complaints: list[Complaint] = []
    asked: set[str] = set()
    for image in (path for path in files if path.suffix.lower() in IMAGES):
        text = texts.get(image.stem)
        if text is None:
            remedy = f"write {image.stem}.txt beside it, one question per line"
            complaints.append(Complaint(image.name, "an image without questions", remedy))
            continue
        asked.add(image.stem)
        try:
            lines = _text(text).removesuffix("\n").split("\n")
        except PromptsInvalid as error:
            complaints.append(Complaint(text.name, str(error), "save it as UTF-8 text"))
            continue
        where = text.name if image.with_suffix(".txt") == text else f"{image.name}, {text.name}"
        sources += [(f"{where} line {number}", partial(_asked, image, line)) for number, line in enumerate(lines, 1)]
    complaints += [
        Complaint(texts[stem].name, "questions without an image", f"put {stem}.png beside it")
        for stem in sorted(texts.keys() - asked)
    ]
    if not sources and not complaints:
        raise PromptsInvalid(
            "no prompts in this folder",
            where=folder,
            wanted=f"{FOLDER_FILE}, or images ({', '.join(IMAGES)}) with a .txt of questions of the same name",
        )
    return sources, complaints


def _asked(image: Path, line: str) -> Prompt:
    _check_question(line)
    return Prompt(image, line.strip(), None, "")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors put a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsInvalid("the prompts file cannot be read", where=file, got=error) from error


def _parse(line: str, folder: Path) -> Prompt:
    if not line.strip():
        raise Unusable("the line is empty", "remove it")
    record = msgspec.json.decode(line, type=_Line)
    _check_question(record.question)
    image = folder / record.image
    if not image.is_file():
        raise Unusable(f"there is no image {image}", "mend the path, which is relative to the prompts file")
    return Prompt(image, record.question, record.answer, record.kind)


def _check_question(question: str) -> None:
    if not question.strip():
        raise Unusable("the question is empty", "write one, or remove the line")
