"""The contract in C++ and in Python, asked the same questions: same records, same refusals, same choice.

C++ answers through `contract_probe`, a program of its tests that takes JSON lines.
"""

import importlib.util
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from contract_asked import MANY, Answer, Probe, message, python
from hypothesis import given
from hypothesis import strategies as st
from manifest_strategies import keep_rules, machines, manifests
from native_bundles import POINTER, manifest_file, seal

from allrounder import tensors
from allrounder.consistency import check_manifest
from allrounder.engines.bundle import reader as bundles
from allrounder.fingerprint import Machine, machine
from allrounder.hashing import file_record
from allrounder.manifest import SCHEMA, Entry, Manifest, decode, encode
from allrounder.runtime.choice import LatencyTarget, by_faithfulness, choose, table

ROOT = Path(__file__).parents[2]
GOLDEN = (ROOT / "tests/golden/manifest.json").read_bytes()
HERE = Machine(cpu="here", cores=2, threads=2, backend="onnxruntime 1")


@cache
def golden_entries() -> tuple[Entry, ...]:
    return decode(GOLDEN, Manifest, where="golden").entries


@pytest.fixture(scope="module")
def probe(program):
    asked = Probe(program("contract_probe"))
    yield asked
    asked.close()


# ---- Manifests ----


def read(data: bytes) -> int:
    manifest = decode(data, Manifest, where="probe")
    check_manifest(manifest, where="probe")
    return len(manifest.entries)


def assert_read_alike(probe: Probe, data: bytes) -> Answer:
    wanted, got = python(lambda: read(data)), probe.ask("decode", hex=data.hex())
    same = wanted == got if wanted[0] == "ok" else wanted[0] == got[0]
    assert same, f"Python: {wanted}\nC++:    {got}\n{data[:3000]!r}"
    return got


def test_the_golden_manifest(probe):
    assert assert_read_alike(probe, GOLDEN) == ("ok", 3)
    assert assert_read_alike(probe, GOLDEN.replace(b'"precision": "fp32"', b'"precision": "bf16"')) == ("ok", 3)
    newer = GOLDEN.replace(b'"schema": %d' % SCHEMA, b'"schema": %d' % (SCHEMA + 1))
    assert assert_read_alike(probe, newer)[0] == "BundleFromFuture"


@MANY
@given(manifests)
def test_manifests_of_any_content(probe, manifest):
    assert_read_alike(probe, encode(manifest))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value, as keys from the root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


PLAIN = json.loads(GOLDEN)
PLACES = [place for place in places(PLAIN) if place]
TEXTS = (
    ["null", "true", "false", "[]", "{}", '""', '"x"', "[null]", '{"a":1}', "nan", "", "x", "[1,]", "[" * 2000]
    + [
        "0",
        "-0",
        "1",
        "2",
        "3",
        "-1",
        "1.0",
        "-0.0",
        "1e2",
        "1E+2",
        "1.5",
        "01",
        "1.",
        ".5",
        "1e999",
        "-1e999",
        "1e-999",
    ]
    + [str(2**bits + more) for bits in (31, 53, 62, 63, 64, 100) for more in (-1, 0, 1)]
    + ["9" * 308, "9" * 309, "9" * 500, "0." + "0" * 400 + "1", "1." + "0" * 400]
    + [
        '"\\ud800"',
        '"\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\q"',
        '"\x01"',
        '"\x7f"',
        '"é"',
        '"../x"',
        '"full"',
        '"fp16"',
        '"bf16"',
    ]
    + ['"' + "0" * 64 + '"', '"' + "0" * 64 + '\\n"', '"dynamic"', '"static"', '"graphs/vision.onnx"']
)


def put(place: tuple[Any, ...], text: str, key: str | None = None) -> bytes:
    """Returns the golden manifest with a JSON text at one place; with ``key`` instead beside it, under that key."""
    plain = json.loads(GOLDEN)
    inside = plain
    for step in place[:-1]:
        inside = inside[step]
    if key is None:
        inside[place[-1]] = "\x00"
    elif isinstance(inside, dict):
        inside[key + "\x00"] = "\x00"
    data = json.dumps(plain, ensure_ascii=False).replace('\\u0000":', '":')  # a key that stands twice
    return data.replace('"\\u0000"', text, 1).encode()


@MANY
@given(st.sampled_from(PLACES), st.sampled_from(TEXTS))
def test_any_value_at_any_place(probe, place, text):
    assert_read_alike(probe, put(place, text))


@MANY
@given(st.sampled_from(PLACES), st.sampled_from(TEXTS), st.sampled_from(["unknown", "", "schema", "keep", "sha256"]))
def test_any_key_beside_any_other_known_unknown_or_twice(probe, place, text, key):
    assert_read_alike(probe, put(place, text, key))


