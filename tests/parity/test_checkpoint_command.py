"""``build --backend checkpoint`` on a tiny random model: what it prints and writes, and what it refuses."""

import contextlib
import json
import shlex
import shutil
import sys
import types

import numpy as np
import pytest

from allrounder import build_engine
from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.engines.checkpoint.sidecar import open_sidecar
from allrounder.engines.onnxruntime import build as onnxruntime
from allrounder.engines.table import BACKENDS, Row
from allrounder.errors import InputInvalid
from allrounder.runtime.engine import Engine
from allrounder.serving.kept_rows import RowReader

DECISION = ("--backend", "checkpoint", "--prune-layer", "0", "--layer-policy", "static")


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """The default version as a checkpoint, which no test changes."""
    out = tmp_path_factory.mktemp("built") / "deep" / "checkpoint"
    assert build_engine.main(tiny.arguments(out, *DECISION)) == 0
    return out


@pytest.fixture
def build(tiny, capsys):
    def run(out, *more, **changed):
        code = build_engine.main(tiny._replace(**changed).arguments(out, *more))
        printed, told = capsys.readouterr()
        return code, printed, told

    return run


def test_the_last_line_tells_what_the_sidecar_holds(build, tmp_path):
    out = tmp_path / "c"
    code, printed, told = build(out, *DECISION, "--version", "par-nano")
    assert code == 0
    report = json.loads(printed.splitlines()[-1])
    assert report["bundle"] == str(out)
    assert set(report["phases"]) >= {"freeze", "ranking", "verify", "fidelity", "publish"}
    assert "latency" not in report["phases"]
    sidecar = json.loads((out / "allrounder.json").read_text())
    assert report["entries"] == [sidecar["entry"]]
    assert (out / "config.json").is_file()
    assert "position" in told
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_it_holds_the_decision_and_the_figures_of_the_frozen_bundle(build, checkpoint, tmp_path):
    code, _, _ = build(tmp_path / "bundle", "--prune-layer", "0", "--layer-policy", "static")
    assert code == 0
    bundle = open_bundle(tmp_path / "bundle")
    (entry,) = bundle.manifest.entries
    _, sidecar = open_sidecar(checkpoint)
    same = ("pruning", "precision", "fidelity")
    assert all(getattr(entry, name) == getattr(sidecar.entry, name) for name in same)
    assert entry.fidelity is not None
    assert sidecar.model == bundle.manifest.model
    # The same rows, bit by bit, from graphs with weights of their own.
    rgb = np.random.default_rng(1).integers(0, 256, (40, 52, 3), np.uint8)
    read = RowReader(checkpoint).read(rgb, "what is it?")
    engine = Engine.open(bundle, entry)
    image_embeds, layout = engine.embed_image(rgb), engine.layout(question("what is it?"))
    state = engine.prefill(layout, image_embeds, engine.route(layout, image_embeds), free_slots=1)
    assert read.keep == state.keep_indices
    assert np.array_equal(read.rows, image_embeds.numpy()[list(read.keep)])


def test_image_graphs_in_half_precision(build, checkpoint, tmp_path):
    """The precision is that of the graphs; the weights are the model's, byte for byte, in both."""
    code, _, _ = build(tmp_path / "c", *DECISION, "--precision", "fp16")
    assert code == 0
    rgb = np.random.default_rng(1).integers(0, 256, (40, 52, 3), np.uint8)
    half, single = (RowReader(path).read(rgb, "what is it?") for path in (tmp_path / "c", checkpoint))
    assert half.rows.dtype == np.float16
    assert half.layout == single.layout
    both = sorted(set(half.keep) & set(single.keep))  # near-ties may fall to the other side
    assert len(both) > len(single.keep) // 2
    rows = [read.rows[[read.keep.index(token) for token in both]].astype(np.float32) for read in (half, single)]
    assert np.abs(rows[0] - rows[1]).max() <= 0.02 * rows[1].std()
    same = "model.safetensors"
    assert open_sidecar(tmp_path / "c")[1].files[same] == open_sidecar(checkpoint)[1].files[same]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--prune-layer", "2"), "one KV length"),
        ((), "one KV length"),  # the default prune layer is 2
        (("--prune-layer", "0", "--layer-policy", "dynamic"), "per input"),
        (("--prune-layer", "0", "--version", "par-lite,par-nano"), "one version at a time"),
    ],
)
def test_the_command_that_a_refusal_names_is_not_refused(build, tiny, tmp_path, more, reason):
    out = tmp_path / "a place"
    code, printed, told = build(out, "--backend", "checkpoint", *more)
    assert (code, printed) == (2, "")
    assert reason in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
    line = shlex.split(told.rpartition("remedy: ")[2])
    assert line[:2] == ["allrounder", "build"]
    assert all(str(path) in line for path in (tiny.vlm, tiny.router, tiny.prompts, out))
    assert build_engine.main(line[2:]) == 0
    assert (out / "config.json").is_file()


