"""The sidecar of a pruned checkpoint, and the record of a model's files: reading, refusing, verifying."""

import hashlib
import json

import pytest
from image_plans import fixed_plan
from prunings import pruning

from allrounder.engines.checkpoint.sidecar import SIDECAR, PrunedEntry, Sidecar, open_sidecar, read_sidecar
from allrounder.errors import BundleCorrupt, BundleError, BundleFromFuture
from allrounder.hashing import file_record
from allrounder.manifest import (
    SCHEMA,
    ChatTemplate,
    Limits,
    Model,
    SharedGraphs,
    encode,
)
from allrounder.model_files import MODEL_FOLDER, MODEL_RECORD, read_model

DIGEST = hashlib.sha256(b"").hexdigest()


@pytest.fixture
def root(tmp_path):
    """A checkpoint of four files without meaning."""
    root = tmp_path / "checkpoint"
    (root / "image").mkdir(parents=True)
    for name in ("config.json", "image/vision.onnx", "image/router.onnx"):
        (root / name).write_text(name)
    sidecar = Sidecar(
        schema=SCHEMA,
        producer="test",
        model=Model(
            name="m",
            digest=DIGEST,
            router=DIGEST,
            images=fixed_plan(16),
            image_token_id=3,
            layers=8,
            hidden=4,
            vocabulary=32,
            max_positions=64,
            stop_ids=(2,),
        ),
        chat=ChatTemplate(template="<image>", special_tokens={}, image_token="<image>"),
        limits=Limits(images=1, image_tokens=16, text_tokens=8, new_tokens=8, batch=1),
        entry=PrunedEntry(
            pruning=pruning(("1/4", 3), 0, (0, 2, 3), "par-lite"),
            backend="checkpoint",
            precision="fp32",
            fidelity=None,
        ),
        graphs=SharedGraphs(vision="image/vision.onnx", router="image/router.onnx"),
        files={str(path.relative_to(root)): file_record(path) for path in root.rglob("*") if path.is_file()},
    )
    (root / SIDECAR).write_bytes(encode(sidecar))
    return root


def edit(root, *keys, value):
    document = json.loads((root / SIDECAR).read_text())
    target = document
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    (root / SIDECAR).write_text(json.dumps(document))


def test_it_is_read_as_it_was_written(root):
    assert open_sidecar(root) == (root, read_sidecar(root))
    assert read_sidecar(root).entry.label == "par-lite (checkpoint, static, K=0)"


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("entry", "pruning", "kept_layers"), [0, 2]),
        (("entry", "pruning", "kept_layers"), [2, 0, 3]),
        (("entry", "pruning", "kept_layers"), [0, 2, 8]),
        (("entry", "pruning", "kept_layers"), []),
        (("entry", "pruning", "keep"), "3/2"),
        (("entry", "pruning", "keep"), 4),
        (("entry", "pruning", "keep"), "1"),  # which has no router
        (("entry", "pruning", "layers"), 9),
        (("entry", "pruning", "prune_layer"), 1),  # which its layers would not fit
        (("entry", "pruning", "kept_layers"), None),
        (("entry", "pruning", "layer_policy"), "dynamic"),
        (("entry", "positions"), "counted"),
        (("entry", "surprise"), 1),
        (("model", "model"), "x"),
        (("graphs", "router"), None),
        (("graphs", "vision"), "image/other.onnx"),
        (("files",), {"../escape": {"sha256": DIGEST, "bytes": 0}}),
        (("producer",), None),
    ],
)
def test_one_that_makes_no_sense_is_refused(root, keys, value):
    edit(root, *keys, value=value)
    with pytest.raises(BundleCorrupt):
        read_sidecar(root)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"schema": 1}'])
def test_what_is_no_sidecar(root, content):
    (root / SIDECAR).write_text(content)
    with pytest.raises(BundleCorrupt):
        read_sidecar(root)


def test_the_future_beats_every_other_complaint(root):
    (root / SIDECAR).write_text('{"schema": 4, "nonsense": []}')
    with pytest.raises(BundleFromFuture):
        open_sidecar(root)


def test_places_without_one(tmp_path):
    with pytest.raises(BundleError, match="no such directory"):
        read_sidecar(tmp_path / "absent")
    with pytest.raises(BundleCorrupt, match=r"not a pruned checkpoint.*--backend checkpoint"):
        read_sidecar(tmp_path)


@pytest.mark.parametrize("what", ["changed", "truncated", "missing", "link"])
@pytest.mark.parametrize("folder", ["", "image"])
def test_damaged_files_are_found_where_they_are_looked_at(root, what, folder):
    open_sidecar(root)
    file = root / "image/vision.onnx"
    if what == "changed":
        file.write_text("image/VISION.onnx")
    elif what == "truncated":
        file.write_text("image")
    elif what == "missing":
        file.unlink()
    else:
        file.rename(root.parent / "elsewhere")
        file.symlink_to(root.parent / "elsewhere")
    with pytest.raises(BundleCorrupt, match="vision"):
        open_sidecar(root, folder)


def test_a_folder_is_verified_alone_and_other_files_are_nobodys_business(root):
    (root / "config.json").write_text("config.JSON")
    (root / "image" / "launch.sh").write_text("mine")
    open_sidecar(root, "image")
    with pytest.raises(BundleCorrupt, match=r"config\.json"):
        open_sidecar(root)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1}', "[" * 100_000])
def test_a_record_of_model_files_that_is_none(tmp_path, content):
    (tmp_path / MODEL_FOLDER).mkdir()
    with pytest.raises(BundleCorrupt):
        read_model(tmp_path)
    (tmp_path / MODEL_FOLDER / MODEL_RECORD).write_text(content)
    with pytest.raises(BundleCorrupt):
        read_model(tmp_path)


def test_a_record_of_model_files_from_the_future(tmp_path):
    (tmp_path / MODEL_FOLDER).mkdir()
    (tmp_path / MODEL_FOLDER / MODEL_RECORD).write_text('{"schema": 4}')
    with pytest.raises(BundleFromFuture):
        read_model(tmp_path)
