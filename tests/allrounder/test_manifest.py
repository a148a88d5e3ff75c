"""The manifest: byte-for-byte round trips, the golden files, and everything that is refused."""

import importlib.util
import json
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_strategies import frozens, manifests, texts

from allrounder.consistency import check_frozen, check_manifest
from allrounder.errors import BundleCorrupt, BundleFromFuture
from allrounder.manifest import (
    Estimate,
    Frozen,
    Limits,
    Manifest,
    SharedGraphs,
    decode,
    encode,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@given(manifests | frozens)
def test_documents_come_back_byte_for_byte(document):
    data = encode(document)
    again = decode(data, type(document), where="test")
    assert again == document
    assert encode(again) == data
    assert json.loads(data)["schema"] == document.schema


@given(manifests)
def test_equal_documents_give_equal_bytes(document):
    reordered = msgspec.structs.replace(document, files=dict(reversed(document.files.items())))
    assert encode(reordered) == encode(document)


@given(st.binary(max_size=60) | texts.map(str.encode) | st.from_regex(r'\{"schema":.{0,20}\}').map(str.encode))
def test_noise_is_refused_with_an_error_of_ours(data):
    with pytest.raises((BundleCorrupt, BundleFromFuture)):
        decode(data, Manifest, where="test")


@pytest.fixture(scope="module")
def golden():
    spec = importlib.util.spec_from_file_location("golden_regenerate", GOLDEN / "regenerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_golden_files_are_what_the_code_writes(golden):
    data = (GOLDEN / "manifest.json").read_bytes()
    assert encode(golden.manifest()) == data
    assert decode(data, Manifest, where="golden") == golden.manifest()
    assert (GOLDEN / "manifest-bf16.json").read_bytes() == encode(golden.bf16())
    assert (GOLDEN / "frozen.json").read_bytes() == encode(golden.frozen())


def test_a_manifest_of_the_first_edition_is_refused_with_the_command_that_builds_it_again():
    data = (GOLDEN / "first-edition.json").read_bytes()
    assert json.loads(data)["schema"] == 1
    for kind in (Manifest, Frozen):
        with pytest.raises(
            BundleCorrupt, match=r"older allrounder.*schema 1.*build_engine\.py --version par-lite --out"
        ):
            decode(data, kind, where="old")


def test_a_manifest_without_what_has_defaults_is_read():
    manifest = json.loads((GOLDEN / "manifest.json").read_bytes())
    del manifest["recommendations"]
    for entry in manifest["entries"]:
        del entry["native_op"]
        if entry["fidelity"]:
            del entry["fidelity"]["accuracy"], entry["fidelity"]["kinds"]
    read = decode(json.dumps(manifest).encode(), Manifest, where="old")
    assert read.recommendations == ()
    assert not any(entry.native_op for entry in read.entries)
    assert [entry.fidelity and (entry.fidelity.accuracy, entry.fidelity.kinds) for entry in read.entries] == [
        (None, {}),
        (None, {}),
        None,
    ]


def test_the_golden_manifest_makes_sense(golden):
    check_manifest(golden.manifest(), where="golden")
    check_manifest(golden.bf16(), where="golden")
    check_frozen(golden.frozen(), where="golden")


def test_keys_that_scripts_rely_on(golden):
    plain = json.loads((GOLDEN / "manifest.json").read_bytes())
    assert set(plain) >= {"schema", "model", "chat", "limits", "files", "entries"}
    entry = plain["entries"][0]
    assert set(entry) >= {"pruning", "backend", "precision", "fidelity", "latency"}
    facts = {"version", "keep", "layers", "prune_layer", "layer_policy", "kept_layers"}
    assert set(entry["pruning"]) == facts
    assert set(entry["fidelity"]) >= {"retention", "agreement", "kl", "questions", "dataset", "quick"}
    assert set(entry["fidelity"]) >= {"accuracy", "kinds"}
    assert set(entry["fidelity"]["kl"]) == {"mean", "low", "high"}
    assert set(entry["latency"]) == {"ttft_ms", "tpot_ms", "machine", "workload"}
    assert set(entry["latency"]["ttft_ms"]) == {"p50", "p95", "p99"}
    assert set(plain["files"]["graphs/vision.onnx"]) == {"sha256", "bytes"}


def changed(golden, **changes):
    """The golden manifest as plain JSON values, with ``a__b`` meaning key b of key a."""
    plain = json.loads(encode(golden.manifest()))
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = plain
        for key in folders:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize("schema", [4, 99, 10**30])
def test_from_the_future_beats_every_other_complaint(golden, schema):
    for data in (changed(golden, schema=schema, model=None, new=1), b'{"schema": %d, "x": 1e999}' % schema):
        with pytest.raises(BundleFromFuture, match=f"schema {schema}.*update allrounder"):
            decode(data, Manifest, where="m")


@pytest.mark.parametrize("schema", [0, -1, 1, 2, 3.0, 2.5, True, "3", None, [3]])
def test_other_schemas_are_refused(golden, schema):
    with pytest.raises(BundleCorrupt, match="schema"):
        decode(changed(golden, schema=schema), Manifest, where="m")


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"entries__0__unknown": 1},
        {"model__model": "0" * 63},
        {"model__model": "A" * 64},
        {"model__model": "0" * 64 + "\n"},
        {"entries__0__latency__machine__cores": 0},
        {"entries__0__latency__machine__threads": 2**63},
        {"model__layers": 0},
        {"model__layers": 2**63},
        {"model__layers": 10**400},
        {"model__layers": 1.0},
        {"model__layers": True},
        {"model__layers": "32"},
        {"model__stop_ids": [-1]},
        {"model__max_positions": 0},
        {"chat": None},
        {"chat__special_tokens": {"bos_token": 1}},
        {"chat__image_token": None},
        {"limits__images": -1},
        {"prompt": {"before_image": "", "after_image": "", "after_question": "", "prefix_special": True}},
        {"entries__0__graphs__prefill": "graphs/vision.onnx"},
        *(
            {"entries__0__pruning__keep": keep}
            for keep in (576, 0.25, "0", "", "01", "-1", "1.0", "1/", "0/4", "1/4\n", "2e3")
        ),
        {"entries__0__precision": "int4"},
        {"entries__0__pruning__layer_policy": "mixed"},
        {"files": []},
        {"entries": {}},
        {"entries__0__fidelity__kl__mean": "0"},
    ],
    ids=repr,
)
def test_malformed(golden, changes):
    with pytest.raises(BundleCorrupt, match="malformed"):
        decode(changed(golden, **changes), Manifest, where="m")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none(golden, number):
    data = changed(golden, entries__0__fidelity__kl__mean=123.5).replace(b"123.5", number.encode())
    with pytest.raises(BundleCorrupt):
        decode(data, Manifest, where="m")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nothing_infinite_is_written(golden, number):
    manifest = golden.manifest()
    entry = manifest.entries[0]
    kl = Estimate(mean=0.0, low=0.0, high=number)
    entry = msgspec.structs.replace(entry, fidelity=msgspec.structs.replace(entry.fidelity, kl=kl))
    with pytest.raises(BundleCorrupt, match=r"finite.*entries\[0\].fidelity.kl.high"):
        encode(msgspec.structs.replace(manifest, entries=(entry,)))


