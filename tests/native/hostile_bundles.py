"""Damages of a bundle, by name: each a function of the folder that holds a copy of it.

What it is: the list of tests/engines/test_bundle_reader.py, and what a reader written in C++ has to fear besides: JSON
that is none, nesting, huge numbers, invalid UTF-8, tokenizers and graphs that are not what they seem.
What it knows: the files of a bundle. What it does not know: which error is the right one (the tests ask Python).

A damage that is `sealed` has its digests made to fit, so that it gets past the hashes to the reader behind them.
"""

import hashlib
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from native_bundles import POINTER, manifest_file, seal

from allrounder.golden import TOKENIZER

Damage = Callable[[Path], object]


def edit(bundle: Path, change: Callable[[Any], object]) -> None:
    """Changes the manifest as JSON, and seals it."""
    plain = json.loads(manifest_file(bundle).read_bytes())
    change(plain)
    seal(bundle, json.dumps(plain).encode("utf-8", "surrogatepass"))


def replace(bundle: Path, path: str, data: bytes) -> None:
    """Replaces a file's content, and seals its new digest."""
    (bundle / path).write_bytes(data)
    record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(bundle, lambda plain: plain["files"].update({path: record}))


def files(bundle: Path) -> list[str]:
    return sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())


def graph(bundle: Path, kind: str) -> str:
    """Returns the path of the graph of the last entry, the pruned one."""
    return json.loads(manifest_file(bundle).read_bytes())["entries"][-1]["graphs"][kind]


def in_files(bundle: Path) -> Iterator[tuple[str, Damage]]:
    """Damages of every file of a bundle, with nothing sealed, that show without hashing the listed ones."""
    for name in (POINTER, manifest_file(bundle).name):
        yield from _flips(bundle, name)
    for name in files(bundle):
        yield f"{name} cut", lambda b, n=name: (b / n).write_bytes((b / n).read_bytes()[:-2])
        yield f"{name} empty", lambda b, n=name: (b / n).write_bytes(b"")
        yield f"{name} prolonged", lambda b, n=name: (b / n).write_bytes((b / n).read_bytes() + b"xy")
        yield f"{name} missing", lambda b, n=name: (b / n).unlink()
        yield f"{name} a folder", lambda b, n=name: ((b / n).unlink(), (b / n).mkdir())
        yield f"{name} a link", partial(_link, name=name)
        yield f"{name} a link to itself", lambda b, n=name: ((b / n).unlink(), (b / n).symlink_to(b / n))


def in_listed_bytes(bundle: Path) -> Iterator[tuple[str, Damage]]:
    """Single bytes of listed files changed, with nothing sealed: who does not hash them does not see it."""
    for name in files(bundle):
        if name not in (POINTER, manifest_file(bundle).name):
            yield from _flips(bundle, name)


