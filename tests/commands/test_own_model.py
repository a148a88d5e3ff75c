"""The commands that the README gives for a model of one's own, on a random model whose images are tiles."""

import json

import numpy as np
from PIL import Image
from tile_models import SIZES

from allrounder import build_engine
from allrounder.commands.cli import run_command
from allrounder.vlm.random.model import write_random_checkpoint


def write_prompts(folder, count):
    """A prompts file about images of all aspects."""
    folder.mkdir()
    lines = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % len(SIZES)], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": f"what is it, number {number}?"}))
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "prompts.jsonl"


def test_train_build_run_calibrate_inspect_verify(tmp_path, capsys):
    vlm = str(write_random_checkpoint(tmp_path / "model", "internvl-qwen2"))
    prompts = str(write_prompts(tmp_path / "p", 8))
    router, out = str(tmp_path / "router"), str(tmp_path / "bundle")
    train = ["--model", vlm, "--prompts", prompts, "--out", router, "--steps", "2", "--batch", "2"]
    assert run_command("train-router", train) == 0
    versions = json.loads(capsys.readouterr().out.splitlines()[-1])["versions"]
    assert all(each["divergence"] > 0 for each in versions.values())
    build = ["--model", vlm, "--router", router, "--version", "full,par-lite", "--calib", prompts, "--out", out]
    assert build_engine.main(build) == 0
    built = json.loads(capsys.readouterr().out.splitlines()[-1])["entries"]
    assert all(each["fidelity"]["questions"] == 8 and each["latency"] for each in built)
    image = str(tmp_path / "p" / "0.png")  # of several tiles
    asked = ["--bundle", out, "--image", image, "--question", "what?", "--version", "par-lite"]
    assert run_command("run", asked) == 0
    assert "of images" in capsys.readouterr().out
    assert run_command("calibrate", [out, "--calib", prompts]) == 0
    assert run_command("inspect", [out]) == 0
    assert "tokens of an image" in capsys.readouterr().out
    assert run_command("verify", [out]) == 0