def test_nothing_is_written_that_nobody_would_read(golden):
    limits = Limits(images=1, image_tokens=1, text_tokens=0, new_tokens=1, batch=1)
    with pytest.raises(BundleCorrupt, match="no reader"):
        encode(msgspec.structs.replace(golden.manifest(), limits=limits))


def test_whole_numbers_in_place_of_floats_are_written_as_floats(golden):
    kl = Estimate(mean=0, low=0, high=1)
    entry = golden.manifest().entries[0]
    entry = msgspec.structs.replace(entry, fidelity=msgspec.structs.replace(entry.fidelity, kl=kl))
    data = encode(msgspec.structs.replace(golden.manifest(), entries=(entry,)))
    assert encode(decode(data, Manifest, where="m")) == data


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"schema":' + b"[" * 100_000, b"null", b"[]", b"1"),
        *(b'{"schema":"\xff"}', b'{"schema":2,"producer":"\xff"}'),
    ],
)
def test_not_a_manifest_at_all(data):
    with pytest.raises(BundleCorrupt):
        decode(data, Manifest, where="m")


ENTRY_NONSENSE = {
    "twice": {"entries__1": "copy"},
    "no entry": {"entries": []},
    "a share above 1": {"entries__1__pruning__keep": "5/4"},
    "no layers below the prune layer": {"entries__1__pruning__layers": 1},
    "pruned after the last layer": {"entries__1__pruning__prune_layer": 32},
    "full that is not": {"entries__0__pruning__keep": "575"},
    "dynamic with a list": {"entries__1__pruning__kept_layers": list(range(24))},
    "static without a list": {"entries__0__pruning__kept_layers": None},
    "list too short": {"entries__2__pruning__kept_layers": [0, 1]},
    "list not ascending": {"entries__2__pruning__kept_layers": [1, 0, *range(14, 32)]},
    "list with a layer twice": {"entries__2__pruning__kept_layers": [0, 0, *range(14, 32)]},
    "list without the first layers": {"entries__2__pruning__kept_layers": list(range(12, 32))},
    "list beyond the last layer": {"entries__2__pruning__kept_layers": [0, 1, *range(14, 31), 32]},
    "huge": {"model__layers": 2**62, "entries__2__pruning__prune_layer": 2**61, "entries__2__pruning__layers": 2**62},
    "unlisted graph": {"entries__1__graphs__decoder": "graphs/other.onnx"},
    "no router graph": {"entries__1__graphs__router": None},
    "router graph without a router": {"model__router": None},
}


@pytest.mark.parametrize("changes", ENTRY_NONSENSE.values(), ids=ENTRY_NONSENSE.keys())
def test_entries_that_contradict_their_manifest(golden, changes):
    if changes.get("entries__1") == "copy":
        changes = {"entries__1": json.loads(encode(golden.manifest()))["entries"][0]}
    manifest = decode(changed(golden, **changes), Manifest, where="m")
    with pytest.raises(BundleCorrupt) as caught:
        check_manifest(manifest, where="here")
    assert "here" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": ()},
        {"versions": "twice"},
        {"graphs": SharedGraphs(vision="graphs/none.onnx", router=None)},
        {"graphs": SharedGraphs(vision="graphs/vision.onnx", router=None)},
    ],
    ids=["none", "twice", "unlisted", "no router"],
)
def test_frozen_records_that_contradict_themselves(golden, changes):
    frozen = golden.frozen()
    if changes == {"versions": "twice"}:
        changes = {"versions": frozen.versions * 2}
    with pytest.raises(BundleCorrupt):
        check_frozen(msgspec.structs.replace(frozen, **changes), where="here")
