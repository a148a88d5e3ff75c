"""Freezing a tiny model: what the directory holds, what is shared, what is refused."""

import itertools
import shutil

import msgspec
import onnx
import pytest
import torch
from msgspec.structs import replace
from prunings import pruning

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.frozen import verify_frozen
from allrounder.errors import BundleCorrupt, InputInvalid, InvalidBudget, RouterMismatch
from allrounder.export.freezer import FROZEN, FreezeOptions, Freezer, default_limits
from allrounder.golden import GOLDEN, TOKENIZER, decode_golden
from allrounder.hashing import file_record
from allrounder.manifest import SCHEMA, Frozen, Limits, Manifest, decode
from allrounder.model_files import MODEL_FOLDER, MODEL_RECORD, read_model
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config
from allrounder.vlm.model import load_text
from allrounder.vlm.processor import load_processor
from allrounder.vlm.random.model import write_random_checkpoint

SHAPE = "llama-gqa-tied"  # 16 image tokens, 5 layers
LITE = pruning((4, 3))
NANO = pruning((2, 4))
FULL = pruning((1, 5), 0, (0, 1, 2, 3, 4), "full")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    vlm = write_random_checkpoint(folder / "model", SHAPE)
    checkpoint = Checkpoint(vlm)
    torch.manual_seed(0)
    router = MetaRouter(checkpoint.spec, read_config(vlm).text_config)
    save_router(router, folder / "router", model_digest=checkpoint.digest)
    return vlm, folder / "router"


def freeze(sources, out, *requests, options=None):
    freezer = Freezer(*sources, out, options)
    freezer.shared()
    for request in requests:
        freezer.add(request)
    return freezer.finish()