@MANY
@given(st.sampled_from(PLACES))
def test_any_key_or_element_left_out(probe, place):
    plain = json.loads(GOLDEN)
    inside = plain
    for step in place[:-1]:
        inside = inside[step]
    del inside[place[-1]]
    assert_read_alike(probe, json.dumps(plain).encode())


@MANY
@given(st.data())
def test_any_bytes_changed(probe, data):
    text = bytearray(json.dumps(PLAIN, ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 3))
        text[begin : begin + length] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"\xff", b"{", b'"', b",", b"\x00"])
        )
    assert_read_alike(probe, bytes(text))


FUTURE = [
    *(b'{"schema":%s}' % text.encode() for text in TEXTS if len(text) < 400),
    *(b'{"schema":%d,"x":%s}' % (schema, text.encode()) for text in TEXTS for schema in (2, 4)),
    *(b'{"x":%s,"schema":4}' % text.encode() for text in TEXTS),
    *(
        b'{"schema":4,"x":"\xff"}',
        b'{"\xff":1,"schema":4}',
        b'{"schema":"\xff"}',
        b'{"schema":4}\x00',
        b'{"schema":4} ',
    ),
    *(b'{"schema":3,"schema":4}', b'{"schema":4,"schema":3}', b'{"sch\\u0065ma":4}', b'[{"schema":4}]', b'{"schema":4'),
    *(b'\xef\xbb\xbf{"schema":4}', b'{"x":{"schema":4}}', b'{"schema":{"schema":4}}', b'{"schema":[4]}', b"", b"4"),
    b'{"schema":4,"x":' + b"[" * 300 + b"]" * 300 + b"}",
]


@pytest.mark.parametrize("data", FUTURE, ids=lambda data: ascii(data[:40]))
def test_the_schema_is_read_before_anything_else(probe, data):
    assert_read_alike(probe, data)


# ---- The choice ----

_milliseconds = st.integers(1, 60).map(float) | st.floats(0.01, 1e4) | st.sampled_from([1e-300, 1e300, 5e-324])


@st.composite
def chosen_from(draw) -> tuple[Entry, ...]:
    """Entries that differ in what the choice looks at, with many ties."""
    several = []
    for _ in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from(golden_entries()))
        fidelity, latency = draw(st.sampled_from([base.fidelity, None])), draw(st.sampled_from([base.latency, None]))
        if fidelity:
            kl = draw(st.sampled_from([-0.0, 0.0, 0.25, 0.5]) | st.floats(0, 1))
            fidelity = msgspec.structs.replace(fidelity, kl=msgspec.structs.replace(fidelity.kl, mean=kl))
        if latency:
            names = ("p50", "p95", "p99")
            ttft, tpot = ({name: draw(_milliseconds) for name in names} for _ in range(2))
            latency = msgspec.structs.replace(
                latency,
                ttft_ms=msgspec.structs.replace(latency.ttft_ms, **ttft),
                tpot_ms=msgspec.structs.replace(latency.tpot_ms, **tpot),
                machine=draw(st.sampled_from([HERE, latency.machine])),
            )
        changes = {
            "fidelity": fidelity,
            "latency": latency,
            "pruning": msgspec.structs.replace(
                base.pruning,
                version=draw(st.sampled_from(["full", "par-lite", "é" * 9])),
                keep=draw(keep_rules | st.sampled_from(["1", "144", "1/4", "9/2"])),
            ),
            "precision": draw(st.sampled_from(["fp32", "fp16", "bf16"])),
        }
        several.append(msgspec.structs.replace(base, **changes))
    return tuple(several)


_target = st.fixed_dictionaries(
    {
        "ttft_ms": st.none() | _milliseconds,
        "tpot_ms": st.none() | _milliseconds,
        "percentile": st.sampled_from([50, 95, 99]),
    }
)
_machine = st.deferred(lambda: st.sampled_from([None, HERE, golden_entries()[0].latency.machine]) | machines)


@MANY
@given(chosen_from())
def test_the_order_of_faithfulness(probe, several):
    assert probe.ask("order", entries=several) == ("ok", list(by_faithfulness(several)))


@MANY
@given(chosen_from(), st.none() | _target, _machine, st.booleans())
def test_the_choice(probe, several, target, here, fastest):
    def choice():
        wanted = LatencyTarget(**target) if target else None
        entry = choose(several, wanted, here, fallback="fastest" if fastest else None)
        return next(index for index, each in enumerate(several) if each is entry)

    wanted = python(choice)
    got = probe.ask("choose", entries=several, target=target, machine=here, fastest=fastest)
    assert got[0] == wanted[0]
    if wanted[0] == "ok":
        assert got[1] == wanted[1]
    elif wanted[0] == "NoEngineMeetsTarget":
        assert message(got) == message(wanted)


