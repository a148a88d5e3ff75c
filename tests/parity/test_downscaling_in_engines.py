"""Smaller images in engines of a model of tiles: their image tokens are the stock model's, and a report compares them.

A tiny random LLaVA-OneVision. Its stock model gives the tokens of fewer canvases where its config names fewer, and of
one tile, with a newline behind it, where it is told that the image is one of several.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allrounder import build_engine
from allrounder.calib.fidelity import Contender, Seen, measure
from allrounder.calib.report.bundle import Sources
from allrounder.calib.report.scores import PrunerScores
from allrounder.calib.report.tiles import tables
from allrounder.chat.messages import question
from allrounder.commands.cli import run_command
from allrounder.commands.pipeline.random_model import write_random_model
from allrounder.engines.bundle.reader import open_bundle
from allrounder.fidelity_report import ROUTER, read_report
from allrounder.images.pixels import pixel_values
from allrounder.images.planning import plan_images
from allrounder.images.shown import prepare_shown, whole
from allrounder.prompts import read_prompts
from allrounder.pruning import parse_keep
from allrounder.router.pruners import Setting, embed_pixels, pruner, shown_by
from allrounder.runtime.engine import EngineOptions, Scores, open_engines
from allrounder.runtime.image import to_rgb
from allrounder.versions import kept_tokens
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import prompt_batch
from allrounder.vlm.random.model import SHAPES

# Of 2, 3, 5, 7 and 10 tiles, 9 tokens each; height and width.
SIZES = [(40, 40), (42, 84), (84, 84), (84, 126), (130, 120), (30, 33), (80, 35), (90, 80)]
TOLERANCE = 1e-4  # of the reference's standard deviation
ASKED = 2  # questions per image


class Place:
    """A model, its router, and questions about images of several sizes."""

    def __init__(self, folder: Path) -> None:
        self.model, self.router, self.folder = folder / "model", folder / "router", folder
        write_random_model(folder, SHAPES["onevision-siglip-qwen3"])
        self.questions = self._write("questions", seed=1)
        self.ranking = self._write("ranking", seed=2)

    def _write(self, name: str, seed: int) -> Path:
        (self.folder / name).mkdir()
        lines = []
        for number, size in enumerate(SIZES):
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(self.folder / name / f"{number}.png")
            asked = (f"what is {one} of {number}?" for one in range(ASKED))
            lines += [{"image": f"{number}.png", "question": one, "answer": "x", "kind": name} for one in asked]
        path = self.folder / name / "prompts.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def engines(place):
    """`full`, and versions that keep 4/9 and 1/9 of the tokens and choose layers per input."""
    out = place.folder / "bundle"
    arguments = ["--model", place.model, "--router", place.router, "--calib", place.ranking, "--out", out]
    arguments += ["--layer-policy", "dynamic", "--version", "full,par-max,par-nano"]
    assert build_engine.main(list(map(str, arguments))) == 0
    bundle = open_bundle(out)
    found = open_engines(bundle, bundle.manifest.entries, EngineOptions(threads=1))
    return {engine.entry.version: engine for engine in found}


def stock_tokens(vlm, shown, rgb) -> np.ndarray:
    """The stock model's image tokens of what is shown, [tokens, H]."""
    ((image,), tiles) = shown.images, prepare_shown(vlm.images, shown, [rgb]).tiles
    pixels, size = torch.from_numpy(pixel_values(vlm.images, tiles)), rgb.shape[:2]
    config, known = vlm.model.config, vlm.model.config.image_grid_pinpoints
    if image.planned.tiles == 1:
        twice = torch.cat([pixels, pixels])
        several = {"image_sizes": torch.tensor([size, size]), "batch_num_images": torch.tensor([2])}
        found = vlm.model.get_image_features(twice, **several).pooler_output[0]
        return found.numpy() if image.given is None else found.numpy()[list(image.given)]
    rows, columns = image.planned.views[1].rows, image.planned.views[1].columns
    vlm.model.model.config.image_grid_pinpoints = config.image_grid_pinpoints = [[42 * rows, 42 * columns]]
    try:
        alone = {"image_sizes": torch.tensor([size]), "batch_num_images": torch.tensor([1])}
        return torch.cat(list(vlm.model.get_image_features(pixels, **alone).pooler_output)).numpy()
    finally:
        vlm.model.model.config.image_grid_pinpoints = config.image_grid_pinpoints = known


@torch.no_grad()
def test_image_tokens_are_the_stock_models_and_within_the_budget(place, engines):
    vlm, show, ways = load_model(place.model), shown_by("downscale"), set()
    for prompt in read_prompts(place.questions).prompts[::ASKED]:
        rgb = to_rgb(prompt.image)
        (image,) = plan_images(vlm.images, [rgb.shape[:2]])
        for keep in map(parse_keep, ("0.444444444", "0.25", "0.111111111", "0.7")):
            shown = show(vlm.images, [rgb.shape[:2]], keep)
            engine, tiles = engines["full"], prepare_shown(vlm.images, shown, [rgb])
            got, wanted = shown.of(engine.embed(tiles).numpy()), stock_tokens(vlm, shown, rgb)
            assert len(got) == shown.images[0].tokens == shown.images[0].placed.tokens
            assert len(got) <= kept_tokens(keep, image.tokens)
            assert np.abs(got - wanted).max() <= TOLERANCE * wanted.std()
            ways.add((min(shown.images[0].planned.tiles, 2), shown.images[0].given is None))
    assert ways == {(1, False), (1, True), (2, True)}, "a part of a tile, a tile, and fewer tiles"


