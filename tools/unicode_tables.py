"""Writes native/src/text/unicode_tables.cpp: what the native tokenizer knows of Unicode.

What it is: the generator of tables of letters, numbers, canonical decompositions and combining classes.
What it knows: that the tables must be those of the `tokenizers` library, not those of the newest Unicode: ids are
right where both languages cut and normalise a text alike. So the library itself is asked about every code point. Its
regular expressions (Oniguruma) and its normaliser follow different Unicode versions: with tokenizers 0.23.3, letters
and numbers are exactly those of Unicode 16.0, while the normaliser knows exactly the characters of Unicode 9.0.
What it does not know: how the tables are used.

Combining classes and decompositions come from Python's unicodedata, without the characters that the library's
normaliser does not know; once a character is assigned, Unicode never changes them. Run it again where
`tests/native/test_text_parity.py` says that a newer `tokenizers` differs.
"""

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

OUTPUT = Path(__file__).parent.parent / "native" / "src" / "text" / "unicode_tables.cpp"
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic
NFC, NFD = normalizers.NFC(), normalizers.NFD()

HEAD = """\
// Written by tools/unicode_tables.py; do not edit.
//
// As the `tokenizers` library {library} has them; combining classes and decompositions are those of Unicode {unicode}
// without the characters that the library's normaliser does not know.
#include "text/unicode_tables.hpp"

namespace ar::unicode {{
"""


def members(pattern: str) -> list[int]:
    """Returns the code points that match ``pattern``."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return [code for code in CODE_POINTS if not split.pre_tokenize_str(chr(code))]


def combining_class(code: int) -> int:
    """Returns the canonical combining class as the library's normaliser sees it."""
    found = unicodedata.combining(chr(code))
    if not found:
        return 0
    other = "\u0315" if found < 232 else "\u0334"  # of class 232 and of class 1
    mixed = other + chr(code) if found < 232 else chr(code) + other
    return found if NFC.normalize_str(mixed) != mixed else 0


def decomposition(code: int) -> list[int]:
    """Returns the canonical decomposition, one step of it, of two parts or one; empty without one."""
    text = unicodedata.decomposition(chr(code))
    if not text or text.startswith("<") or NFD.normalize_str(chr(code)) == chr(code):
        return []
    return [int(part, 16) for part in text.split()]


def ranges(values: Callable[[int], int], codes: Iterable[int]) -> list[tuple[int, int, int]]:
    """Returns (first, last, value) of runs of neighbours with one value that is not 0."""
    runs: list[tuple[int, int, int]] = []
    for code in codes:
        value = values(code)
        if runs and value and runs[-1][1] == code - 1 and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], code, value)
        elif value:
            runs.append((code, code, value))
    return runs


def array(name: str, numbers: Iterable[int], stride: int, meaning: str) -> str:
    """Returns an array of ``stride`` numbers a row, and how many rows it has."""
    numbers = list(numbers)
    lines: list[str] = [""]
    for number in numbers:
        if len(lines[-1]) + len(str(number)) >= 120:
            lines.append("")
        lines[-1] += f"{number},"
    body = "\n".join(lines)
    return (
        f"\n// {meaning}\nconst std::uint32_t {name}[] = {{\n{body}\n}};\n"
        f"const std::size_t {name}Count = {len(numbers) // stride};\n"
    )


def main() -> None:
    """Asks the library and writes the file."""
    text = HEAD.format(library=tokenizers.__version__, unicode=unicodedata.unidata_version)
    for name, kind, meaning in (("kLetters", "L", "Letters"), ("kNumbers", "N", "Numbers")):
        codes = set(members(rf"\p{{{kind}}}"))
        runs = ranges(lambda code, codes=codes: int(code in codes), CODE_POINTS)
        text += array(name, (end for run in runs for end in run[:2]), 2, f"{meaning}: first, last.")
    runs = ranges(combining_class, CODE_POINTS)
    text += array("kCombining", (end for run in runs for end in run), 3, "Combining classes: first, last, class.")
    parts = {code: found for code in CODE_POINTS if code not in HANGUL and (found := decomposition(code))}
    singles = {code: found for code, found in parts.items() if len(found) == 1}
    pairs = {code: found for code, found in parts.items() if len(found) == 2}
    for name, table, meaning in (("kSingles", singles, "one character"), ("kPairs", pairs, "two characters")):
        flat = (number for code, found in table.items() for number in (code, *found))
        stride = 2 if table is singles else 3
        text += array(name, flat, stride, f"Canonical decompositions into {meaning}: character, its parts.")
    composed = (code for code in pairs if NFC.normalize_str(chr(code)) == chr(code))
    order = {code: row for row, code in enumerate(pairs)}
    rows = (order[code] for code in sorted(composed, key=lambda code: pairs[code]))
    text += array("kCompositions", rows, 1, "Rows of kPairs that compose again, ascending by their parts.")
    OUTPUT.write_text(text + "\n}  // namespace ar::unicode\n", encoding="utf-8")


if __name__ == "__main__":
    main()