@pytest.fixture(scope="module")
def frozen(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("frozen") / "out"
    return out, freeze(sources, out, FULL, LITE, NANO)


def listed(folder):
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_every_file_is_listed_and_hashed(frozen):
    out, record = frozen
    assert decode((out / FROZEN).read_bytes(), Frozen, where=FROZEN) == record
    assert {name for name in listed(out) if not name.startswith(f"{MODEL_FOLDER}/")} == set(record.files) | {FROZEN}
    assert listed(out / MODEL_FOLDER) == set(read_model(out).files) | {MODEL_RECORD}
    assert all(file_record(out / name) == each for name, each in record.files.items())


def test_the_model_is_described(sources, frozen):
    model = frozen[1].model
    assert (model.images.tokens, model.layers, model.hidden, model.vocabulary) == (16, 5, 32, 320)
    assert (model.name, model.images.size, model.stop_ids) == ("model", 56, (1,))
    assert model.digest == Checkpoint(sources[0]).digest
    assert model.router is not None


def test_versions_share_graphs_and_weights(frozen):
    out, record = frozen
    full, lite, nano = record.versions
    assert lite.decoder == nano.decoder != full.decoder
    weights = [name for name in record.files if name.endswith(".bin")]
    assert sorted(name.split("/")[-1].split("-")[0] for name in weights) == ["model", "router"]
    assert all((out / name).stat().st_size % 4096 == 0 for name in weights)


def test_a_static_version_names_its_layers_and_a_dynamic_one_does_not(sources, tmp_path):
    static = pruning((4, 3), 2, (0, 1, 4))
    record = freeze(sources, tmp_path / "out", LITE, static, FULL)
    assert [version.pruning.kept_layers for version in record.versions] == [None, (0, 1, 4), (0, 1, 2, 3, 4)]


def test_freezing_again_gives_the_same_bytes(sources, frozen, tmp_path):
    again = freeze(sources, tmp_path / "out", FULL, LITE, NANO)
    assert again == frozen[1]


def test_a_version_may_follow_and_the_same_one_replaces(sources, tmp_path):
    freezer = Freezer(*sources, tmp_path / "out")
    freezer.shared()
    freezer.add(FULL)
    assert [version.pruning.version for version in freezer.finish().versions] == ["full"]
    freezer.add(LITE)
    freezer.add(FULL)
    assert sorted(version.pruning.version for version in freezer.finish().versions) == ["full", "t4-l3"]


def test_golden_prompts_are_hugging_faces_own(sources, frozen):
    out, record = frozen
    processor = load_processor(sources[0], "llava")
    prompts = decode_golden((out / GOLDEN).read_bytes())
    assert len(prompts) >= 10
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    assert image == record.model.image_token_id
    assert {prompt.input_ids.count(image) for prompt in prompts} >= {0, 1, 2}
    for prompt in prompts:
        assert list(prompt.input_ids) == processor.tokenizer(prompt.text)["input_ids"]
    assert (out / TOKENIZER).read_text(encoding="utf-8") == processor.tokenizer.backend_tokenizer.to_str(pretty=True)


def test_weights_of_a_bundle_are_linked_not_written(sources, frozen, tmp_path):
    out, record = frozen
    bundle = shutil.copytree(out, tmp_path / "bundle")
    again = freeze(sources, tmp_path / "out", LITE, options=FreezeOptions(reuse=opened(bundle, record)))
    for name in (name for name in record.files if name.endswith(".bin")):
        assert again.files[name] == record.files[name]
        assert (tmp_path / "out" / name).samefile(bundle / name)


def test_a_damaged_bundle_is_not_reused(sources, frozen, tmp_path):
    out, record = frozen
    bundle = shutil.copytree(out, tmp_path / "bundle")
    name = next(name for name in record.files if "model-" in name)
    with (bundle / name).open("r+b") as file:
        file.write(b"\xff")
    again = freeze(sources, tmp_path / "out", LITE, options=FreezeOptions(reuse=opened(bundle, record)))
    with pytest.raises(BundleCorrupt, match="has changed") as caught:
        verify_frozen(tmp_path / "out", again)
    assert caught.value.where == tmp_path / "out" / name


def opened(folder, record):
    """A frozen directory as if it were a bundle."""
    fields = {key: getattr(record, key) for key in ("producer", "model", "chat", "limits", "files")}
    return OpenBundle(folder, Manifest(schema=SCHEMA, entries=(), **fields), "")


def test_what_prunes_needs_a_router(sources, tmp_path):
    freezer = Freezer(sources[0], None, tmp_path / "out")
    freezer.shared()
    assert freezer.add(FULL).pruning.kept_layers == (0, 1, 2, 3, 4)
    assert freezer.finish().graphs.router is None
    for request in (LITE, pruning((4, 5), 2, (0, 1, 2, 3, 4))):
        with pytest.raises(InputInvalid, match="router"):
            freezer.add(request)


@pytest.mark.parametrize(
    "request_",
    [
        replace(LITE, layer_policy="static"),
        pruning((4, 3), 2, (0, 1)),
        replace(LITE, kept_layers=(0, 1, 2)),
        pruning((4, 3), 4),
    ],
)
def test_impossible_requests_are_refused(sources, tmp_path, request_):
    freezer = Freezer(*sources, tmp_path / "out")
    freezer.shared()
    with pytest.raises(InvalidBudget):
        freezer.add(request_)


def test_a_router_of_another_model_is_refused(sources, tmp_path):
    other = write_random_checkpoint(tmp_path / "other", SHAPE, seed=1)
    with pytest.raises(RouterMismatch):
        Freezer(other, sources[1], tmp_path / "out").shared()


def test_a_place_that_is_not_empty_is_refused(sources, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputInvalid):
        Freezer(*sources, tmp_path)
    assert listed(tmp_path) == {"mine.txt"}


def test_finishing_before_anything_is_written_is_refused(sources, tmp_path):
    with pytest.raises(InputInvalid, match="shared"):
        Freezer(*sources, tmp_path / "out").finish()


def test_limits_fit_the_model(sources, tmp_path):
    spec = Checkpoint(sources[0]).spec
    limits = default_limits(spec, load_text(sources[0], spec).images)
    assert limits.text_tokens + spec.image_tokens + limits.new_tokens <= spec.decoder.max_positions
    assert limits.image_tokens == limits.images * spec.image_tokens < spec.decoder.max_positions
    for wrong in ({"text_tokens": limits.text_tokens + 1000}, {"image_tokens": spec.decoder.max_positions}):
        with pytest.raises(InputInvalid, match="longest"):
            Freezer(*sources, tmp_path / "out", FreezeOptions(limits=msgspec.structs.replace(limits, **wrong)))
    short = Limits(images=1, image_tokens=16, text_tokens=20, new_tokens=5, batch=2)
    assert freeze(sources, tmp_path / "out", FULL, options=FreezeOptions(limits=short)).limits == short


def test_offsets_do_not_overlap(frozen):
    out, record = frozen
    model = onnx.load(out / record.versions[0].decoder, load_external_data=False)
    spans = sorted(
        (int(entry["offset"]), int(entry["offset"]) + int(entry["length"]))
        for entry in ({each.key: each.value for each in tensor.external_data} for tensor in model.graph.initializer)
        if entry
    )
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
