"""The model and the input processor in TensorRT-LLM's PyTorch backend, against stubs of its releases.

A stub has the signatures of its release, read in the sources that each of its files names; behind them stands stock
transformers on the CPU (stubs/stub_behaviour.py). Shown is: the module imports and registers itself, the calls fit, ids
and rows meet, and the answers are those of stock transformers fed the same rows. Nothing was run in TensorRT-LLM.
"""

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from decoder_rows import decoder_rows
from released import installed
from transformers import AutoConfig, LlavaForConditionalGeneration

from allrounder.errors import EngineUnavailable, ImageInvalid, InputInvalid, ModelUnreadable, ModelUnsupported
from allrounder.layout import sequential_layout
from allrounder.serving.kept_rows import KeptRows, RowReader
from allrounder.serving.tensorrt_llm import register
from allrounder.serving.tensorrt_llm.positions import Positions
from allrounder.serving.tensorrt_llm.requests import embedding_request, one_image, prompt_text, with_rows

STUBS = Path(__file__).parent / "stubs"
RELEASES = ["v1_0_0", "v1_1_0", "v1_2_1", "v1_3_0rc15", "v1_3_0rc22", "v1_4_0rc1"]
QUESTION = "what is it?"
SAMPLING = SimpleNamespace(add_special_tokens=True)
OURS = "allrounder.serving.tensorrt_llm.llava"


