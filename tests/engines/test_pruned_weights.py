"""Weights and config of fewer layers: names, bytes, alignment, shards, and sources that are not what was recorded."""

import json
import os
import tracemalloc

import fake_model
import msgspec
import pytest

from allrounder.engines.checkpoint.weights import INDEX, pruned_config, write_weights, written_name
from allrounder.errors import BundleCorrupt, ModelUnsupported
from allrounder.hashing import file_record
from allrounder.model_files import ModelTensor, SourceFile, read_model
from allrounder.progress import silent

KEPT = (0, 2, 3, 7)


@pytest.fixture
def vlm(tmp_path):
    """Returns the record of a fake model, made with the given arguments."""

    def make(**arguments):
        frozen = tmp_path / "frozen"
        frozen.mkdir()
        fake_model.write_fake_model(frozen, "0" * 64, **arguments)
        return read_model(frozen)

    return make


@pytest.fixture
def out(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    return path


def wanted(kept):
    """Tensors of the pruned model by new name."""
    made = {}
    for name, tensor in fake_model.tensors().items():
        parts = name.split(".")
        if name.startswith("language_model.model.layers."):
            if int(parts[3]) not in kept:
                continue
            parts[3] = str(kept.index(int(parts[3])))
        made[".".join(parts)] = tensor
    return made


@pytest.mark.parametrize("kept", [KEPT, tuple(range(8)), (7,)])
def test_one_file_stays_one_file(vlm, out, kept):
    records = write_weights(vlm(), kept, out, silent)
    assert fake_model.read_safetensors(out / "model.safetensors") == wanted(kept)
    assert records == {"model.safetensors": file_record(out / "model.safetensors")}
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]


def test_shards_stay_shards_and_the_index_says_where_tensors_are(vlm, out):
    records = write_weights(vlm(shards=3), KEPT, out, silent)
    files = [path for path in sorted(out.iterdir()) if path.name != INDEX]
    assert [path.name for path in files] == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    where = {name: path.name for path in files for name in fake_model.read_safetensors(path)}
    index = json.loads((out / INDEX).read_text())
    assert index["weight_map"] == where
    assert set(where) == set(wanted(KEPT))
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in wanted(KEPT).values())
    assert records == {path.name: file_record(path) for path in out.iterdir()}


def test_a_shard_of_which_nothing_is_kept_is_not_written(vlm, out):
    count = len(fake_model.tensors())  # one tensor per file: those of dropped layers leave
    write_weights(vlm(shards=count), (3,), out, silent)
    assert len(list(out.glob("model-*-of-00006.safetensors"))) == len(wanted((3,))) == 6


@pytest.mark.parametrize(
    ("whole", "layer", "written"),
    [
        ("language_model.model.layers.11.mlp.w", 11, "language_model.model.layers.1.mlp.w"),
        ("model.text_model.layers.1.mlp.w", 1, "model.text_model.layers.0.mlp.w"),
        ("language_model.model.layers.2.mlp.w", 2, None),
        ("language_model.model.norm.weight", None, "language_model.model.norm.weight"),
        ("vision_tower.encoder.layers.11.w", None, "vision_tower.encoder.layers.11.w"),
    ],
)
def test_layers_are_numbered_by_their_place_among_the_kept(whole, layer, written):
    assert written_name(recorded(whole, layer), (1, 11)) == written


def recorded(written, layer):
    place = {"file": "f", "dtype": "F32", "shape": (), "begin": 0, "end": 4}
    return ModelTensor(name="any", stored="any", written=written, layer=layer, **place)


def test_a_weight_of_another_layer_than_recorded_is_refused():
    with pytest.raises(BundleCorrupt, match="not of its layer"):
        written_name(recorded("model.layers.2.w", 1), (1,))


def test_the_config_changes_where_it_speaks_of_layers_alone(vlm):
    text = fake_model.TEXT | {"layer_types": list("abcdefgh"), "max_window_layers": 3, "eos_token_id": list(range(8))}
    config = {"model_type": "llava", "vision_feature_layer": -2, "text_config": text}
    pruned = pruned_config(config, vlm(text=text), KEPT)
    changed = {"num_hidden_layers": 4, "layer_types": list("acdh"), "max_window_layers": 2}
    untied = {"tie_word_embeddings": False}  # the files hold table and head
    assert pruned == config | untied | {"text_config": text | changed | untied}
    assert config["text_config"] is text, "the model's own is left alone"


def test_what_the_config_leaves_to_defaults_is_written(vlm):
    record = vlm(text={"model_type": "qwen2"}, resolved={"num_hidden_layers": 8, "max_window_layers": 28})
    text = pruned_config({}, record, KEPT)["text_config"]
    assert text == {"num_hidden_layers": 4, "max_window_layers": 4, "tie_word_embeddings": False}


def test_a_list_that_does_not_fit_the_layers_is_refused(vlm):
    with pytest.raises(ModelUnsupported, match="layer_types"):
        pruned_config({"text_config": {"layer_types": ["full_attention"] * 7}}, vlm(), KEPT)


def test_no_tensor_ever_stands_in_memory(vlm, out):
    record, large = vlm(), 64 << 20
    file = record.weights_file("model.safetensors")
    with file.open("r+b") as stream:
        stream.truncate(large + 8)  # a hole: it costs no disk
    tensor = ModelTensor(
        name="decoder.layers.0.w",
        stored="model.layers.0.w",
        written="model.layers.0.w",
        layer=0,
        file=file.name,
        dtype="U8",
        shape=(large,),
        begin=8,
        end=8 + large,
    )
    weights = {file.name: SourceFile.of(file)}
    record = msgspec.structs.replace(record, tensors=(tensor,), weights=weights)
    tracemalloc.start()
    try:
        write_weights(record, (0,), out, silent)
        assert tracemalloc.get_traced_memory()[1] < large // 4
    finally:
        tracemalloc.stop()
    assert (out / "model.safetensors").stat().st_size > large


@pytest.mark.parametrize("what", ["touched", "truncated", "gone"])
def test_sources_that_changed_since_they_were_recorded(vlm, out, what):
    record = vlm()
    file = record.weights_file("model.safetensors")
    if what == "touched":
        os.utime(file, ns=(0, 1))
    elif what == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(BundleCorrupt, match=r"model\.safetensors"):
        write_weights(record, KEPT, out, silent)


def test_a_record_that_reaches_beyond_its_file(vlm, out):
    record = vlm()
    last = max(record.tensors, key=lambda tensor: tensor.end)
    longer = msgspec.structs.replace(last, end=last.end + 1)
    record = msgspec.structs.replace(record, tensors=(*(each for each in record.tensors if each != last), longer))
    with pytest.raises(BundleCorrupt, match="truncated"):
        write_weights(record, KEPT, out, silent)


def test_rotary_parameters_can_be_read_by_older_readers(vlm):
    scaled = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
    text = pruned_config({"text_config": {"rope_parameters": scaled}}, vlm(), KEPT)["text_config"]
    assert text["rope_parameters"] == scaled
    assert text["rope_theta"] == 500000.0
    assert text["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}


def test_what_the_model_says_in_the_older_way_stays(vlm):
    text = {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    pruned = pruned_config({"text_config": text}, vlm(), KEPT)["text_config"]
    assert pruned["rope_theta"] == 1e6
    assert "rope_scaling" not in pruned
