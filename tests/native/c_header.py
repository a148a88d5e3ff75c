"""Reads a C header of ours: which functions and structs it declares, as text.

What it knows: how `c_api.h` is written (functions begin with AR_API, structs are typedefs).
What it does not know: C.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Header", "read_header"]


class Header(NamedTuple):
    """Declarations by name, with comments and line breaks taken out."""

    functions: dict[str, str]  # name: declaration
    structs: dict[str, list[str]]  # name: fields, each with its type


def read_header(text: str) -> Header:
    """Returns what a header declares."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s+", " ", text)
    structs = re.findall(r"typedef struct (\w+) \{([^}]*)\} \w+;", text)
    return Header(
        functions={name: whole for whole, name in re.findall(r"AR_API ([^;{]*?(\w+)\([^;]*\));", text)},
        structs={name: [field.strip() for field in body.split(";") if field.strip()] for name, body in structs},
    )
