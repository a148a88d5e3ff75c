"""Router directories: round trip, and everything that must be refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from allrounder.errors import RouterMismatch
from allrounder.layout import sequential_layout
from allrounder.router.checkpoint import RECORD, WEIGHTS, load_router, read_record, save_router, write_atomically
from allrounder.router.model import MetaRouter
from allrounder.vlm.config import read_spec
from allrounder.vlm.prompt import prompt_batch
from allrounder.vlm.random.model import random_config

DIGEST, OTHER = "a" * 64, "b" * 64
CONFIG = random_config("llama-mha")
SPEC = read_spec(CONFIG)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("router")
    router = MetaRouter(SPEC, CONFIG.text_config, "bidirectional", 2)
    save_router(router, folder, model_digest=DIGEST, training={"steps": 3, "objective": "gate", "kl": 0.5})
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "router"))


def load(folder: Path) -> MetaRouter:
    return load_router(folder, model_spec=SPEC, model_digest=DIGEST)


def edit(folder: Path, **changes) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | changes))


@pytest.mark.parametrize("shape", ["llama-mha", "llama-gqa-tied", "llama-wide-bias", "llama-rope3-layers"])
@torch.no_grad()
def test_round_trip_scores_the_same(shape, tmp_path):
    config = random_config(shape)
    spec = read_spec(config)
    router = MetaRouter(spec, config.text_config, "causal", 1).eval()
    save_router(router, tmp_path / "new", model_digest=DIGEST)
    again = load_router(tmp_path / "new", model_spec=spec, model_digest=DIGEST)
    prompt = prompt_batch([sequential_layout([1, 1, 9, 1, 1, 1], 9, [spec.image_tokens])])
    rows = torch.randn(*prompt.input_ids.shape, spec.decoder.hidden)
    for before, after in zip(router(rows, prompt), again(rows, prompt), strict=True):
        assert torch.equal(before, after)
    assert not again.training


def test_the_record_says_what_it_is(saved):
    record = read_record(saved)
    assert (record.attention, record.router_layers, record.model_digest) == ("bidirectional", 2, DIGEST)
    assert (record.image_tokens, record.model_layers) == (SPEC.image_tokens, SPEC.decoder.layers)
    assert record.training == {"steps": 3, "objective": "gate", "kl": 0.5}
    assert sorted(path.name for path in saved.iterdir()) == [RECORD, WEIGHTS]


def test_the_scope_is_written_where_it_is_not_the_default(saved, tmp_path):
    assert "scope" not in json.loads((saved / RECORD).read_text())
    assert (read_record(saved).scope, load(saved).scope) == ("prompt", "prompt")
    save_router(MetaRouter(SPEC, CONFIG.text_config, scope="image"), tmp_path, model_digest=DIGEST)
    assert json.loads((tmp_path / RECORD).read_text())["scope"] == "image"
    assert load(tmp_path).scope == "image"


def test_the_same_router_gives_the_same_bytes(saved, tmp_path):
    record = read_record(saved)
    save_router(load(saved), tmp_path, model_digest=DIGEST, training=record.training)
    for name in (RECORD, WEIGHTS):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_another_model_is_refused(saved):
    with pytest.raises(RouterMismatch, match="another model"):
        load_router(saved, model_spec=SPEC, model_digest=OTHER)
    with pytest.raises(RouterMismatch, match="another shape"):
        load_router(saved, model_spec=read_spec(random_config("llama-gqa-tied")), model_digest=DIGEST)


def test_the_future_beats_every_other_complaint(folder):
    edit(folder, schema=2, attention="sideways", surprise=1, model_digest=OTHER)
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(RouterMismatch, match="future"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"schema": True},
        {"schema": "1"},
        {"schema": 0},
        {"attention": "sideways"},
        {"scope": "sideways"},
        {"router_layers": 0},
        {"model": "A" * 64},
        {"training": {"kl": None}},
        {"weights": {"sha256": "a" * 64}},
        {"decoder": []},
        {"decoder": {"model_type": "no-such-model"}},
        {"decoder": {}},
        {"router_layers": 1},
        {"router_layers": 3},
    ],
)
def test_a_wrong_record_is_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(RouterMismatch, match=r"router\.(json|safetensors)"):
        load(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"schema": 1}', b"\xff\xfe"])
def test_a_record_that_is_none_is_refused(folder, text):
    (folder / RECORD).write_bytes(text)
    with pytest.raises(RouterMismatch):
        load(folder)


def test_missing_files_are_refused(folder, tmp_path):
    with pytest.raises(RouterMismatch, match="train-router"):
        load(tmp_path / "nowhere")
    (folder / WEIGHTS).unlink()
    with pytest.raises(RouterMismatch, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize("damage", ["truncated", "longer", "flipped"])
def test_damaged_weights_are_refused(folder, damage):
    data = bytearray((folder / WEIGHTS).read_bytes())
    if damage == "truncated":
        del data[-1]
    elif damage == "longer":
        data += b"\0"
    else:
        data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(RouterMismatch, match="truncated or changed"):
        load(folder)


@pytest.mark.parametrize("kind", ["unknown", "missing", "shape", "not safetensors"])
def test_wrong_tensors_with_a_right_digest_are_refused(folder, kind):
    state = {name: value.contiguous() for name, value in load(folder).state_dict().items()}
    if kind == "unknown":
        state["surprise"] = torch.zeros(1)
    elif kind == "missing":
        del state["norm.weight"]
    else:
        state["head.weight"] = torch.zeros(2, 2)
    data = b"no tensors" if kind == "not safetensors" else save(state)
    (folder / WEIGHTS).write_bytes(data)
    import hashlib

    edit(folder, weights={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
    with pytest.raises(RouterMismatch):
        load(folder)


@pytest.mark.parametrize("bad", [{"model_digest": "short"}, {"model_digest": DIGEST, "training": {"kl": float("nan")}}])
def test_an_invalid_record_is_never_written(tmp_path, bad):
    with pytest.raises(RouterMismatch):
        save_router(MetaRouter(SPEC, CONFIG.text_config), tmp_path, **bad)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
