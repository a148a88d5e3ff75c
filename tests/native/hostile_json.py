"""Texts that are no manifest, or not quite: for readers of JSON to refuse.

What it knows: a good manifest as bytes, and what JSON allows. What it does not know: files, and who reads.
"""

import json
import random
from collections.abc import Iterator
from typing import Any


def manifests(data: bytes) -> dict[str, bytes]:
    """Texts that are no manifest, or not quite; each is sealed."""
    cuts = {f"cut at {place}": data[:place] for place in range(1, len(data), len(data) // 25)}
    number = b'"hidden": %b'
    old = number % str(json.loads(data)["model"]["hidden"]).encode()
    numbers = (
        b"-1",
        b"0",
        b"1.0",
        b"1e2",
        b"1e999",
        b"-1e999",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"01",
        b"+1",
        b"0x10",
    )
    numbers += (
        b"9223372036854775807",
        b"9223372036854775808",
        b"18446744073709551616",
        b"1" * 100_000,
        b"1e1000000000",
    )
    numbers += (b"true", b"null", b'"4"', b"[]", b"{}", b"1.", b".5", b"1e", b"--1", b"1_000", b"4.0000000000000001")
    numbers += (b"1" * 100_000, b"0." + b"0" * 100_000 + b"1", b"1e" + b"0" * 100_000)
    texts = {
        "NUL": b'"a\x00b"',
        "a control character": b'"a\x01b"',
        "no UTF-8": b'"\xff\xfe"',
        "overlong UTF-8": b'"\xc0\xaf"',
        "a surrogate in UTF-8": b'"\xed\xa0\x80"',
        "beyond Unicode": b'"\xf4\x90\x80\x80"',
        "cut UTF-8": b'"\xe2\x82"',
        "a lone surrogate": b'"\\ud800"',
        "a wrong pair": b'"\\ud800\\u0041"',
        "an escaped NUL": b'"\\u0000"',
        "an unknown escape": b'"\\x41"',
        "a cut escape": b'"\\u00"',
        "a raw line end": b'"a\nb"',
        "a megabyte": b'"' + b"x" * 2**20 + b'"',
    }
    name = b'"name": ' + json.dumps(json.loads(data)["model"]["name"]).encode()
    assert data.count(old) >= 1
    assert data.count(name) == 1
    return {
        "empty": b"",
        "not JSON": b"not JSON",
        "NULs": b"\x00" * 100,
        "only white space": b" \n\t",
        "an array": b"[" + data + b"]",
        "a number": b"7",
        "brackets": b"[" * 50_000,
        "objects": b'{"a":' * 50_000,
        "closed brackets": b"[" * 50_000 + b"]" * 50_000,
        "schema and brackets": b'{"schema": 1, "producer": ' + b"[" * 100_000,
        "from the future": data.replace(b'"schema": 1', b'"schema": 2'),
        "bfloat16 on a CPU": data.replace(b'"precision": "fp32"', b'"precision": "bf16"'),
        "from the far future": data.replace(b'"schema": 1', b'"schema": 9223372036854775807'),
        "beyond the future": data.replace(b'"schema": 1', b'"schema": 1' + b"0" * 400),
        "a schema that is text": data.replace(b'"schema": 1', b'"schema": "2"'),
        "a schema that is true": data.replace(b'"schema": 1', b'"schema": true'),
        "a fraction of a schema": data.replace(b'"schema": 1', b'"schema": 1.5'),
        "a schema of 2.0": data.replace(b'"schema": 1', b'"schema": 2.0'),
        "no schema": data.replace(b'"schema": 1,', b""),
        "two schemas": data.replace(b'"schema": 1', b'"schema": 1, "schema": 1'),
        "trailing words": data + b"x",
        "two documents": data + data,
        "a byte order mark": b"\xef\xbb\xbf" + data,
        "UTF-16": data.decode().encode("utf-16"),
        "a comment": data.replace(b"{", b"{ // comment\n", 1),
        "a trailing comma": data.replace(b"}\n}", b"},\n}").replace(b"]\n}", b"],\n}"),
        "single quotes": data.replace(b'"', b"'"),
        "an unknown key": data.replace(b"{", b'{"unknown": 1,', 1),
        **cuts,
        **{f"hidden is {value[:30].decode()}": data.replace(old, number % value, 1) for value in numbers},
        **{f"the name is {what}": data.replace(name, b'"name": ' + text) for what, text in texts.items()},
    }


VALUES = (None, True, -1, 0, 1, 2**31, 2**63 - 1, 2**63, 1.5, 1e300, "", "x", "0" * 64, [], [0], {}, {"x": 1}, [[[]]])


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Gives JSON in which one value, anywhere, became another, or a key went, came or changed its name."""
    draw = random.Random(seed)  # the same mutations each time
    for _ in range(count):
        plain = json.loads(data)
        here, key = draw.choice([*_places(plain)])
        kind = draw.randrange(8)
        if kind == 0 and isinstance(here, dict):
            here[f"{key}_"] = here.pop(key)
        elif kind == 1:
            del here[key]
        elif kind == 2 and isinstance(here, dict):
            here["new"] = draw.choice(VALUES)
        else:
            here[key] = draw.choice(VALUES)
        yield json.dumps(plain).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Gives every (container, key) within a JSON value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, item in items:
        yield value, key
        yield from _places(item)
