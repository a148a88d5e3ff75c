"""The contract in C++ and in Python, asked the same questions: same records, same refusals, same choice, same stamps.

C++ answers through `contract_probe`, a program of its tests that takes JSON lines.
"""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_strategies import entries, machines, manifests

from allrounder import bundle as bundles
from allrounder import errors, stamps, tensors
from allrounder.consistency import check_manifest
from allrounder.fingerprint import Machine, machine
from allrounder.hashing import file_record
from allrounder.manifest import Entry, Manifest, decode, encode
from allrounder.runtime.choice import LatencyTarget, by_faithfulness, choose, table

ROOT = Path(__file__).parents[2]
GOLDEN = (ROOT / "tests/golden/manifest.json").read_bytes()
BF16 = (ROOT / "tests/golden/manifest-bf16.json").read_bytes()
GOLDEN_ENTRIES = decode(GOLDEN, Manifest, where="golden").entries
HERE = Machine(cpu="here", cores=2, threads=2, backend="onnxruntime 1")
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
Answer = tuple[str, object]  # "ok" and what was said, or an error's name and its message


class Probe:
    """The program and its two pipes."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op: str, **question: object) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode({"op": op, **question}) + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return ("ok", answer["ok"]) if "ok" in answer else (answer["error"], answer["message"])

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def probe(program):
    asked = Probe(program("contract_probe"))
    yield asked
    asked.close()


@pytest.fixture
def cpp(program, tmp_path, monkeypatch):
    """A probe that was started within this test's own environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = Probe(program("contract_probe"))
    yield asked
    asked.close()


def python(call: Any) -> Answer:
    try:
        return "ok", call()
    except errors.AllRounderError as error:
        return type(error).__name__, str(error)


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
    assert assert_read_alike(probe, BF16) == ("ok", 2)
    assert assert_read_alike(probe, BF16.replace(b'"schema": 2', b'"schema": 1'))[0] == "BundleCorrupt"


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
    + ['"' + "0" * 64 + '"', '"' + "0" * 64 + '\\n"', '"routed"', '"frozen"', '"graphs/vision.onnx"']
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
@given(st.sampled_from(PLACES), st.sampled_from(TEXTS), st.sampled_from(["unknown", "", "schema", "tokens", "sha256"]))
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
    *(b'{"schema":3,"x":%s}' % text.encode() for text in TEXTS),
    *(b'{"x":%s,"schema":3}' % text.encode() for text in TEXTS),
    *(
        b'{"schema":2,"x":"\xff"}',
        b'{"\xff":1,"schema":2}',
        b'{"schema":"\xff"}',
        b'{"schema":2}\x00',
        b'{"schema":2} ',
    ),
    *(b'{"schema":1,"schema":2}', b'{"schema":2,"schema":1}', b'{"sch\\u0065ma":2}', b'[{"schema":2}]', b'{"schema":2'),
    *(b'\xef\xbb\xbf{"schema":2}', b'{"x":{"schema":2}}', b'{"schema":{"schema":2}}', b'{"schema":[2]}', b"", b"2"),
    b'{"schema":3,"x":' + b"[" * 300 + b"]" * 300 + b"}",
]


@pytest.mark.parametrize("data", FUTURE, ids=lambda data: ascii(data[:40]))
def test_the_schema_is_read_before_anything_else(probe, data):
    assert_read_alike(probe, data)


@MANY
@given(st.lists(entries, max_size=3))
def test_entries_are_written_alike(probe, several):
    texts = [msgspec.json.encode(entry, order="deterministic").decode() for entry in several]
    assert probe.ask("encode_entries", json=f"[{','.join(texts)}]") == ("ok", texts)


# ---- The choice ----

_milliseconds = st.integers(1, 60).map(float) | st.floats(0.01, 1e4) | st.sampled_from([1e-300, 1e300, 5e-324])


@st.composite
def chosen_from(draw) -> tuple[Entry, ...]:
    """Entries that differ in what the choice looks at, with many ties."""
    several = []
    for _ in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from(GOLDEN_ENTRIES))
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
            "version": draw(st.sampled_from(["full", "par-lite", "é" * 9])),
        }
        changes |= {
            "precision": draw(st.sampled_from(["fp32", "fp16", "bf16"])),
            "tokens": draw(st.integers(1, 576) | st.just(2**62)),
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
_machine = st.sampled_from([None, HERE, GOLDEN_ENTRIES[0].latency.machine]) | machines


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


def message(refusal: Answer) -> str:
    """A refusal without its remedy, which speaks of each language's own arguments."""
    return str(refusal[1]).partition("; remedy:")[0]


@MANY
@given(chosen_from(), _target.filter(lambda target: target["ttft_ms"] or target["tpot_ms"]), _machine)
def test_the_table(probe, several, target, here):
    wanted = table(several, LatencyTarget(**target), here)
    assert probe.ask("table", entries=several, target=target, machine=here) == ("ok", wanted)


@pytest.mark.parametrize("target", [{}, {"ttft_ms": 0}, {"tpot_ms": -1.5}, {"ttft_ms": 40, "percentile": 90}])
def test_impossible_targets(probe, target):
    got = probe.ask("choose", entries=GOLDEN_ENTRIES, target=target, machine=None)
    assert got[0] == python(lambda: LatencyTarget(**target))[0] == "InputInvalid"


# ---- Machines, bundles, stamps ----


def test_this_machine_has_one_fingerprint(probe):
    wanted = msgspec.json.encode(machine(backend="onnxruntime 1.31.1")).decode()
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
    data = encode(msgspec.structs.replace(manifest, files=files))
    (folder / bundles.MANIFEST).write_bytes(data)
    (folder / bundles.DIGEST).write_text(bundles.digest_of(data))
    return folder


@pytest.fixture
def hashed(monkeypatch) -> list[set[str]]:
    """What Python hashed, opening by opening; files settle at once."""
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)
    calls: list[set[str]] = []
    verify_files = bundles.verify_files

    def verify(root, files, *rest):
        calls.append(set(files))
        return verify_files(root, files, *rest)

    monkeypatch.setattr(bundles, "verify_files", verify)
    return calls