@MANY
@given(chosen_from(), _target.filter(lambda target: target["ttft_ms"] or target["tpot_ms"]), _machine)
def test_the_table(probe, several, target, here):
    wanted = table(several, LatencyTarget(**target), here)
    assert probe.ask("table", entries=several, target=target, machine=here) == ("ok", wanted)


@pytest.mark.parametrize("target", [{}, {"ttft_ms": 0}, {"tpot_ms": -1.5}, {"ttft_ms": 40, "percentile": 90}])
def test_impossible_targets(probe, target):
    got = probe.ask("choose", entries=golden_entries(), target=target, machine=None)
    assert got[0] == python(lambda: LatencyTarget(**target))[0] == "InputInvalid"


# ---- Machines, bundles ----


def test_this_machine_has_one_fingerprint(probe):
    wanted = msgspec.to_builtins(machine(backend="onnxruntime 1.31.1"))
    assert probe.ask("machine", backend="onnxruntime 1.31.1", threads=0) == ("ok", wanted)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """The golden manifest over files that hold their own names."""
    folder = tmp_path / "bundle"
    manifest = decode(GOLDEN, Manifest, where="golden")
    for path in manifest.files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    files = {path: file_record(folder / path) for path in manifest.files}
    (folder / POINTER).touch()
    seal(folder, encode(msgspec.structs.replace(manifest, files=files)))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own: Python hashes every file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_bundle_is_opened_alike_however_it_is_reached(probe, bundle, tmp_path):
    named = bundle.rename(bundle.with_name('é "\\ \U0001f600'))
    (tmp_path / "link").symlink_to(named)
    for path in (named, tmp_path / "link", f"{tmp_path}/link/../{named.name}/"):
        opened = bundles.open_bundle(path)
        wanted = {"digest": manifest_file(named).stem.removeprefix("manifest-"), "path": str(opened.path)}
        assert probe.ask("open", path=str(path)) == ("ok", wanted)


GRAPH = "graphs/vision.onnx"
DAMAGES = {
    "none": lambda bundle: None,
    "extra": lambda bundle: (bundle / "extra").touch(),
    "link": lambda bundle: (bundle / "link").symlink_to("/nowhere"),
    "fifo": lambda bundle: os.mkfifo(bundle / "fifo"),
    "fifo manifest": lambda bundle: replaced(manifest_file(bundle), os.mkfifo),
    "fifo pointer": lambda bundle: replaced(bundle / POINTER, os.mkfifo),
    "no manifest": lambda bundle: manifest_file(bundle).unlink(),
    "no pointer": lambda bundle: (bundle / POINTER).unlink(),
    "changed manifest": lambda bundle: manifest_file(bundle).write_bytes(GOLDEN),
    "circle": lambda bundle: replaced(bundle / POINTER, lambda path: path.symlink_to(POINTER)),
    "linked file": lambda bundle: replaced(bundle / GRAPH, lambda path: path.symlink_to("vision")),
    "linked folder": lambda bundle: (
        (bundle / "graphs").rename(bundle / "real"),
        (bundle / "graphs").symlink_to("real"),
    ),
    "folder": lambda bundle: replaced(bundle / GRAPH, Path.mkdir),
    "missing": lambda bundle: (bundle / GRAPH).unlink(),
    "cut": lambda bundle: (bundle / GRAPH).write_text(GRAPH[:-1]),
    "gone": lambda bundle: bundle.rename(bundle.with_name("elsewhere")),
    "a file": lambda bundle: (bundle.rename(bundle.with_name("elsewhere")), bundle.touch()),
}


def replaced(path: Path, make: Any) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_bundle_is_the_same_error(probe, bundle, damage):
    damage(bundle)
    wanted, got = python(lambda: bundles.open_bundle(bundle)), probe.ask("open", path=str(bundle))
    assert got[0] == wanted[0], (wanted, got)


def test_the_fuzzers_seeds_are_of_the_golden_manifest():
    spec = importlib.util.spec_from_file_location("regenerate_manifests", ROOT / "native/fuzz/regenerate_manifests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = ROOT / "native/fuzz/corpus/manifest_fuzz"
    assert {path.name: path.read_bytes() for path in folder.glob("seed-*")} == {
        f"seed-{name}": data for name, data in module.seeds(json.loads(module.GOLDEN.read_bytes())).items()
    }


def test_the_names_of_tensors_are_those_of_the_contract():
    header = (ROOT / "native/src/contract/tensors.hpp").read_text()
    written = dict(re.findall(r'k(\w+) = "([^"]*)"', header))
    plain = {name: value for name, value in vars(tensors).items() if name in tensors.__all__ and "{" not in value}
    assert written == {"".join(part.title() for part in name.split("_")): value for name, value in plain.items()} | {
        "CachePrefix": "cache_",
        "CacheOutSuffix": "_out",
    }
    assert tensors.CACHE_KEY_OUT == "cache_key_out.{layer}"