def test_a_version_runs_on_what_is_shown_and_keeps_all_of_it(place, engines):
    """And scores are of what is shown: those that the pruner itself gives of it."""
    prompts = read_prompts(place.questions).prompts
    scores = PrunerScores(Sources(place.model, place.router, 2), prompts[:2], place.questions.parent)
    seen: list[Seen] = []

    def scorer(one: Seen):
        seen.append(one)
        return scores.scorer(f"downscale+{ROUTER}")(one)

    nano = engines["par-nano"]
    contenders = [Contender(nano, scorer, shown_by("downscale")), Contender(nano, scores.scorer("random+random"))]
    smaller, dropped = measure(engines["full"], contenders, prompts)
    plan = load_model(place.model).images
    planned = [plan_images(plan, [to_rgb(prompt.image).shape[:2]])[0] for prompt in prompts]
    budget = [kept_tokens(nano.entry.pruning.keep_rule, each.tokens) for each in planned]
    for each in (smaller, dropped):
        assert each.image_tokens.tolist() == [image.tokens for image in planned]
        assert each.tiles.tolist() == [image.tiles for image in planned]
    assert dropped.kept_tokens.tolist() == budget
    assert [len(one.image_embeds) for one in seen] == smaller.kept_tokens.tolist()
    assert (smaller.kept_tokens <= budget).all()
    assert (smaller.kept_tokens >= 2).all()
    assert len(set(smaller.kept_tokens)) > 2
    assert (smaller.kl != dropped.kl).all()


@pytest.mark.parametrize("name", ["downscale+shortgpt", "divprune+random"])
def test_a_pruner_reaches_an_engine_as_the_docs_say(place, engines, name):
    """The code of docs/pruners.md; kept is what a version keeps, or all of a smaller image."""
    engine, vlm = engines["par-max"], load_model(place.model)
    rgb, text = to_rgb(place.questions.parent / "2.png"), "what is it?"
    plan, rule = engine.model.images, engine.entry.pruning.keep_rule
    calibration = (_view(vlm, engine, whole(plan, [rgb.shape[:2]], rule), rgb, text),)
    prune = pruner(name, Setting(vlm, prune_layer=2, seed=0, calibration=calibration))
    shown = prune.show(plan, [rgb.shape[:2]], rule)
    layout = engine.layout_of(engine.ids(question(text)), [each.placed for each in shown.images])
    view = _view(vlm, engine, shown, rgb, text)
    scores = Scores(*(part[0].numpy() for part in prune.scores(view)))
    image_embeds = view.image_embeds[0].numpy()
    state = engine.prefill(layout, image_embeds, scores, keep=shown.keep, free_slots=16)
    (image,) = plan_images(plan, [rgb.shape[:2]])
    most = kept_tokens(rule, image.tokens)
    assert len(state.keep_indices) == (shown.images[0].tokens if name.startswith("downscale") else most) <= most
    assert len(state.kept_layers) == engine.entry.pruning.layers


def _view(vlm, engine, shown, rgb, text):
    layout = engine.layout_of(engine.ids(question(text)), [each.placed for each in shown.images])
    image_embeds = shown.of(engine.embed(prepare_shown(engine.model.images, shown, [rgb])).numpy())
    return embed_pixels(vlm, torch.tensor(image_embeds)[None], prompt_batch([layout]), [text])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_report_of_a_model_of_tiles(place, tmp_path):
    """The whole command: rows, counts by number of tiles, and the page."""
    pytest.importorskip("matplotlib")
    out, page = tmp_path / "report.json", tmp_path / "report.html"
    arguments = ["--model", place.model, "--router", place.router, "--calib", place.questions, "--rank", place.ranking]
    arguments += ["--work", tmp_path / "work", "--out", out, "--page", page, "--jobs", 1, "--prune-layer", 2]
    assert run_command("report", list(map(str, arguments))) == 0
    report, plan = read_report(out), load_model(place.model).images
    planned = [plan_images(plan, [size])[0] for size in SIZES]
    assert report.image_tokens == round(np.mean([image.tokens for image in planned]))
    assert [group.tiles for group in report.by_tiles] == sorted({image.tiles for image in planned})
    for group in report.by_tiles:
        mine = [image.tokens for image in planned if image.tiles == group.tiles]
        assert (group.questions, group.image_tokens) == (ASKED * len(mine), np.mean(mine))
        for row in group.rows:
            known = report.row(row.version, row.layer_policy, row.pruner)
            if known is None:
                assert (row.version, row.kept_tokens) == ("full", group.image_tokens)
                continue
            budget = np.mean([kept_tokens(known.pruning.keep_rule, tokens) for tokens in mine])
            assert row.kept_tokens <= budget if row.pruner.startswith("downscale") else row.kept_tokens == budget
    for each in report.comparisons:
        assert each.other_kept_tokens <= each.kept_tokens
        assert (each.other_kept_tokens < each.kept_tokens) == each.pruner.startswith("downscale")
    assert all(cost.ttft > 0 for cost in report.costs)
    known = {(cost.version, cost.layer_policy): cost.flops_downscaled for cost in report.costs}
    assert known["par-lite", "static"] is None
    assert 0 < known["par-lite", "dynamic"] < report.row("par-lite", "dynamic").pruning.layers / report.layers
    assert {line.pruner for line in tables(report)[-1].lines} > {ROUTER, "downscale+none"}
    text = page.read_text(encoding="utf-8")
    assert "By number of tiles" in text
    assert "agreement with full, by the number of tiles, by pruner: router" in text
