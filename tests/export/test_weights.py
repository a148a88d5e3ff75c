"""Weights files: every tensor once, aligned, converted, transposed where MatMul reads it."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from onnx import TensorProto

from allrounder.errors import BundleCorrupt, GraphInvalid
from allrounder.export.weights.layout import ALIGNMENT, FOLDER, Needed, lay_out, link, model_tensors, write
from allrounder.progress import silent
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.random.model import TINY, write_random_checkpoint

SOURCE = {
    "table": torch.arange(24, dtype=torch.bfloat16).reshape(6, 4),
    "linear.weight": torch.arange(3000, dtype=torch.float32).reshape(3, 1000) / 7,
    "norm": torch.tensor([1.5, -2.25, 0.0]),
}
NEEDED = (Needed("table"), Needed("linear.weight", linear=True), Needed("norm", float32=True))


def laid_out(precision="fp32", source="one"):
    return lay_out("model", precision, source, NEEDED, lambda name: tuple(SOURCE[name].shape))


def read_back(layout, path):
    data = path.read_bytes()
    kinds = {
        TensorProto.FLOAT: torch.float32,
        TensorProto.FLOAT16: torch.float16,
        TensorProto.BFLOAT16: torch.bfloat16,
    }
    return {
        name: torch.frombuffer(
            bytearray(data[place.offset : place.offset + place.size]), dtype=kinds[place.dtype]
        ).reshape(place.shape)
        for name, place in layout.tensors.items()
    }


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_tensors_come_back(tmp_path, precision, dtype):
    layout = laid_out(precision)
    path = tmp_path / layout.name
    write(layout, SOURCE.__getitem__, path, silent)
    assert path.stat().st_size == layout.size
    assert [file.name for file in tmp_path.iterdir()] == [layout.name]
    found = read_back(layout, path)
    assert torch.equal(found["table"], SOURCE["table"].to(dtype))
    assert torch.equal(found["linear.weight"], SOURCE["linear.weight"].to(dtype).T)
    assert found["norm"].dtype == torch.float32  # whatever the precision
    assert found["norm"].tolist() == [1.5, -2.25, 0.0]


def test_bfloat16_keeps_the_bits_of_its_own_kind_and_rounds_others_to_even(tmp_path):
    halfway = [0x3F808000, 0x3F818000, 0x3F808001]  # between two bfloat16s, the lower one even, odd; above halfway
    numbers = torch.from_numpy(np.array(halfway, np.uint32).view(np.float32).copy())
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    finite = bits[torch.isfinite(bits.view(torch.bfloat16))]  # signed zeros and subnormal numbers among them
    source = {"rounded": numbers, "kept": finite.view(torch.bfloat16)}
    layout = lay_out("model", "bf16", "s", [Needed("rounded"), Needed("kept")], lambda name: tuple(source[name].shape))
    write(layout, source.__getitem__, tmp_path / layout.name, silent)
    found = read_back(layout, tmp_path / layout.name)
    assert [value & 0xFFFF for value in found["rounded"].view(torch.int16).tolist()] == [0x3F80, 0x3F82, 0x3F81]
    assert torch.equal(found["kept"].view(torch.int16), finite)


def test_what_overflows_float16_fits_bfloat16_but_not_past_its_range(tmp_path):
    for value, fits in ((1e5, True), (-3e38, True), (3.4e38, False), (float("inf"), False), (float("nan"), False)):
        source = SOURCE | {"linear.weight": torch.full((3, 1000), value)}
        layout, path = laid_out("bf16"), tmp_path / "weights.bin"
        if fits:
            write(layout, source.__getitem__, path, silent)
            assert read_back(layout, path)["linear.weight"][0, 0] == torch.tensor(value).bfloat16()
            path.unlink()
        else:
            with pytest.raises(GraphInvalid, match=r"linear\.weight"):
                write(layout, source.__getitem__, path, silent)


def test_every_tensor_has_pages_of_its_own():
    places = sorted(laid_out().tensors.values(), key=lambda place: place.offset)
    assert all(place.offset % ALIGNMENT == 0 for place in places)
    assert all(first.offset + first.size <= second.offset for first, second in itertools.pairwise(places))
    assert {place.location for place in places} == {f"{FOLDER}/{laid_out().name}"}


def test_the_name_tells_source_and_precision_apart():
    names = {laid_out().name, laid_out("fp16").name, laid_out("bf16").name, laid_out(source="two").name}
    assert len(names) == 4
    assert laid_out().name == laid_out().name


@pytest.mark.parametrize("value", [1e5, float("inf"), float("nan")])
def test_what_does_not_fit_float16_is_refused(tmp_path, value):
    source = SOURCE | {"linear.weight": torch.full((3, 1000), value)}
    layout = laid_out("fp16")
    with pytest.raises(GraphInvalid) as caught:
        write(layout, source.__getitem__, tmp_path / layout.name, silent)
    assert caught.value.where == "linear.weight"
    assert not (tmp_path / layout.name).exists()


def test_linking(tmp_path):
    layout = laid_out()
    old, new = tmp_path / "old.bin", tmp_path / "new.bin"
    assert not link(layout, old, new)
    write(layout, SOURCE.__getitem__, old, silent)
    assert link(layout, old, new)
    assert new.samefile(old)
    old.write_bytes(b"short")
    with pytest.raises(BundleCorrupt):
        link(layout, old, tmp_path / "third.bin")


@pytest.mark.parametrize("shape", TINY)
def test_a_model_is_stored_once_and_nothing_else(tmp_path, shape):
    checkpoint = Checkpoint(write_random_checkpoint(tmp_path, shape))
    needed = [tensor.name for tensor in model_tensors(checkpoint.spec)]
    assert len(needed) == len(set(needed))
    unused = set(checkpoint.names()) - set(needed)
    depth = max(checkpoint.spec.vision.feature_layers)
    beyond = tuple(f"vision.encoder.layers.{layer}." for layer in range(depth, checkpoint.spec.vision.layers))
    assert all(name.startswith(("vision.post_layernorm.", "vision.head.", *beyond)) for name in unused)
    assert ("decoder.lm_head.weight" in needed) != checkpoint.spec.decoder.tied
    assert all(name in checkpoint for name in needed)


def test_writing_again_gives_the_same_bytes(tmp_path):
    layout = laid_out()
    digests = set()
    for name in ("a.bin", "b.bin"):
        write(layout, SOURCE.__getitem__, tmp_path / name, silent)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
