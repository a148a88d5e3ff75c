"""Writes the seeds of manifest_fuzz from the golden manifest, and its dictionary; nothing else writes seed-*.

What it is: the golden manifest whole and cut down to what a mutation can cover, and the kinds of damage that the tests
know, one a file. Inputs that the fuzzer once found lie beside them under other names.

Run it as ``python native/fuzz/regenerate_manifests.py`` when the schema changes, and look at the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "tests/golden/manifest.json"


def small(plain: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest with one entry of few layers and only the files that it names."""
    pruning = {"keep": "1", "layers": 2, "prune_layer": 1, "kept_layers": [0, 1]}
    entry = plain["entries"][0] | {"pruning": plain["entries"][0]["pruning"] | pruning}
    graphs = set(entry["graphs"].values()) - {None}
    files = {path: record for path, record in plain["files"].items() if path in graphs}
    model = plain["model"] | {"layers": 2}
    return plain | {"entries": [entry], "files": files, "model": model}


def seeds(plain: dict[str, Any]) -> dict[str, bytes]:
    """Returns the seeds by name."""
    one = json.dumps(small(plain), separators=(",", ":"), ensure_ascii=False)
    texts = {
        "whole": json.dumps(plain, separators=(",", ":"), ensure_ascii=False),
        "small": one,
        "spaced": json.dumps(small(plain), indent=1),
        "future": one.replace('"schema":3', '"schema":4'),
        "bf16": one.replace("fp32", "bf16"),
        "future-number": '{"schema":4,"x":-1e999}',
        "twice": one.replace('"producer":', '"producer":"a","producer":', 1),
        "unknown": one.replace('"producer":', '"new":[{}],"producer":', 1),
        "float": one.replace('"layers":2', '"layers":2.0'),
        "huge": one.replace('"layers":2', '"layers":18446744073709551616'),
        "infinite": one.replace('"mean":1.0', '"mean":1e999', 1),
        "surrogate": one.replace("allrounder", "\\ud800", 1),
        "escapes": one.replace("allrounder", "\\u0000\\ud83d\\ude00\\/\\b", 1),
        "path": one.replace("graphs/vision.onnx", "../vision.onnx"),
        "plan": one.replace('"kept_layers":[0,1]', '"kept_layers":[1,0]'),
        "cut": one[: len(one) // 2],
        "deep": '{"schema":3,"x":' + "[" * 200,
        "nothing": "",
    }
    encoded = {name: text.encode() for name, text in texts.items()}
    encoded["not-utf8"] = encoded["small"].replace(b"allrounder", b"\xff\xc0\x80", 1)
    encoded["mark"] = b"\xef\xbb\xbf" + encoded["small"]
    encoded["zero"] = encoded["small"] + b"\0"
    return encoded


def keys(value: Any) -> set[str]:
    """Returns the keys of all objects in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*(keys(item) for item in value.values()))
    return set().union(*(keys(item) for item in value)) if isinstance(value, list) else set()


def main() -> None:
    """Writes them."""
    plain = json.loads(GOLDEN.read_bytes())
    corpus = HERE / "corpus/manifest_fuzz"
    corpus.mkdir(parents=True, exist_ok=True)
    for stale in corpus.glob("seed-*"):
        stale.unlink()
    for name, data in seeds(plain).items():
        (corpus / f"seed-{name}").write_bytes(data)
    words = sorted(key for key in keys(plain) if key.replace("_", "").isalnum())
    words += ["static", "dynamic", "fp32", "fp16", "bf16", "full"]
    texts = ("null", "true", "false", "1e999", "\\\\ud800")
    lines = [f'"\\"{word}\\""' for word in words] + [f'"{text}"' for text in texts]
    (HERE / "manifest_fuzz.dict").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