def opened(cpp: Probe, bundle: Path | str) -> dict[str, Any]:
    status, answer = cpp.ask("open", path=str(bundle))
    assert status == "ok", answer
    assert isinstance(answer, dict)
    return answer


def test_what_python_has_hashed_cpp_does_not_hash_again(cpp, bundle, hashed):
    digest = bundles.open_bundle(bundle).digest
    assert len(hashed) == 1
    assert opened(cpp, bundle) == {"digest": digest, "hashed": 0, "logged": "", "path": str(bundle)}
    (bundle / "graphs/vision.onnx").touch()
    assert opened(cpp, bundle)["hashed"] == 1


def test_what_cpp_has_hashed_python_does_not_hash_again(cpp, bundle, hashed):
    while opened(cpp, bundle)["hashed"]:  # files of this very moment are not stamped
        pass
    bundles.open_bundle(bundle)
    assert hashed == []
    (bundle / "graphs/vision.onnx").touch()
    bundles.open_bundle(bundle)
    assert hashed == [{"graphs/vision.onnx"}]


def test_a_path_that_is_text_of_any_language(cpp, bundle, hashed):
    named = bundle.rename(bundle.with_name('é "\\ \U0001f600'))
    bundles.open_bundle(named)
    assert opened(cpp, named)["hashed"] == 0


def test_reached_by_a_link_it_is_the_same_bundle(cpp, bundle, hashed, tmp_path):
    bundles.open_bundle(bundle)
    (tmp_path / "link").symlink_to(bundle)
    assert opened(cpp, tmp_path / "link")["hashed"] == 0
    assert opened(cpp, f"{tmp_path}/link/../bundle/")["hashed"] == 0


def test_without_a_writable_cache_both_say_that_they_hash_each_time(cpp, bundle, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file, so that nothing can be made below it")
    for _ in range(2):
        answer = opened(cpp, bundle)
        assert answer["hashed"] == 1
        assert "is hashed at every load" in answer["logged"]


DAMAGES = {
    "none": lambda bundle: None,
    "extra": lambda bundle: (bundle / "extra").touch(),
    "link": lambda bundle: (bundle / "link").symlink_to("/nowhere"),
    "fifo": lambda bundle: os.mkfifo(bundle / "fifo"),
    "fifo manifest": lambda bundle: ((bundle / bundles.MANIFEST).unlink(), os.mkfifo(bundle / bundles.MANIFEST)),
    "no manifest": lambda bundle: (bundle / bundles.MANIFEST).unlink(),
    "no digest": lambda bundle: (bundle / bundles.DIGEST).unlink(),
    "long digest": lambda bundle: (bundle / bundles.DIGEST).write_bytes(b"0" * 66),
    "circle": lambda bundle: ((bundle / bundles.DIGEST).unlink(), (bundle / bundles.DIGEST).symlink_to(bundles.DIGEST)),
    "missing": lambda bundle: (bundle / "graphs/vision.onnx").unlink(),
    "changed": lambda bundle: (bundle / "graphs/vision.onnx").write_text("Graphs/vision.onnx"),
    "journal": lambda bundle: (bundle / bundles.JOURNAL).write_bytes(b"0" * 64 + b"\nextra\n"),
    "damaged journal": lambda bundle: (bundle / bundles.JOURNAL).write_bytes(b"0" * 64),
    "gone": lambda bundle: bundle.rename(bundle.with_name("elsewhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_bundle_is_the_same_error(cpp, bundle, damage):
    damage(bundle)
    wanted, got = python(lambda: bundles.open_bundle(bundle).digest), cpp.ask("open", path=str(bundle))
    assert got[0] == wanted[0], (wanted, got)


def test_the_fuzzers_seeds_are_of_the_golden_manifest():
    spec = importlib.util.spec_from_file_location("regenerate_manifests", ROOT / "native/fuzz/regenerate_manifests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = ROOT / "native/fuzz/corpus/manifest_fuzz"
    assert {path.name: path.read_bytes() for path in folder.glob("seed-*")} == {
        f"seed-{name}": data for name, data in module.seeds(json.loads(GOLDEN)).items()
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