def forget():
    """Unloads what depends on the release."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("tensorrt_llm", "stub_behaviour", "stub_registry") or name == OURS:
            del sys.modules[name]


@pytest.fixture
def release(monkeypatch):
    """Gives a function that installs the stub of a release, or a changed copy of it, and gives its behaviour."""

    def install(folder):
        forget()
        monkeypatch.syspath_prepend(str(STUBS))
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        return importlib.import_module("stub_behaviour")

    yield install
    forget()


@pytest.fixture(params=RELEASES)
def stub(request, release):
    """The behaviour of one release after another, with ours registered in it."""
    behaviour = release(STUBS / request.param)
    register()
    return behaviour


@torch.no_grad()
def stock_logits(checkpoint, read, positions=None):
    """Of stock transformers, rows at their positions in the unpruned prompt, or at others."""
    model = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    rows = decoder_rows(read, model.get_input_embeddings())[None]
    places = torch.from_numpy(read.positions if positions is None else positions[None])
    return model(inputs_embeds=rows, position_ids=places, attention_mask=torch.ones_like(places)).logits[0]


def asked(reader, image, question=QUESTION):
    return {"prompt": prompt_text(reader.sidecar.chat, question), "multi_modal_data": {"image": [image]}}


def close(got, wanted):
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max() / wanted.std()) <= 1e-4


def test_importing_registers_model_and_processor(stub):
    ours = sys.modules[OURS].PrunedLlava
    assert {"LlavaForConditionalGeneration": ours} == stub.MODELS
    assert list(stub.PROCESSORS) == [ours]
    assert all(each.placeholder_map == {"image": "<image>"} for each in stub.PLACEHOLDERS.values())
    assert ours.__module__ == OURS  # later releases' workers import it by that name
    assert ours.get_model_defaults(None) == {
        "kv_cache_config": {"enable_block_reuse": False},
        "attn_backend": "FLASHINFER",
    }
    register()
    assert sys.modules[OURS].PrunedLlava is ours


@torch.no_grad()
def test_answers_are_those_of_stock_transformers_fed_the_same_rows(stub, pruned, image):
    checkpoint = pruned().checkpoint
    model, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    reader = RowReader(checkpoint)
    read = reader.read(image, QUESTION)
    ids, data = stub.prepared(processor, asked(reader, image), SAMPLING)
    words = model.config.vocab_size
    before, after = read.layout.image_index[0], read.layout.image_index[-1] + 1
    text = read.layout.input_ids
    assert ids == [*text[:before], *(words + each for each in read.keep), *text[after:]]
    assert data["multimodal_embedding"].dtype == processor.dtype == torch.float32
    close(stub.run(model, [(ids, data)], whole=True), stock_logits(checkpoint, read))
    assert model.infer_max_seq_len() == 512 - read.layout.image_tokens + len(read.keep)
    assert model.vocab_size_padded == words


def test_the_newest_executor_takes_it_for_a_model_with_images(release, pruned, image):
    behaviour = release(STUBS / "v1_4_0rc1")
    register()
    executor = importlib.import_module("tensorrt_llm._torch.pyexecutor.engine.multimodal")
    calls = importlib.import_module("tensorrt_llm._torch.pyexecutor.engine.model_call")
    checkpoint = pruned().checkpoint
    model, processor = behaviour.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    assert not isinstance(model, executor.MultimodalModelMixin)  # no tower of ours runs in the executor
    assert executor.is_multimodal(model, processor)
    ids, data = behaviour.prepared(processor, asked(RowReader(checkpoint), image), SAMPLING)
    text, rows = calls.prepare_multimodal_indices(ids, model=model)
    assert len(rows) == len(data["multimodal_embedding"])
    assert len(text) + len(rows) == len(ids)


def only_the_mixin(model, input_processor):
    return False


def another_question(model):
    return True


@pytest.mark.parametrize(
    ("answer", "says"), [(only_the_mixin, "no MultimodalModelMixin"), (another_question, r"\(model\)")]
)
def test_an_executor_that_takes_it_for_a_model_of_text_is_refused(release, pruned, monkeypatch, answer, says):
    behaviour = release(STUBS / "v1_4_0rc1")
    register()
    executor = importlib.import_module("tensorrt_llm._torch.pyexecutor.engine.multimodal")
    monkeypatch.setattr(executor, "is_multimodal", answer)
    checkpoint = pruned().checkpoint
    with pytest.raises(EngineUnavailable, match=says) as caught:
        behaviour.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    assert caught.value.where.endswith("is_multimodal")
    assert "1.4.0rc1" in str(caught.value)


@torch.no_grad()
def test_a_batch_of_prompts_and_generating_requests(stub, pruned, image):
    checkpoint = pruned().checkpoint
    model, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    reader = RowReader(checkpoint)
    first = stub.prepared(processor, asked(reader, image), SAMPLING)
    last = stub.prepared(processor, asked(reader, image.rotate(180), "and this?"), SAMPLING)
    new = [(5, 40), (7, 41)]
    together = stub.run(model, [first, last], generating=new)
    alone = [stub.run(model, [each]) for each in (first, last)]
    close(together, torch.cat([*alone, *(stub.run(model, [], generating=[each]) for each in new)]))


@torch.no_grad()
def test_rows_made_elsewhere_come_through_multi_modal_embeddings(stub, pruned, image):
    checkpoint = pruned().checkpoint
    _, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    reader = RowReader(checkpoint)
    read = reader.read(image, QUESTION)
    request = embedding_request(prompt_text(reader.sidecar.chat, QUESTION), read.rows, read.keep)
    ids, data = stub.prepared(processor, request, SAMPLING)
    wanted_ids, wanted = stub.prepared(processor, asked(reader, image), SAMPLING)
    assert ids == wanted_ids
    assert torch.equal(data["multimodal_embedding"], wanted["multimodal_embedding"])
    for rows in (np.zeros((3, 32), np.float32), np.zeros((len(wanted["multimodal_embedding"]), 31), np.float32)):
        with pytest.raises(InputInvalid, match="rows"):
            stub.prepared(processor, embedding_request(request["prompt"], rows, read.keep), SAMPLING)
    for keep in (
        None,
        read.keep[:-1],
        read.keep[::-1],
        (*read.keep[:-1], read.layout.image_tokens),
        (0,) * len(read.keep),
    ):
        with pytest.raises(InputInvalid, match="keep indices"):
            stub.prepared(processor, embedding_request(request["prompt"], read.rows, keep), SAMPLING)


@torch.no_grad()
@pytest.mark.parametrize("name", ["v1_1_0", "v1_2_1", "v1_3_0rc22", "v1_4_0rc1"])
def test_a_chunk_of_a_prompt_takes_its_own_rows(release, name, pruned, image):
    stub = release(STUBS / name)
    register()
    checkpoint = pruned().checkpoint
    model, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    ids, data = stub.prepared(processor, asked(RowReader(checkpoint), image), SAMPLING)
    rows = data["multimodal_embedding"]
    first = next(at for at, each in enumerate(ids) if each >= model.config.vocab_size)  # the chunk: two rows of it
    runtime = SimpleNamespace(num_unseen_mm_tokens=0, num_mm_tokens_in_chunk=2)
    chunk = stub.run(model, [(ids[: first + 2], data)], whole=True, runtimes=[runtime])
    close(chunk, stub.run(model, [(ids, data)], whole=True)[: first + 2])
    nothing = SimpleNamespace(num_unseen_mm_tokens=len(rows), num_mm_tokens_in_chunk=0)
    behind = first + len(rows)
    text = stub.run(model, [(ids[behind:], data)], runtimes=[nothing], starts=[behind])
    close(text, stub.run(model, [(ids[behind:], {})], starts=[behind]))


@torch.no_grad()
@pytest.mark.parametrize("shape", ["mistral", "qwen2-siglip", "qwen3-siglip-layers", "llama-wide-bias"])
def test_every_decoder_family(release, shape, pruned, image):
    stub = release(STUBS / "v1_2_1")
    register()
    checkpoint = pruned(shape).checkpoint
    config = AutoConfig.from_pretrained(str(checkpoint))
    model, processor = stub.created(checkpoint, config)
    reader = RowReader(checkpoint)
    read = reader.read(image, QUESTION)
    got = stub.run(model, [stub.prepared(processor, asked(reader, image), SAMPLING)], whole=True)
    close(got, stock_logits(checkpoint, read))


@torch.no_grad()
def test_positions_follow_from_ids_and_counted_positions_alone(pruned, image):
    reader = RowReader(pruned().checkpoint)
    read, words = reader.read(image, QUESTION), reader.sidecar.model.vocabulary
    layout = Positions.of(pruned().checkpoint)
    assert layout == (read.layout.image_index[0], len(read.keep), read.layout.image_tokens)
    ids = torch.tensor([*with_rows(read, read.keep, words), 5, 6])  # two new tokens
    last = read.layout.next_position
    wanted = [*read.positions[0].tolist(), last, last + 1]
    counted = torch.arange(len(ids), dtype=torch.int32)[None]
    got = layout.unpruned(ids, counted, words)
    assert got.dtype == torch.int32
    assert got.tolist() == [wanted]
    cut = layout.before + 1  # any part of a prompt, and a flat sequence of several
    mixed = torch.cat([ids[cut:], ids]), torch.cat([counted[:, cut:], counted], dim=1)
    assert layout.unpruned(*mixed, words).tolist() == [wanted[cut:] + wanted]


@torch.no_grad()
def test_attention_that_counts_positions_is_refused_unless_asked_for(stub, pruned, image, monkeypatch):
    checkpoint = pruned().checkpoint
    config = AutoConfig.from_pretrained(str(checkpoint))
    with pytest.raises(EngineUnavailable, match="attn_backend") as error:
        stub.created(checkpoint, config, attn_backend="TRTLLM")
    assert "FLASHINFER" in str(error.value)
    monkeypatch.setenv("ALLROUNDER_TRTLLM_POSITIONS", "counted")
    config = AutoConfig.from_pretrained(str(checkpoint))
    model, processor = stub.created(checkpoint, config, attn_backend="TRTLLM")
    assert "attn_backend" not in type(model).get_model_defaults(None)
    reader = RowReader(checkpoint)
    read = reader.read(image, QUESTION)
    got = stub.run(model, [stub.prepared(processor, asked(reader, image), SAMPLING)], whole=True)
    close(got, stock_logits(checkpoint, read, np.arange(len(read.kept))))
    kept = stock_logits(checkpoint, read)
    assert float((got - kept).abs().max() / kept.std()) > 1e-2  # another computation: this test could fail


def test_images_come_in_the_forms_of_its_loaders(release, pruned, image):
    stub = release(STUBS / "v1_2_1")
    register()
    checkpoint = pruned().checkpoint
    _, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    reader = RowReader(checkpoint)
    array = np.asarray(image)
    chw = torch.from_numpy(array.copy()).permute(2, 0, 1)
    wanted = stub.prepared(processor, asked(reader, image), SAMPLING)[1]["multimodal_embedding"]
    for form in (array, chw, chw.float() / 255):  # an array, and what torchvision's PILToTensor and ToTensor give
        got = stub.prepared(processor, asked(reader, form), SAMPLING)[1]["multimodal_embedding"]
        assert torch.equal(got, wanted)
    for wrong in (chw.double(), chw[:2], chw[0], "nothing.png"):
        with pytest.raises(ImageInvalid):
            stub.prepared(processor, asked(reader, wrong), SAMPLING)


def test_what_does_not_go_together_is_refused(release, pruned, image):
    stub = release(STUBS / "v1_3_0rc22")
    register()
    checkpoint = pruned().checkpoint
    _, processor = stub.created(checkpoint, AutoConfig.from_pretrained(str(checkpoint)))
    one = {"image": [image]}
    for request, says in [
        ({"prompt": "<image> a <image> b", "multi_modal_data": one}, "one image"),
        ({"prompt": "no image", "multi_modal_data": one}, "do not go together"),
        ({"prompt": "no image"}, "about an image"),
        ({"prompt": "some words before <image> it", "multi_modal_data": one}, "template's text"),
        ({"prompt": "<image> and none", "multi_modal_data": {}}, "do not go together"),
        ({"prompt": "<image> and two", "multi_modal_data": {"image": [image, image]}}, "do not go together"),
        ({"prompt_token_ids": [1, 2]}, "as text"),
    ]:
        with pytest.raises(InputInvalid, match=says):
            processor(request, SAMPLING)
    chat = RowReader(checkpoint).sidecar.chat
    with pytest.raises(InputInvalid, match="plain text"):
        prompt_text(chat, "what is <image>?")
    for prompt, rows in (("none", np.zeros((2, 4))), ("<image>", np.zeros(4)), ("<image>", np.zeros((0, 4)))):
        with pytest.raises(InputInvalid):
            embedding_request(prompt, rows)


def test_checkpoints_that_do_not_fit_are_refused(release, pruned, tmp_path):
    stub = release(STUBS / "v1_2_1")
    register()
    checkpoint = pruned().checkpoint
    config = AutoConfig.from_pretrained(str(checkpoint))
    model, _ = stub.created(checkpoint, config)
    with pytest.raises(ModelUnreadable, match="no decoder weights"):
        model.load_weights({"vision_tower.x": torch.zeros(1)})
    config.text_config.model_type = "gemma"
    with pytest.raises(ModelUnsupported, match="gemma"):
        stub.MODELS["LlavaForConditionalGeneration"](SimpleNamespace(pretrained_config=config))
    # transformers 4 passes over rope_parameters, and would rotate by another base in silence.
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    written = json.loads((copy / "config.json").read_text())
    written["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    (copy / "config.json").write_text(json.dumps(written))
    with pytest.raises(ModelUnsupported, match="rotary base"):
        stub.created(copy, AutoConfig.from_pretrained(str(checkpoint)))


CHANGES = {  # what a release might do one day: file, text, another text, what the error names
    "a parameter more": (
        "../stub_registry.py",
        "model_type: str,",
        "model_type: str, priority,",
        "register_input_processor",
    ),
    "a parameter less": ("_torch/models/modeling_multimodal_utils.py", "mm_token_ids=None,", "", "fuse_input_embeds"),
    "another name": ("_torch/models/modeling_utils.py", "(name: str)", "(architecture: str)", "register_auto_model"),
    "moved": ("_torch/models/modeling_auto.py", "def from_config", "def of_config", "from_config"),
    "one method more": (
        "../stub_registry.py",
        "def get_mm_token_ids",
        "@abstractmethod\n    def seal(self): ...\n\n    def get_mm_token_ids",
        "seal",
    ),
    "metadata moved": (
        "inputs/registry.py",
        "    MultimodalPlaceholderPlacement,",
        "    MultimodalPlaceholderPlacement as Placement,",
        "MultimodalPlaceholderPlacement",
    ),
    "chunks cut otherwise": (
        "_torch/models/modeling_multimodal_utils.py",
        "(mm_embeds, multimodal_params):",
        "(multimodal_params):",
        "find_input_mm_embeds",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_unknown_signature_is_refused_by_name(release, tmp_path, change):
    file, old, new, named = CHANGES[change]
    folder = shutil.copytree(STUBS / "v1_3_0rc22", tmp_path / "stub")
    shutil.copy(STUBS / "stub_registry.py", folder)  # found before the other
    path = folder / "tensorrt_llm" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    stub = release(folder)
    with pytest.raises(EngineUnavailable, match=named) as error:
        register()
    assert "1.3.0rc22" in str(error.value)
    assert "release" in str(error.value)
    assert stub.MODELS == {}


def test_a_package_that_is_missing_unknown_or_broken_is_refused(release, tmp_path, monkeypatch):
    release(tmp_path / "nothing")
    with pytest.raises(EngineUnavailable, match="not installed"):
        register()
    release(installed(tmp_path / "new", "1.5.0"))
    with pytest.raises(EngineUnavailable, match=r"1\.5\.0.*1\.0\.0 to 1\.4\.0rc1"):
        register()
    broken = shutil.copytree(STUBS / "v1_2_1", tmp_path / "broken")
    (broken / "tensorrt_llm" / "__init__.py").write_text(
        "raise OSError('libcuda.so.1: cannot open shared object file')\n"
    )
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not each.startswith(str(tmp_path))])
    release(broken)
    with pytest.raises(EngineUnavailable, match=r"libcuda\.so\.1") as error:
        register()
    assert "container" in str(error.value)


def test_a_run_of_image_tokens_is_one_image():
    assert one_image([1, 9, 9, 9, 2], 9) == (1, 9, 2)
    assert one_image([9], 9) == (9,)
    assert one_image([1, 2], 9) == (1, 2)
    with pytest.raises(InputInvalid, match="one image"):
        one_image([9, 1, 9], 9)


def test_a_kept_row_has_an_id_beyond_the_vocabulary():
    layout = sequential_layout([1, 9, 2, 9, 3], 9, [2, 3])
    read = KeptRows(np.zeros((3, 4)), (1, 2, 4), layout)
    assert with_rows(read, read.keep, 100) == [1, 101, 2, 102, 104, 3]
    assert with_rows(read, range(3), 100) == [1, 100, 2, 101, 102, 3]
