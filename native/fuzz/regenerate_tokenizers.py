"""Writes the seeds of tokenizer_fuzz and its dictionary; nothing else writes seed-* there.

What it is: a tokenizer.json of each kind with a handful of tokens, some damaged ones, and texts that try the others.
Inputs that the fuzzer once found lie beside them under other names.

Run it as ``python native/fuzz/regenerate_tokenizers.py`` when the target or what it reads changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}},
}
TEXTS = {
    "plain": "what is the red object?",
    "contractions": "it's I'LL we'\u017f ''d",
    "digits": "1234567 ½ ٣٤",
    "spaces": "a  b \n\n \t c\u3000\u2028 ",
    "marks": "e\u0301 a\u0323\u0307 \u1100\u1161\u11a8 \u0344 q\u0345\u0301",
    "emoji": "👩\u200d👩\u200d👧 👍🏽",
    "specials": "<s><image><tool></s>a<tool>\u0301",
    "stops": "abbé\ufffd\ufffda",
}


def tokenizer(**parts: Any) -> dict[str, Any]:
    """Returns a small tokenizer.json with other parts."""
    added = [{"id": 3, "content": "<s>", "special": True}, {"id": 4, "content": "<t> ", "special": False}]
    flags = {"normalized": False, "lstrip": False, "rstrip": True, "single_word": False}
    whole: dict[str, Any] = {"version": "1.0", "added_tokens": [token | flags for token in added]}
    whole |= dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    model = {"type": "BPE", "unk_token": "b", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    return whole | {"model": model} | parts


def tokenizers() -> dict[str, str]:
    """Returns the seeds that are a tokenizer.json, by name."""
    steps = [{"type": "Prepend", "prepend": "▁"}, REPLACE, {"type": "NFC"}]
    decoding = [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoding.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    fallback = {"<0xC3>": 3, "<0xA9>": 4, "a": 0}
    made = {
        "bytes": tokenizer(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}, decoder=BYTES, post_processor=TEMPLATE
        ),
        "gpt2": tokenizer(pre_tokenizer=BYTES | {"add_prefix_space": True, "use_regex": True}),
        "legacy": tokenizer(
            normalizer={"type": "Sequence", "normalizers": steps}, decoder={"type": "Sequence", "decoders": decoding}
        ),
        "metaspace": tokenizer(pre_tokenizer=METASPACE, decoder=METASPACE),
        "fallback": tokenizer(
            added_tokens=[],
            model={"type": "BPE", "byte_fallback": True, "fuse_unk": True, "vocab": fallback, "merges": []},
        ),
        "merges": tokenizer(model={"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}),
        "processors": tokenizer(post_processor={"type": "Sequence", "processors": [BYTES, TEMPLATE]}),
        "unspoken": tokenizer(normalizer={"type": "NFKC"}),
        "twice": tokenizer(model={"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}),
        "no-merge": tokenizer(model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}),
        "no-unknown": tokenizer(
            model={"type": "BPE", "unk_token": "?", "vocab": {"a": 0}, "merges": []}, added_tokens=[]
        ),
    }
    texts = {name: json.dumps(each, separators=(",", ":"), ensure_ascii=False) for name, each in made.items()}
    return texts | {"cut": texts["bytes"][:400], "deep": '{"normalizer":' * 70, "nothing": ""}


def words(value: Any) -> set[str]:
    """Returns every key and every short text below a value."""
    if isinstance(value, dict):
        return {word for key, below in value.items() for word in {key} | words(below)}
    if isinstance(value, list):
        return {word for below in value for word in words(below)}
    return {value} if isinstance(value, str) and 0 < len(value) <= 24 else set()


def main() -> None:
    """Writes the files."""
    corpus = HERE / "corpus" / "tokenizer_fuzz"
    corpus.mkdir(parents=True, exist_ok=True)
    for old in corpus.glob("seed-*"):
        old.unlink()
    found: set[str] = {"ab", "<tool>", "<image>", "\u0301", "\u1100", "\u1161", "\u11a8", "\u3000", "👍"}
    for name, text in tokenizers().items():
        (corpus / f"seed-json-{name}").write_bytes(b"0" + text.encode())
        if name not in ("cut", "deep", "nothing"):
            found |= {json.dumps(word, ensure_ascii=False) for word in words(json.loads(text))}
    for name, text in TEXTS.items():
        for family in "123":
            (corpus / f"seed-text-{name}-{family}").write_bytes(family.encode() + text.encode())
    escaped = (
        "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\' else f"\\x{b:02X}" for b in w.encode()) for w in found
    )
    (HERE / "tokenizer_fuzz.dict").write_text(
        "\n".join(f'"{word}"' for word in sorted(escaped)) + "\n", encoding="ascii"
    )


if __name__ == "__main__":
    main()
