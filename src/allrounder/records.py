"""What all records of the contract are made of: the base of their structs, and checked numbers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Count", "Positive", "Record"]

_INT64 = 2**63 - 1  # every reader, C++ too, can hold the number
Count = Annotated[int, Meta(ge=0, le=_INT64)]
Positive = Annotated[int, Meta(ge=1, le=_INT64)]


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all records share: immutable, keyword-only, unknown keys refused."""