def _flips(bundle: Path, name: str) -> Iterator[tuple[str, Damage]]:
    size = (bundle / name).stat().st_size
    for place in sorted({0, size // 2, size - 2}):
        yield f"byte {place} of {name}", partial(_flip, name=name, place=place)


def _flip(bundle: Path, name: str, place: int) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[place] ^= 1
    (bundle / name).write_bytes(data)


def _link(bundle: Path, name: str) -> None:
    away = bundle.parent / "away"
    (bundle / name).rename(away)
    (bundle / name).symlink_to(away)


def beside_files() -> dict[str, Damage]:
    """What may lie in a bundle beside its files, and in place of some; pointers that are none."""
    names = ["extra.txt", "graphs/extra.onnx", "graphs/weights/.hidden", "new/folder/x", "\nodd", "caf\xe9", "\x7f"]
    return {
        **{f"unlisted {name!a}": partial(_unlisted, name=name) for name in names},
        "unlisted bytes that are no UTF-8": lambda b: os.close(os.open(os.fsencode(b) + b"/\xff\xfe", os.O_CREAT)),
        "a link beside": lambda b: (b / "link").symlink_to("/nowhere"),
        "a folder's link": lambda b: (b / "loop").symlink_to(b),
        "a fifo": lambda b: os.mkfifo(b / "fifo"),
        "a fifo for a graph": lambda b: _fifo(b, graph(b, "decoder")),
        "a fifo for the manifest": lambda b: _fifo(b, manifest_file(b).name),
        **{f"a fifo for {name}": partial(_fifo, name=name) for name in (TOKENIZER, POINTER)},
        "a socket": _socket,
        "no bundle": lambda b: [(b / name).unlink() for name in files(b)],
        "a deep folder": _deep,
        **{f"the pointer {name}": partial(_point, make=make) for name, make in POINTERS.items()},
        "the pointer names what is not there": lambda b: manifest_file(b).unlink(),
    }


def _named(change: Callable[[str], object]) -> Callable[[str], bytes]:
    return lambda name: json.dumps({"manifest": change(name)}).encode()


# By what becomes of it: from the manifest's name to the pointer's bytes.
POINTERS: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _: b"",
    "nonsense": lambda _: b"nonsense",
    "no UTF-8": lambda name: b'{"manifest": "\xff%s"}' % name.encode(),
    "NUL": lambda name: _named(str)(name) + b"\x00",
    "brackets": lambda _: b"[" * 100_000,
    "the name alone": lambda name: json.dumps(name).encode(),
    "a list": lambda name: json.dumps([name]).encode(),
    "no key": lambda _: b"{}",
    "another key": lambda name: json.dumps({"Manifest": name}).encode(),
    "a key more": lambda name: json.dumps({"manifest": name, "more": 1}).encode(),
    "a number": _named(lambda _: 1),
    "null": _named(lambda _: None),
    "upper case": _named(str.upper),
    "the digest alone": _named(lambda name: name[9:73]),
    "a short digest": _named(lambda name: name.replace(name[9], "", 1)),
    "a path": _named(lambda name: f"./{name}"),
    "leaves the bundle": _named(lambda name: f"../{name}"),
    "absolute": _named(lambda name: f"/{name}"),
    "a line end": _named(lambda name: f"{name}\n"),
    "a megabyte": _named(lambda name: name * 10_000),
    "spaced": lambda name: b' {\n"manifest" : %s }\n' % json.dumps(name).encode(),
}


def _point(bundle: Path, make: Callable[[str], bytes]) -> None:
    (bundle / POINTER).write_bytes(make(manifest_file(bundle).name))


def _unlisted(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")


def _fifo(bundle: Path, name: str) -> None:
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)


def _socket(bundle: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        handle = os.open(bundle, os.O_RDONLY)  # the path itself may be too long for a socket
        server.bind(f"/proc/self/fd/{handle}/socket")
        os.close(handle)


def _deep(bundle: Path) -> None:
    """Folders, one in the other, until the path is longer than the system takes at once."""
    here = os.open(bundle, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("x" * 100, dir_fd=here)
        deeper = os.open("x" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)


def _many(plain: dict[str, Any]) -> None:
    entry = plain["entries"][1]
    plain["entries"] += [
        entry | {"pruning": entry["pruning"] | {"version": f"t{number % 16 + 1}-l6"}, "backend": str(number)}
        for number in range(2000)
    ]


def in_manifest() -> dict[str, Damage]:
    """Manifests that are JSON of the right shape, and say what cannot be; sealed."""
    paths = ["../outside", "graphs/../../x", "..", "/etc/passwd", "\\\\server\\share", "C:/windows", "graphs\\x", "./x"]
    paths += [
        "graphs//x",
        "graphs/",
        "",
        ".",
        ".hidden",
        "a\x00b",
        "a\nb",
        "caf\xe9",
        "x" * 300,
        "/".join(["x" * 100] * 12),
    ]
    changes: dict[str, Callable[[Any], object]] = {
        "no entry": lambda p: p.update(entries=[]),
        "an entry twice": lambda p: p["entries"].append(p["entries"][0]),
        "two thousand entries": _many,
        "a keep rule that is none": lambda p: p["entries"][1]["pruning"].update(keep="0"),
        "more than everything": lambda p: p["entries"][1]["pruning"].update(keep="3/2"),
        "a keep rule of large numbers": lambda p: p["entries"][1]["pruning"].update(keep="999999999/9999999999"),
        "more layers than there are": lambda p: p["entries"][1]["pruning"].update(layers=2**62),
        "a prune layer beyond the layers": lambda p: p["entries"][1]["pruning"].update(prune_layer=2**62),
        "a list of a million layers": lambda p: p["entries"][0]["pruning"].update(kept_layers=[*range(1_000_000)]),
        "a list that falls": lambda p: p["entries"][0]["pruning"]["kept_layers"].reverse(),
        "a list of large layers": lambda p: p["entries"][0]["pruning"].update(kept_layers=[2**62] * 8),
        "no list": lambda p: p["entries"][0]["pruning"].update(kept_layers=None),
        "a graph that is not listed": lambda p: p["entries"][1]["graphs"].update(decoder="graphs/none.onnx"),
        "a graph that is the tokenizer": lambda p: p["entries"][1]["graphs"].update(decoder=TOKENIZER),
        "no router": lambda p: p["entries"][1]["graphs"].update(router=None),
        "another backend": lambda p: [entry.update(backend="abacus") for entry in p["entries"]],
        "no tokenizer": lambda p: p["files"].pop(TOKENIZER),
        "negative bytes": lambda p: p["files"][TOKENIZER].update(bytes=-1),
        "many bytes": lambda p: p["files"][TOKENIZER].update(bytes=2**62),
        "upper-case digests": lambda p: p["files"][TOKENIZER].update(sha256=p["files"][TOKENIZER]["sha256"].upper()),
        "it lists itself": lambda p: p["files"].update({POINTER: {"sha256": "0" * 64, "bytes": 1}}),
        "no files": lambda p: p.update(files={}),
        "stop ids beyond the vocabulary": lambda p: p["model"].update(stop_ids=[2**62]),
        "a small vocabulary": lambda p: p["model"].update(vocabulary=1),
        "a large vocabulary": lambda p: p["model"].update(vocabulary=2**40),
        "more image tokens": lambda p: p["model"]["images"].update(tokens=17),
        "many image tokens": lambda p: p["model"]["images"].update(tokens=2**62),
        "more layers": lambda p: p["model"].update(layers=9),
        "an image of no size": lambda p: p["model"]["images"].update(size=2**62),
        "no limits to speak of": lambda p: p.update(limits=dict.fromkeys(p["limits"], 2**63 - 1)),
        "limits of one": lambda p: p["limits"].update(text_tokens=1, new_tokens=1, batch=1),
        "no positions": lambda p: p["model"].update(max_positions=1),
        "many positions": lambda p: p["model"].update(max_positions=2**62),
        "another placeholder": lambda p: p["model"].update(image_token_id=5),
        "a placeholder beyond all": lambda p: p["model"].update(image_token_id=2**62),
        "another image token": lambda p: p["chat"].update(image_token="<pad>"),
        "an image token that is none": lambda p: p["chat"].update(image_token="<nothing>"),
        "a chat of a lone surrogate": lambda p: p["chat"].update(image_token="\ud800"),
        "literals that are none": lambda p: p["chat"].update(literals=1),
        "literals without roles": lambda p: p["chat"]["literals"].pop("roles"),
        "a role of numbers": lambda p: p["chat"]["literals"]["roles"]["user"].update(before_text=7),
    }
    renames = {f"a path {path[:30]!a}": partial(_rename, path=path) for path in paths}
    return {name: partial(edit, change=change) for name, change in changes.items()} | renames


def _rename(bundle: Path, path: str) -> None:
    old = graph(bundle, "decoder")
    (bundle.parent / "outside").write_bytes((bundle / old).read_bytes())

    def change(plain: Any) -> None:
        plain["files"][path] = plain["files"].pop(old)
        plain["entries"][1]["graphs"]["decoder"] = path

    edit(bundle, change)


def in_graphs(bundle: Path) -> dict[str, Damage]:
    """Graphs that are none, cut, or in each other's place, and weights that are short; sealed."""
    kinds = ("vision", "router", "decoder")
    damages: dict[str, Damage] = {}
    for kind in kinds:
        path = graph(bundle, kind)
        data = (bundle / path).read_bytes()
        noise = random.Random(kind).randbytes(5000)  # the same noise each time
        cuts = {"empty": b"", "one byte": data[:1], "halved": data[: len(data) // 2], "cut": data[:-1], "noise": noise}
        for what, text in cuts.items():
            damages[f"{kind} {what}"] = partial(replace, path=path, data=text)
        for other in kinds:
            if other != kind:
                damages[f"{other} for {kind}"] = partial(_exchange, kind=kind, other=other)
    damages["the decoder of full"] = _decoder_of_full
    for path in files(bundle):
        if path.endswith(".bin"):
            size = (bundle / path).stat().st_size
            for what, length in (("empty", 0), ("halved", size // 2), ("short", size - 4096)):
                damages[f"{path} {what}"] = lambda b, p=path, n=length: replace(b, p, (b / p).read_bytes()[:n])
    return damages


def flipped_graphs(bundle: Path, count: int, seed: int) -> Iterator[tuple[str, Damage]]:
    """Gives graphs with a few bytes of their structure changed; sealed."""
    draw = random.Random(seed)  # the same flips each time
    for number in range(count):
        path = graph(bundle, draw.choice(("vision", "router", "decoder")))
        data = bytearray((bundle / path).read_bytes())
        for _ in range(draw.choice((1, 1, 3, 20))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        yield f"{number} in {path}", partial(replace, path=path, data=bytes(data))


def _exchange(bundle: Path, kind: str, other: str) -> None:
    def change(plain: Any) -> None:
        graphs = plain["entries"][1]["graphs"]
        graphs[kind] = graphs[other]

    edit(bundle, change)


def _decoder_of_full(bundle: Path) -> None:
    edit(bundle, lambda p: p["entries"][1]["graphs"].update(decoder=p["entries"][0]["graphs"]["decoder"]))
