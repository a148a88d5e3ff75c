"""The memory estimate against what the allocator really handed out, on models of two sizes."""

from __future__ import annotations

import json
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from allrounder.commands.cli import run_command
from allrounder.errors import InputInvalid
from allrounder.images.planning import plan_images
from allrounder.router.training.examples import Example
from allrounder.router.training.known import known_spec
from allrounder.router.training.losses import gate_loss
from allrounder.router.training.memory import Means, estimate
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.references import TOGETHER
from allrounder.router.training.train import RunOptions, _Trainer
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.random.model import Shape, write_random_checkpoint

ANSWER = 8
SMALL = Shape(text={"num_hidden_layers": 6}, vision={"image_size": 168})  # 144 image tokens
LARGER = Shape(
    text={
        "num_hidden_layers": 10,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 2000,
    },
    vision={"image_size": 224},  # 256 image tokens
)
# 36 tokens a tile; the album's images become the whole and 2 x 3 tiles.
TILES = Shape(
    model_type="llava_onevision",
    text_type="qwen2",
    text={"num_hidden_layers": 6, "max_position_embeddings": 1024},
    vision_type="siglip_vision_model",
    vision={"image_size": 84},
    top={
        "vision_feature_select_strategy": "full",
        "vision_feature_layer": -1,
        "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[84, 84], [168, 252]],
    },
)
SIZE = (168, 252)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[SMALL, LARGER, TILES], ids=["small", "larger", "tiles"])
def vlm(request, tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), request.param))


class Album:
    """Two images with as many questions as are answered together."""

    name = "album"

    def __len__(self):
        return 2 * TOGETHER

    def __getitem__(self, index):
        pixels = np.random.default_rng(self.image(index)).integers(0, 256, (*SIZE, 3), np.uint8)
        return Example(pixels, self.question(index))

    def image(self, index):
        return index // TOGETHER

    def question(self, index):
        return f"what is number {index} in this image?"


def peak(function) -> int:
    """Returns the most bytes that a call had at once, beyond what was there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "frugal"),
    [
        ({}, False),
        ({}, True),
        ({"budgets": ("t30-l4",), "batch": 2}, False),
    ],
)
def test_the_estimate_is_near_what_is_used(vlm, tmp_path, changes, frugal):
    options = TrainOptions(**({"budgets": ("par-base",)} | changes))
    run = RunOptions(steps=100, answer_tokens=ANSWER, checkpoint=frugal)
    trainer = _Trainer(vlm, (Album(), Album()), tmp_path, (options, run, gate_loss))
    references = trainer._training
    prompt = references.batch(range(2 * TOGETHER)).prompt
    trainer._advance()  # the optimiser's state is there from now on
    moving = peak(trainer._advance)
    reading = peak(lambda: references._compute(list(range(TOGETHER))))
    weights = [*vlm.model.parameters(), *trainer._router.parameters()]
    weights += [value for state in trainer._optimizer.state.values() for value in state.values()]
    used = sum(value.nbytes for value in weights) + max(moving, reading)
    (image,) = plan_images(vlm.images, [SIZE])
    means = Means(
        checkpoint=frugal,
        answer=ANSWER,
        text=prompt.input_ids.shape[1] - image.tokens,
        image_tokens=image.tokens,
        tiles=image.tiles,
    )
    found = estimate(vlm.spec, options, means)
    assert 0.6 < used / found.device < 1.2, f"{used / 2**20:.1f} MiB used, {found.device / 2**20:.1f} estimated"
    model_weights = next(part.bytes for part in found.parts if part.name == "model, frozen")
    assert model_weights == pytest.approx(sum(value.nbytes for value in vlm.model.parameters()), rel=0.02)


def test_more_takes_more():
    spec = known_spec("llava-1.5-7b")
    assert (spec.image_tokens, spec.decoder.layers, spec.decoder.hidden) == (576, 32, 4096)

    def device(means=None, **options):
        return estimate(spec, TrainOptions(**options), means or Means(weight=2, autocast=True)).device

    usual = device()
    assert device(batch=8) > usual
    assert device(window=4.0) > usual
    assert device(router_layers=2) > usual
    assert device(Means(weight=2, autocast=True, checkpoint=True)) < usual
    assert device(Means(weight=4)) > usual
    assert device(Means(weight=2, autocast=True, image_tokens=2880, tiles=5)) > usual
    assert estimate(spec, TrainOptions(), Means(cache_mib=7)).main == 7 << 20
    with pytest.raises(InputInvalid, match=r"llava-1\.5-7b"):
        known_spec("llava-9")


def test_the_known_model_has_the_published_number_of_weights():
    found = estimate(known_spec("llava-1.5-7b"), TrainOptions(), Means(weight=1))
    assert found.parts[0].bytes == pytest.approx(7_063_427_072, rel=0.001)


@pytest.mark.parametrize("model", ["llava-1.5-7b", "demo", "directory"])
def test_the_command_needs_a_config_alone(model, tmp_path, capsys):
    if model == "directory":
        whole = write_random_checkpoint(tmp_path / "whole", SMALL)
        model = tmp_path / "config"
        model.mkdir()
        (model / "config.json").write_bytes((whole / "config.json").read_bytes())
    assert run_command("train-router", ["--model", str(model), "--estimate", "--precision", "bf16"]) == 0
    said = capsys.readouterr().out.splitlines()
    report = json.loads(said[-1])
    assert report["device_bytes"] > sum(size for name, size in report["parts"].items() if name.startswith("model, f"))
    assert report["main_bytes"] == 2048 << 20
    assert any("peak on the device" in line for line in said)
    assert report["image_tokens"] == (576 if isinstance(model, str) else 144)
    assert run_command("train-router", ["--model", "nobody/nothing", "--estimate"]) == 2
    assert "llava-1.5-7b" in capsys.readouterr().err


def test_the_command_counts_as_many_tiles_as_an_image_can_have(tmp_path, capsys):
    def told(place):
        assert run_command("train-router", ["--model", str(place), "--estimate"]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out.splitlines()[-1]), printed

    model = write_random_checkpoint(tmp_path / "whole", TILES)
    report, printed = told(model)
    (largest,) = plan_images(load_model(model).images, [SIZE])
    assert 0 <= report["image_tokens"] - largest.tokens <= 12  # a canvas of 12 rows: as many, or a few more
    assert "7 tiles" in printed.out
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.json").write_bytes((model / "config.json").read_bytes())
    less, printed = told(config)
    assert less["image_tokens"] == 36
    assert less["device_bytes"] < report["device_bytes"]
    assert "note: images are counted as one tile each, 36 tokens" in printed.err
