"""Pruned checkpoints in stock transformers: what the removing model, the masked model and the frozen graphs compute.

Tiny random models of every family, tied and untied heads, older and newer tensor names, one file and shards. Logits
within 1e-4 of the reference's standard deviation, and the same greedy tokens.
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from decoder_rows import decoder_rows
from PIL import Image
from prunings import pruning
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.checkpoint.build import write_checkpoint
from allrounder.engines.onnxruntime.build import build
from allrounder.export.freezer import Freezer
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.runtime.engine import Engine
from allrounder.serving.kept_rows import RowReader
from allrounder.versions import VERSIONS, keep_of, resolve
from allrounder.vlm.keywords import CACHE
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PrunedModel, PruningDecision
from allrounder.vlm.random.model import TINY, Shape, write_random_checkpoint

QUESTION = "naïve 日本 what is it?"
IMAGE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8))
NEW_TOKENS = 8
# Layers from the third on have a window; it is as long as the longest sequence, so it never binds.
OWN = {
    "windowed": Shape(
        text_type="qwen2", text={"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 2}
    )
}


class Made(NamedTuple):
    vlm: LoadedModel
    folder: Path
    checkpoints: dict[str, Path]  # by version


@pytest.fixture(scope="module")
def made():
    """Gives the model of a shape and the checkpoints of its versions, made once."""
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-parity-"))

    @functools.cache
    def get(shape, versions=("par-lite",), layout="older", shards=1, dtype=torch.float32) -> Made:
        place = folder / f"{shape}-{len(versions)}-{layout}-{shards}-{dtype}"
        place.mkdir()
        directory = write_random_checkpoint(place / "model", OWN.get(shape, shape), layout=layout, dtype=dtype)
        if shards > 1:
            split(directory, shards)
        vlm = load_model(directory, dtype=torch.float32)
        torch.manual_seed(1)
        save_router(MetaRouter(vlm.spec, vlm.model.config.text_config), place / "router", model_digest=vlm.digest)
        freezer = Freezer(directory, place / "router", place / "frozen")
        freezer.shared()
        tokens, layers = vlm.spec.image_tokens, vlm.spec.decoder.layers
        for each in versions:
            budget = (keep_of(each), resolve(each, tokens=tokens, layers=layers).layers)
            dropped = (1, 3)[: layers - budget[1]]  # from the middle: renumbering must show
            kept = tuple(layer for layer in range(layers) if layer not in dropped)
            freezer.add(pruning(budget, 0, kept, each))
        freezer.finish()
        checkpoints = {}
        with Staging(place / "bundle") as staging:
            for entry in build(place / "frozen", staging, BuildOptions()):
                checkpoints[entry.version] = place / entry.version
                write_checkpoint(place / "frozen", entry, checkpoints[entry.version])
            staging.path.rename(place / "bundle")  # outlives the staging, for the engines
        return Made(vlm, place, checkpoints)

    return get


def split(directory, count):
    """Spreads the weights of a directory over files, with an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    where = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[number::count]
        save_file({name: tensors[name] for name in names}, directory / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def stock(checkpoint):
    """Loads a checkpoint as anybody would, and makes sure that nothing was missing or left over."""
    model, report = LlavaForConditionalGeneration.from_pretrained(
        str(checkpoint), dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model.eval()


def kept_layers_of(checkpoint):
    return tuple(json.loads((checkpoint / "allrounder.json").read_text())["entry"]["pruning"]["kept_layers"])


@torch.no_grad()
def served(model, read, new_tokens, *, renumbered=False):
    """Feeds kept rows to the stock model; returns the logits [1 + new, V] that chose each greedy token."""
    embed = model.get_input_embeddings()
    inputs = decoder_rows(read, embed)[None]
    rows = inputs.shape[1]
    positions = torch.arange(rows) if renumbered else torch.from_numpy(read.positions[0])
    # Without mask and cache transformers takes gaps between positions for borders of packed sequences.
    seen = torch.ones(1, rows, dtype=torch.int64)
    output = model(inputs_embeds=inputs, position_ids=positions[None], attention_mask=seen, use_cache=True)
    logits, position = [output.logits[0, -1]], int(positions[-1])
    for _ in range(new_tokens):
        token, position = logits[-1].argmax().reshape(1, 1), position + 1
        seen = torch.cat([seen, seen[:, :1]], dim=1)
        output = model(
            input_ids=token,
            position_ids=torch.tensor([[position]]),
            attention_mask=seen,
            **{CACHE: output[CACHE]},
            use_cache=True,
        )
        logits.append(output.logits[0, -1])
    return torch.stack(logits)


@torch.no_grad()
def removed(vlm, read, kept, pixels, new_tokens):
    """The same by the removing model."""
    pruned = PrunedModel(vlm)
    decision = PruningDecision(torch.tensor([read.keep]), kept, 0)
    state = pruned.prefill(pruned.image_embeds(pixels)[None], model_prompt(vlm, [QUESTION]), decision)
    logits = [state.logits[0]]
    for _ in range(new_tokens):
        logits.append(pruned.decode(state, logits[-1].argmax().reshape(1, 1))[0, -1])
    return torch.stack(logits)


def assert_same(got, wanted):
    worst = float((got - wanted).abs().max() / wanted.std())
    assert worst <= 1e-4, worst
    assert torch.equal(got.argmax(dim=-1), wanted.argmax(dim=-1))


def pixels_of(vlm):
    """The pixel values of the checkpoint's image plan; they are compared with the processor's apart."""
    return torch.from_numpy(pixel_values(vlm.images, prepare_images(vlm.images, [np.asarray(IMAGE)]).tiles))


CASES = [(shape, "older", 1) for shape in TINY] + [("mistral", "newer", 1), ("qwen2-siglip", "newer", 3)]
CASES += [("llama-mha", "older", 2), ("llama-gqa-tied", "older", 3)]


@pytest.mark.parametrize(("shape", "layout", "shards"), CASES)
def test_kept_rows_give_what_the_removing_model_and_the_frozen_graph_compute(made, shape, layout, shards):
    vlm, place, checkpoints = made(shape, layout=layout, shards=shards)
    checkpoint = checkpoints["par-lite"]
    model, reader = stock(checkpoint), RowReader(checkpoint)
    read = reader.read(IMAGE, QUESTION)
    kept = reader.sidecar.entry.pruning.budget(vlm.spec.image_tokens).tokens
    assert read.rows.shape == (kept, vlm.spec.decoder.hidden)
    got = served(model, read, NEW_TOKENS)
    assert_same(got, removed(vlm, read, kept_layers_of(checkpoint), pixels_of(vlm), NEW_TOKENS))
    bundle = open_bundle(place / "bundle")
    engine = Engine.open(bundle, bundle.manifest.entries[0])
    layout = engine.layout(question(QUESTION))
    state = engine.start(engine.prepare([np.asarray(IMAGE)]), layout, free_slots=NEW_TOKENS)
    assert state.keep_indices == read.keep
    assert layout == read.layout
    logits = [torch.from_numpy(state.logits[0])]
    for _ in range(NEW_TOKENS):
        logits.append(torch.from_numpy(engine.decode(state, [int(logits[-1].argmax())])[0, -1].copy()))
    assert_same(got, torch.stack(logits))


@pytest.mark.parametrize(("shape", "layout", "shards"), CASES)
def test_with_every_token_it_is_the_masked_model_without_those_layers(made, shape, layout, shards):
    vlm, _, checkpoints = made(shape, layout=layout, shards=shards)
    checkpoint = checkpoints["par-lite"]
    model, processor = stock(checkpoint), LlavaProcessor.from_pretrained(str(checkpoint), backend="pil")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=IMAGE, return_tensors="pt")  # the template writes no begin token of its own
    with torch.no_grad():
        got = model(**inputs).logits[:, -1]
    image_embeds = PrunedModel(vlm).image_embeds(inputs["pixel_values"])[None]
    everything = torch.arange(vlm.spec.image_tokens)[None]
    decision = PruningDecision(everything, kept_layers_of(checkpoint), 0)
    assert_same(got, masked_logits(vlm, image_embeds, model_prompt(vlm, [QUESTION]), decision)[:, 0])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(made, version):
    vlm, _, checkpoints = made("llama-mha", versions=tuple(VERSIONS))
    reader = RowReader(checkpoints[version])
    read, kept = reader.read(IMAGE, QUESTION), kept_layers_of(checkpoints[version])
    budget = resolve(version, tokens=vlm.spec.image_tokens, layers=vlm.spec.decoder.layers)
    assert (len(read.keep), len(kept)) == budget
    model = stock(checkpoints[version])
    assert len(model.model.language_model.layers) == budget.layers
    assert_same(served(model, read, 2), removed(vlm, read, kept, pixels_of(vlm), 2))
    assert (reader.sidecar.graphs.router is None) == (version == "full")


def test_layer_indexed_keys_of_the_config_follow_the_kept_layers(made):
    vlm, _, checkpoints = made("windowed")
    checkpoint = checkpoints["par-lite"]
    assert kept_layers_of(checkpoint) == (0, 2, 3, 4)
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    assert text["num_hidden_layers"] == 4
    assert text["max_window_layers"] == 1
    assert text["layer_types"] == ["full_attention", *["sliding_attention"] * 3]
    reader = RowReader(checkpoint)
    read = reader.read(IMAGE, QUESTION)
    wanted = removed(vlm, read, kept_layers_of(checkpoint), pixels_of(vlm), 2)
    assert_same(served(stock(checkpoint), read, 2), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_dtype_and_bytes(made, dtype):
    vlm, place, checkpoints = made("mistral", dtype=dtype, shards=2)
    checkpoint = checkpoints["par-lite"]
    kept = kept_layers_of(checkpoint)
    files = sorted(checkpoint.glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    before = {name: each for file in (place / "model").glob("*.safetensors") for name, each in load_file(file).items()}
    after = {name: each for file in files for name, each in load_file(file).items()}
    assert set(index["weight_map"]) == set(after)
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in after.values())
    for name, tensor in after.items():
        place = name.partition("language_model.model.layers.")[2].partition(".")[0]
        old = name.replace(f"model.layers.{place}.", f"model.layers.{kept[int(place)]}.") if place else name
        assert tensor.dtype == before[old].dtype == dtype
        assert torch.equal(tensor, before[old])
    outside = [name for name in before if "language_model.model.layers" not in name]
    assert len(after) == len(outside) + len(kept) * (len(before) - len(outside)) // vlm.spec.decoder.layers
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_positions_matter_and_renumbering_is_another_computation(made):
    """A stack that counts the rows it is given computes something near, but not this."""
    _, _, checkpoints = made("llama-mha", versions=tuple(VERSIONS))
    model, read = stock(checkpoints["par-lite"]), RowReader(checkpoints["par-lite"]).read(IMAGE, QUESTION)
    kept, counted = served(model, read, 0), served(model, read, 0, renumbered=True)
    assert float((kept - counted).abs().max() / kept.std()) > 1e-3