def test_building_again_needs_force(build, checkpoint, tmp_path):
    out = shutil.copytree(checkpoint, tmp_path / "c")
    code, printed, told = build(out, *DECISION, "--version", "par-nano")
    assert (code, printed) == (2, "")
    assert "--force" in told
    assert "freeze" not in told, "it is refused before the work"
    code, _, _ = build(out, *DECISION, "--version", "par-nano", "--force")
    assert code == 0
    assert open_sidecar(out)[1].entry.pruning.version == "par-nano"


def test_a_bundle_is_left_alone(build, bundle_copy):
    code, _, told = build(bundle_copy, *DECISION, "--force")
    assert code == 2
    assert "not a pruned checkpoint" in told
    open_bundle(bundle_copy)


def test_a_checkpoint_is_no_place_for_a_bundle(build, checkpoint, tmp_path):
    out = shutil.copytree(checkpoint, tmp_path / "c")
    code, _, told = build(out)
    assert code == 2
    assert "not a bundle" in told
    open_sidecar(out)


def test_full_needs_no_router_and_no_ranking(tiny, tmp_path, capsys):
    arguments = ["--model", str(tiny.vlm), "--version", "full", "--backend", "checkpoint"]
    assert build_engine.main([*arguments, "--out", str(tmp_path / "c")]) == 0
    (entry,) = json.loads(capsys.readouterr().out.splitlines()[-1])["entries"]
    assert (entry["pruning"]["layers"], entry["fidelity"]) == (8, None)
    assert len(RowReader(tmp_path / "c").read(np.zeros((9, 9, 3), np.uint8), "what?").keep) == 16


def test_without_prompts_there_is_no_ranking(tiny, tmp_path, capsys):
    paths = ["--model", str(tiny.vlm), "--router", str(tiny.router), "--out", str(tmp_path / "c")]
    assert build_engine.main([*paths, *DECISION]) == 2
    assert "--calib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_backend_more_is_one_line_in_the_dict(build, tiny, tmp_path, monkeypatch):
    """A module of three functions and two constants, made up here, is asked, fed and published by the same command."""
    module = types.ModuleType("toy")
    module.build, module.PLACE, module.POLICIES = onnxruntime.build, "toys/{model}-{version}", ("static",)

    def check(asked):
        if asked.dynamic:
            raise InputInvalid("toys are static", remedy=asked.static_command())

    class Output:
        notes = ("it is a toy",)

        def __init__(self, place, staging):
            self.place, self.staging = place, staging

        def publish(self, frozen_dir, entries):
            assert (frozen_dir / "frozen.json").is_file()
            self.place.write_text(entries[0].version)
            return entries

    @contextlib.contextmanager
    def opened(place, *, force, progress):
        with Staging(place.with_name("measured"), progress=progress) as staging:
            yield Output(place, staging)

    module.check, module.opened = check, opened
    monkeypatch.setitem(sys.modules, "toy.build", module)
    monkeypatch.setitem(BACKENDS, "toy", Row("toy", runs=False))
    assert build(tmp_path / "t", "--backend", "toy", "--layer-policy", "dynamic")[0] == 2
    code, printed, told = build(tmp_path / "t", "--backend", "toy")
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["entries"][0]["pruning"]["layer_policy"] == "static"
    assert "note: it is a toy" in told
    assert (tmp_path / "t").read_text() == "par-lite"
    (tmp_path / "toys").mkdir()
    monkeypatch.chdir(tmp_path)
    nowhere = tiny.arguments("OUT", "--backend", "toy")
    del nowhere[nowhere.index("--out") : nowhere.index("--out") + 2]
    assert build_engine.main(nowhere) == 0
    assert (tmp_path / f"toys/{tiny.vlm.name}-par-lite").read_text() == "par-lite"


def test_a_place_that_nobody_named_follows_from_the_backend(tiny, tmp_path, capsys, monkeypatch):
    """So the line that a refusal names does not end where a bundle stands."""
    monkeypatch.chdir(tmp_path)
    arguments = tiny.arguments("OUT")
    del arguments[arguments.index("--out") : arguments.index("--out") + 2]
    assert build_engine.main(arguments) == 0
    open_bundle(tmp_path / "bundles" / tiny.vlm.name)
    assert build_engine.main([*arguments, "--backend", "checkpoint"]) == 2
    line = shlex.split(capsys.readouterr().err.rpartition("remedy: ")[2])
    assert build_engine.main(line[2:]) == 0
    assert open_sidecar(tmp_path / "checkpoints" / f"{tiny.vlm.name}-par-lite")[1].entry.pruning.version == "par-lite"


def test_a_pruned_checkpoint_is_a_model(checkpoint, tmp_path, capsys):
    """It is a stock directory: `full` of it is the version whose layers it holds."""
    arguments = ["--model", str(checkpoint), "--version", "full", "--out", str(tmp_path / "b")]
    assert build_engine.main(arguments) == 0
    assert open_bundle(tmp_path / "b").manifest.model.layers == 6
    capsys.readouterr()
    assert (
        build_engine.main(
            [*arguments[:2], *arguments[2:4], "--backend", "checkpoint", "--force", "--out", str(checkpoint)]
        )
        == 2
    )
    assert "the model itself" in capsys.readouterr().err
    open_sidecar(checkpoint)
