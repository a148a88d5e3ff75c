"""Reads a C header of ours: what it declares, as text, for comparisons between versions.

What it knows: how `c_api.h` is written (functions begin with AR_API, structs and enums are typedefs, one field a line).
What it does not know: C.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Header", "lost", "read_header", "renamed"]


class Header(NamedTuple):
    """Declarations by name, with comments and line breaks taken out."""

    functions: dict[str, str]  # name: declaration
    callbacks: dict[str, str]  # name: typedef
    constants: dict[str, str]  # of all enums; name: value
    structs: dict[str, list[str]]  # name: fields, each with its type
    handles: set[str]


def read_header(text: str) -> Header:
    """Returns what a header declares."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s+", " ", text)
    enums = re.findall(r"typedef enum \w+ \{([^}]*)\} \w+;", text)
    structs = re.findall(r"typedef struct (\w+) \{([^}]*)\} \w+;", text)
    return Header(
        functions={name: whole for whole, name in re.findall(r"AR_API ([^;{]*?(\w+)\([^;]*\));", text)},
        callbacks={name: whole for whole, name in re.findall(r"typedef ([^;{]*\(\*(\w+)\)\([^;]*\));", text)},
        constants=dict(re.findall(r"(\w+) = (\w+)", " ".join(enums))),
        structs={name: [field.strip() for field in body.split(";") if field.strip()] for name, body in structs},
        handles=set(re.findall(r"typedef struct (\w+) \w+;", text)),
    )


def lost(old: Header, new: Header) -> list[str]:
    """Returns what a program that was compiled against the old header would miss in a library of the new one."""
    missing: list[str] = []
    for kind in ("functions", "callbacks", "constants"):
        there = getattr(new, kind)
        missing += [f"{kind}: {text}" for name, text in getattr(old, kind).items() if there.get(name) != text]
    for name, fields in old.structs.items():
        if new.structs.get(name, [])[: len(fields)] != fields:
            missing.append(f"struct {name}: its first {len(fields)} fields")
    return missing + [f"handle {name}" for name in sorted(old.handles - new.handles)]


def renamed(text: str, prefix: str) -> str:
    """Returns a header whose names all have a prefix, so that one file can include it beside another version."""
    return re.sub(r"\b(ar_|AR_|ALLROUNDER_C_API_H)", rf"{prefix}\1", text)
