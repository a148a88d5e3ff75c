"""Damages of what makes ids of texts, by name: tokenizer, golden prompts, literals of the chat template."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hostile_bundles import Damage, edit, replace

from allrounder.golden import GOLDEN, TOKENIZER


def in_literals() -> dict[str, Damage]:
    """Literal strings of the chat template that are others than the template's, which Python alone reads; sealed."""
    changes: dict[str, Callable[[Any], object]] = {
        "none": lambda c: c.update(literals=None),
        "no roles": lambda c: c["literals"].update(roles={}),
        "a long one": lambda c: c["literals"].update(generation="x " * 200_000),
        "control tokens": lambda c: c["literals"]["roles"]["user"].update(before_image="<image>" * 1000),
        "an image token in a text's": lambda c: c["literals"]["roles"]["user"].update(text_text="<image>"),
        "images first": lambda c: c["literals"].update(images_first=True),
        "nothing": lambda c: c["literals"].update(generation="", roles={"user": dict.fromkeys(_user(c), "")}),
    }
    return {name: partial(edit, change=lambda p, c=change: c(p["chat"])) for name, change in changes.items()}


def _user(chat: Any) -> dict[str, str]:
    return chat["literals"]["roles"]["user"]


def _tokenizer(change: Callable[[Any], object]) -> Damage:
    def damage(bundle: Path) -> None:
        plain = json.loads((bundle / TOKENIZER).read_bytes())
        change(plain)
        replace(bundle, TOKENIZER, json.dumps(plain).encode("utf-8", "surrogatepass"))

    return damage


def in_tokenizer() -> dict[str, Damage]:
    """Tokenizers that are none, or none that can be; sealed."""
    texts = {
        "empty": b"",
        "not JSON": b"not JSON",
        "an array": b"[]",
        "an empty object": b"{}",
        "brackets": b"[" * 100_000,
        "objects": b'{"model":' * 50_000,
        "no UTF-8": b'{"model": "\xff"}',
        "NULs": b"\x00" * 1000,
    }
    changes: dict[str, Callable[[Any], object]] = {
        "no model": lambda t: t.pop("model"),
        "a model that is null": lambda t: t.update(model=None),
        "another model": lambda t: t["model"].update(type="Unigram"),
        "no vocabulary": lambda t: t["model"].update(vocab={}),
        "a vocabulary that is a list": lambda t: t["model"].update(vocab=[["a", 0.5]]),
        "negative ids": lambda t: t["model"]["vocab"].update(zz=-1),
        "ids beyond 32 bits": lambda t: t["model"]["vocab"].update(zz=2**32),
        "ids beyond 64 bits": lambda t: t["model"]["vocab"].update(zz=2**64),
        "ids far apart": lambda t: t["model"]["vocab"].update(zz=2**31 - 1),
        "ids twice": lambda t: t["model"]["vocab"].update(zz=7),
        "merges of unknown pieces": lambda t: t["model"]["merges"].append("zz yy"),
        "merges of three": lambda t: t["model"]["merges"].append("a b c"),
        "merges of nothing": lambda t: t["model"]["merges"].append(""),
        "merges that are numbers": lambda t: t["model"].update(merges=[1, 2]),
        "merges that are lists": lambda t: t["model"].update(merges=[["a"], ["a", "b", "c"], []]),
        "merges that are null": lambda t: t["model"].update(merges=None),
        "dropout": lambda t: t["model"].update(dropout=0.5),
        "another normalizer": lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "a nest of normalizers": lambda t: t.update(normalizer=_nest({"type": "NFC"}, 200)),
        "another split": lambda t: t.update(pre_tokenizer=_split("(" * 1000)),
        "a split that never ends": lambda t: t.update(pre_tokenizer=_split("(a*)*b")),
        "no pre-tokenizer": lambda t: t.update(pre_tokenizer=None),
        "no decoder": lambda t: t.update(decoder=None),
        "another decoder": lambda t: t.update(decoder={"type": "CTC"}),
        "no added tokens": lambda t: t.update(added_tokens=[]),
        "added tokens that are null": lambda t: t.update(added_tokens=None),
        "an added token of nothing": lambda t: t["added_tokens"][0].update(content=""),
        "an added token that is far": lambda t: t["added_tokens"][0].update(id=2**31),
        "an added token below zero": lambda t: t["added_tokens"][0].update(id=-5),
        "a thousand added tokens": lambda t: t["added_tokens"].extend(
            {**t["added_tokens"][0], "id": 1000 + n, "content": "a" * (n + 1)} for n in range(1000)
        ),
        "a lone surrogate": lambda t: t["added_tokens"][0].update(content="\ud800"),
        "a post-processor of unknown tokens": lambda t: t.update(post_processor=_UNKNOWN),
        "a post-processor that is text": lambda t: t.update(post_processor="x"),
    }
    named = {name: partial(replace, path=TOKENIZER, data=data) for name, data in texts.items()}
    return named | {name: _tokenizer(change) for name, change in changes.items()}


_UNKNOWN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _nest(value: dict[str, Any], depth: int) -> dict[str, Any]:
    for _ in range(depth):
        value = {"type": "Sequence", "normalizers": [value]}
    return value


def in_golden(data: bytes) -> dict[str, Damage]:
    """Golden prompts that are none, or do not fit; sealed."""
    first, rest = data.split(b"\n", 1)
    line = json.loads(first)
    texts = {
        "empty": b"",
        "not JSON": b"not JSON\n",
        "no UTF-8": b"\xff\xfe\n" + data,
        "brackets": b"[" * 100_000 + b"\n",
        "cut": data[: len(data) // 2],
        "without the last line end": data.rstrip(b"\n"),
        "blank lines": b"\n\n" + data,
        "other ids": _line(line, rest, input_ids=[1, 2, 3]),
        "huge ids": _line(line, rest, input_ids=[2**63]),
        "ids that are text": _line(line, rest, input_ids=["1"]),
        "no messages": _line({key: line[key] for key in line if key != "messages"}, rest),
        "an empty conversation": _line(line, rest, messages=[]),
        "a message that is none": _line(line, rest, messages=[1]),
        "another role": _line(line, rest, messages=_turn("x", role="robot")),
        "a part that is none": _line(line, rest, messages=[{"role": "user", "content": [{"type": "audio"}]}]),
        "a long question": _line(line, rest, messages=_turn("long " * 100_000)),
        "an unknown key": _line(line, rest, new=1),
        "a lone surrogate": _line(line, rest, messages=_turn("\ud800")),
    }
    return {name: partial(replace, path=GOLDEN, data=text) for name, text in texts.items()}


def _turn(text: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text}]}]


def _line(line: dict[str, Any], rest: bytes, **changes: Any) -> bytes:
    return json.dumps(line | changes).encode() + b"\n" + rest
