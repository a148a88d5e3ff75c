"""vlm/checkpoint.py: canonical names over every layout, mapped reading, damage, the digest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from allrounder.errors import ModelUnreadable, ModelUnsupported
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.parts.names import canonical_name
from allrounder.vlm.random.model import TINY, Shape, write_random_checkpoint


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_random_checkpoint(tmp_path_factory.mktemp("stored") / "model", "llama-gqa-tied")


@pytest.fixture
def vlm(stored, tmp_path):
    """A copy of a model that a test may damage."""
    return shutil.copytree(stored, tmp_path / "model")


def sharded(directory):
    """Turns the single weights file into two shards and an index; returns the shards' names."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sorted(set(weight_map.values()))


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        ("language_model.model.layers.3.mlp.up_proj.weight", "decoder.layers.3.mlp.up_proj.weight"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "decoder.layers.3.mlp.up_proj.weight"),
        ("language_model.layers.3.mlp.up_proj.weight", "decoder.layers.3.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "decoder.lm_head.weight"),
        ("lm_head.weight", "decoder.lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ("vision_tower.vision_model.post_layernorm.bias", "vision.post_layernorm.bias"),
        ("model.vision_tower.vision_model.post_layernorm.bias", "vision.post_layernorm.bias"),
        ("vision_tower.post_layernorm.bias", "vision.post_layernorm.bias"),
        ("model.vision_tower.embeddings.class_embedding", "vision.embeddings.class_embedding"),
        ("multi_modal_projector.linear_1.weight", "projector.linear_1.weight"),
        ("model.multi_modal_projector.linear_1.weight", "projector.linear_1.weight"),
        ("vision_tower.vision_model.embeddings.position_ids", None),
        ("language_model.model.layers.0.self_attn.rotary_emb.inv_freq", None),
    ],
)
def test_canonical_names(on_disk, name):
    assert canonical_name(on_disk) == name


def test_foreign_weights_are_refused_named_and_counted(vlm):
    tensors = load_file(vlm / "model.safetensors")
    foreign = {f"transformer.h.{i}.attn.weight": torch.zeros(2) for i in range(6)}
    save_file(tensors | foreign, vlm / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"6 weights.*transformer\.h\.0.*h\.3\.attn\.weight, \.\.\."):
        Checkpoint(vlm)


@pytest.mark.parametrize("shape", TINY)
def test_layouts_hold_the_same_tensors_under_the_same_names(tmp_path, shape):
    older = Checkpoint(write_random_checkpoint(tmp_path / "older", shape, layout="older"))
    newer = Checkpoint(write_random_checkpoint(tmp_path / "newer", shape, layout="newer"))
    assert older.names() == newer.names()
    assert ("decoder.lm_head.weight" in older) == (not older.spec.decoder.tied)
    for name in older.names():
        assert torch.equal(older.read(name), newer.read(name))
        assert older.shape(name) == tuple(older.read(name).shape)


def test_shards_read_like_one_file(stored, vlm):
    sharded(vlm)
    whole, parts = Checkpoint(stored), Checkpoint(vlm)
    assert whole.names() == parts.names()
    assert len(parts.files) == 2
    assert all(torch.equal(whole.read(name), parts.read(name)) for name in whole.names())


def test_an_absent_weight_is_named(stored):
    with pytest.raises(ModelUnreadable, match=r"decoder\.layers\.99\.mlp"):
        Checkpoint(stored).read("decoder.layers.99.mlp.up_proj.weight")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_truncated_weights(vlm, keep):
    file = vlm / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ModelUnreadable, match=r"truncated.*model\.safetensors"):
        Checkpoint(vlm)


def test_a_missing_shard_is_named(vlm):
    first, second = sharded(vlm)
    (vlm / second).unlink()
    with pytest.raises(ModelUnreadable, match=second):
        Checkpoint(vlm)
    assert first != second


def test_a_truncated_shard(vlm):
    shard = vlm / sharded(vlm)[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ModelUnreadable, match=shard.name):
        Checkpoint(vlm)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none(vlm, index):
    (vlm / "model.safetensors").unlink()
    (vlm / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelUnreadable, match=r"index\.json"):
        Checkpoint(vlm)


def test_a_shard_outside_the_directory_is_refused(vlm):
    shutil.copy(vlm / "model.safetensors", vlm.parent / "elsewhere.safetensors")
    (vlm / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (vlm / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnreadable, match="elsewhere"):
        Checkpoint(vlm)


@pytest.mark.parametrize("shape", ["llama-mha", "qwen3-siglip-layers"])
@pytest.mark.parametrize("change", ["dropped", "reshaped"])
def test_the_check_names_what_is_absent_or_of_another_shape(tmp_path, shape, change):
    """Those that the model computes with are missed, the others are not; transformers loads no odd shape at all."""
    write_random_checkpoint(tmp_path, shape)
    tensors = load_file(tmp_path / "model.safetensors")
    unused = (
        ("post_layernorm", "vision_model.head.", "vision_model.encoder.layers.2.")
        if shape == "llama-mha"
        else ("post_layernorm", "vision_model.head.")
    )
    sample = [name for i, name in enumerate(tensors) if i % 9 == 0 or any(part in name for part in unused)]
    for stored_name in sample:
        changed = dict(tensors)
        del changed[stored_name]
        if change == "reshaped":
            changed[stored_name] = torch.zeros(3, 1)
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if change == "dropped" and any(part in stored_name for part in unused):
            Checkpoint(tmp_path)
            continue
        with pytest.raises(ModelUnreadable, match=re.escape(canonical_name(stored_name) or "")):
            Checkpoint(tmp_path)


def test_pickled_weights_are_not_read(vlm):
    (vlm / "model.safetensors").rename(vlm / "pytorch_model.bin")
    with pytest.raises(ModelUnreadable, match="save_pretrained"):
        Checkpoint(vlm)


def test_the_digest_sees_every_byte_and_nothing_else(stored, vlm):
    digest = Checkpoint(stored).digest
    assert len(digest) == 64
    assert Checkpoint(vlm).digest == digest  # neither place nor time
    (vlm / "README.md").write_text("hello")
    assert Checkpoint(vlm).digest == digest
    for name, last in (("model.safetensors", b"\x7f"), ("config.json", b"} ")):
        before = (vlm / name).read_bytes()
        assert not before.endswith(last)
        (vlm / name).write_bytes(before.rstrip(b"\n")[:-1] + last)
        assert Checkpoint(vlm).digest != digest
        (vlm / name).write_bytes(before)
    assert Checkpoint(vlm).digest == digest


_MEASURE = """
import sys
from allrounder.vlm.checkpoint import Checkpoint

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

checkpoint = Checkpoint(sys.argv[1])
checkpoint.read("decoder.norm.weight").sum()
before = anonymous()
held = [checkpoint.read(name) for name in checkpoint.names()]
total = sum(float(tensor.sum()) for tensor in held)
print(anonymous() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_stay_mapped(tmp_path):
    """Reading every tensor, and holding all of them, costs page cache but next to no anonymous memory."""
    write_random_checkpoint(tmp_path, Shape(text={"intermediate_size": 1 << 16, "num_hidden_layers": 12}))
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    grown_kib = int(ran.stdout)
    assert grown_kib < 10 * 1024 < 12 * 3 * 8 * 1024
