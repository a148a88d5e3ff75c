"""The checkpoint backend: what it refuses, what it writes, and that its place is whole or absent."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import fake_model
import msgspec
import onnx
import onnxruntime
import pytest
from prunings import pruning

from allrounder.engines.backends import Asked, BuildOptions, backend
from allrounder.engines.bundle.references import external_tensors
from allrounder.engines.checkpoint import build as checkpoint
from allrounder.engines.checkpoint import weights as pruned_weights
from allrounder.engines.checkpoint.sidecar import IMAGE_FOLDER, SIDECAR, open_sidecar, read_sidecar
from allrounder.engines.frozen import read_frozen
from allrounder.engines.table import BACKENDS
from allrounder.errors import BundleCorrupt, BundleError, BundleFromFuture, EngineUnavailable, InputInvalid
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.hashing import file_record
from allrounder.manifest import encode
from allrounder.model_files import MODEL_FOLDER, MODEL_RECORD
from allrounder.progress import silent
from allrounder.pruning import pruning_configs
from allrounder.serving.tensorrt_llm.directory import write_directory
from allrounder.versions import FULL

KEPT = (0, 1, 3, 4, 6, 7)


def asked(versions=("par-lite",), prune_layer=0, policy="static", backend="checkpoint"):
    model = {"layers": 8, "prune_layer": prune_layer}
    return Asked(backend, pruning_configs(versions, **model, policies=(policy,)), "fp32", ("--out", "a place"))


@pytest.fixture
def frozen(freeze):
    """Returns a function that freezes one version with K = 0, a model's files included."""

    def make(version="par-lite", **vlm):
        folder = freeze(version, policy="static")
        record = read_frozen(folder)
        kept = KEPT if version != FULL else tuple(range(8))
        made = record.versions[0]
        changed = msgspec.structs.replace(made, pruning=pruning((made.pruning.keep, len(kept)), 0, kept, version))
        (folder / "frozen.json").write_bytes(encode(msgspec.structs.replace(record, versions=(changed,))))
        (folder / GOLDEN).write_text("")
        fake_model.write_fake_model(folder, record.model.digest, **vlm)
        return folder

    return make


@pytest.fixture
def place(tmp_path):
    return tmp_path / "places" / "checkpoint"


def publish(place, frozen, *, force=False):
    """Builds and publishes as the command does."""
    with checkpoint.opened(place, force=force, progress=silent) as output:
        entries = checkpoint.build(frozen, output.staging, BuildOptions())
        return output.publish(frozen, entries)


def content(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def left_beside(place):
    return sorted(path.name for path in place.parent.iterdir() if path != place) if place.parent.exists() else []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prune_layer": 2}, ["at layer 2", "one KV length", "--prune-layer 0"]),
        ({"policy": "dynamic"}, ["per input", "--layer-policy static"]),
        ({"versions": ("par-lite", "par-nano")}, ["one version at a time"]),
        ({"prune_layer": 1, "policy": "dynamic"}, ["at layer 1", "per input"]),
        ({"versions": (FULL, "par-lite"), "prune_layer": 2}, ["at layer 2", "one version at a time"]),
    ],
)
def test_decisions_that_no_stack_can_run_are_refused_with_the_nearest_that_works(changed, words):
    with pytest.raises(InputInvalid) as caught:
        checkpoint.check(asked(**changed))
    message = str(caught.value)
    assert all(word in message for word in words)
    said = shlex.split(message.partition("remedy: ")[2])
    line = dict(zip(said[2::2], said[3::2], strict=True))
    assert said[:2] == ["allrounder", "build"]
    assert (line["--backend"], line["--out"]) == ("checkpoint", "a place")
    checkpoint.check(asked(line["--version"].split(","), int(line["--prune-layer"]), line["--layer-policy"]))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_one_file_with_the_same_functions(name):
    try:
        module = backend(name)
    except EngineUnavailable as error:
        pytest.skip(f"its library is not here: {error}")
    assert all(callable(getattr(module, function)) for function in ("check", "opened", "build"))


def test_what_stacks_can_run_is_not_refused():
    checkpoint.check(asked())
    checkpoint.check(asked((FULL,), 2))
    backend("onnxruntime").check(asked(prune_layer=2, policy="dynamic", backend="onnxruntime"))


def test_the_directory_holds_what_it_lists_and_its_sidecar_says_what_was_kept(frozen, place):
    (entry,) = publish(place, frozen())
    root, sidecar = open_sidecar(place)
    assert root == place
    assert sidecar.entry == entry
    assert (entry.pruning, entry.backend) == (pruning(("1/4", 6), 0, KEPT, "par-lite"), "checkpoint")
    assert entry.positions == "unpruned"
    assert sidecar.files == {path: file_record(place / path) for path in content(place) if path != SIDECAR}
    assert set(sidecar.files) == {
        *("config.json", "tokenizer.json", "LICENSE", "model.safetensors"),
        *(f"{IMAGE_FOLDER}/{kind}.onnx" for kind in ("vision", "router")),
        *(f"{IMAGE_FOLDER}/{name}" for name in ("weights.bin", TOKENIZER, GOLDEN)),
    }
    assert json.loads((place / "config.json").read_text())["text_config"]["num_hidden_layers"] == 6
    assert set(fake_model.read_safetensors(place / "model.safetensors")) < set(fake_model.tensors())
    assert left_beside(place) == []


def test_graphs_compute_the_same_from_weights_of_their_own(frozen, place):
    folder = frozen()
    publish(place, folder)
    shared, sidecar = read_frozen(folder).graphs, read_sidecar(place)
    for old, new in ((shared.vision, sidecar.graphs.vision), (shared.router, sidecar.graphs.router)):
        sessions = [onnxruntime.InferenceSession(str(path)) for path in (folder / old, place / new)]
        outputs = [session.run(None, {"x": [[1.0, 2.0, 3.0, 4.0]]})[0].tolist() for session in sessions]
        assert outputs[0] == outputs[1]
        for tensor in external_tensors(onnx.load(place / new, load_external_data=False)):
            where = {each.key: each.value for each in tensor.external_data}
            assert where["location"] == "weights.bin"
            assert int(where["offset"]) % 4096 == 0
    # The frozen files hold 4 kB and more that no graph but a decoder's points at.
    assert (place / IMAGE_FOLDER / "weights.bin").stat().st_size < 4096 + 32


def test_full_is_the_model_with_the_image_graphs_and_no_router(frozen, place):
    (entry,) = publish(place, frozen(FULL))
    assert entry.pruning.kept_layers == tuple(range(8))
    assert read_sidecar(place).graphs.router is None
    assert fake_model.read_safetensors(place / "model.safetensors") == fake_model.tensors()


def test_the_place_may_be_an_empty_directory(frozen, place):
    place.mkdir(parents=True)
    publish(place, frozen())
    open_sidecar(place)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["folder", "file", "bundle", "damaged", "future", "strays"])
def test_what_is_no_checkpoint_of_ours_is_never_replaced(frozen, place, what, force, request):
    folder = frozen()
    if what in ("damaged", "future", "strays"):
        publish(place, folder)
        if what == "strays":
            (place / "precious.txt").write_text("mine")
        else:
            (place / SIDECAR).write_text("no" if what == "damaged" else '{"schema": 4}')
    elif what == "bundle":
        place = request.getfixturevalue("bundle")
    else:
        place.parent.mkdir()
        target = place if what == "file" else place / "precious.txt"
        target.parent.mkdir(exist_ok=True)
        target.write_text("mine")
    before = content(place.parent)
    with pytest.raises(BundleFromFuture if what == "future" else BundleError):
        publish(place, folder, force=force)
    assert content(place.parent) == before


def test_a_checkpoint_is_replaced_by_force_alone(frozen, place):
    publish(place, frozen())
    before, other = content(place), frozen("par-nano")
    with pytest.raises(BundleError, match=r"already.*par-lite.*--force"):
        publish(place, other)
    assert content(place) == before
    publish(place, other, force=True)
    assert open_sidecar(place)[1].entry.pruning.version == "par-nano"
    assert left_beside(place) == []


def test_what_our_tools_wrote_into_it_goes_with_it_and_what_a_user_changed_stays(frozen, place):
    publish(place, frozen())
    write_directory(place, place / "serving")
    bytecode = place / "serving/allrounder_llava/__pycache__/__init__.cpython-311.pyc"
    bytecode.parent.mkdir()
    bytecode.write_bytes(b"\0")
    open_sidecar(place)
    other = frozen("par-nano")
    with pytest.raises(BundleError, match="--force"):
        publish(place, other)
    options = place / "serving/config.yaml"
    was = options.read_text()
    options.write_text(was + "# mine\n")
    before = content(place)
    with pytest.raises(BundleError, match=r"were changed.*serving/config\.yaml") as caught:
        publish(place, other, force=True)
    assert "ask.py" not in str(caught.value)
    assert content(place) == before
    options.write_text(was)
    publish(place, other, force=True)
    assert open_sidecar(place)[1].entry.pruning.version == "par-nano"
    assert not (place / "serving").exists()


def test_a_place_that_is_taken_while_it_is_built(frozen, place):
    folder = frozen()
    with checkpoint.opened(place, force=False, progress=silent) as output:
        entries = checkpoint.build(folder, output.staging, BuildOptions())
        place.mkdir()
        (place / "precious.txt").write_text("mine")
        with pytest.raises(BundleError, match="taken"):
            output.publish(folder, entries)
    assert list(content(place)) == ["precious.txt"]
    assert left_beside(place) == []


def test_the_model_itself_is_not_replaced(frozen, place):
    folder = frozen()
    publish(place, folder)
    record = json.loads((folder / MODEL_FOLDER / MODEL_RECORD).read_text())
    (folder / MODEL_FOLDER / MODEL_RECORD).write_text(json.dumps(record | {"source": str(place)}))
    with pytest.raises(BundleError, match="the model itself"):
        publish(place, folder, force=True)


@pytest.mark.parametrize("what", ["no record", "changed config", "other model", "stray names", "source gone"])
def test_damaged_inputs(frozen, place, what):
    folder = frozen()
    record = folder / MODEL_FOLDER / MODEL_RECORD
    known = json.loads(record.read_text())
    if what == "no record":
        record.unlink()
    elif what == "changed config":
        (folder / MODEL_FOLDER / "config.json").write_text("{}")
    elif what == "other model":
        record.write_text(json.dumps(known | {"digest": "1" * 64}))
    elif what == "stray names":
        record.write_text(json.dumps(known | {"files": {"../x": known["files"]["config.json"]}}))
    else:
        Path(known["source"], "model.safetensors").unlink()
    with pytest.raises(BundleCorrupt):
        publish(place, folder)
    assert not place.exists()
    assert left_beside(place) == []


def test_dynamic_entries_and_those_that_drop_inside_the_decoder_are_refused(freeze, tmp_path):
    folder = freeze("par-lite", policy="static")  # K = 2
    fake_model.write_fake_model(folder, read_frozen(folder).model.digest)
    with checkpoint.opened(tmp_path / "c", force=False, progress=silent) as output:
        entries = checkpoint.build(folder, output.staging, BuildOptions())
        with pytest.raises(InputInvalid, match="K=2"):
            output.publish(folder, entries)


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_at_any_write_leaves_nothing_or_the_old_one(frozen, place, force, monkeypatch):
    """Every write, sync and rename of publishing fails once; the last round has none left to fail."""
    folder = frozen("par-nano")
    if force:
        publish(place, frozen())
    before, failed = content(place), 0
    while True:
        with checkpoint.opened(place, force=force, progress=silent) as output, monkeypatch.context() as patch:
            entries = checkpoint.build(folder, output.staging, BuildOptions())
            left = failed + 1

            def fail(real):
                def wrapped(*arguments, **keywords):
                    nonlocal left
                    left -= 1
                    if left == 0:
                        raise OSError(errno.ENOSPC, "no space left")
                    return real(*arguments, **keywords)

                return wrapped

            for owner, name in (
                (os, "fsync"),
                (checkpoint.shutil, "copyfile"),
                (pruned_weights, "chunks"),
                (Path, "write_bytes"),
                (Path, "write_text"),
                (Path, "rename"),
            ):
                patch.setattr(owner, name, fail(getattr(owner, name)))
            try:
                output.publish(folder, entries)
            except BundleError as error:
                told = str(error)
            else:
                break
        assert "no space left" in told
        # Its very last step makes the renaming survive a power cut; it is done by then.
        assert content(place) == before or open_sidecar(place)[1].entry.pruning.version == "par-nano"
        assert left_beside(place) == []
        failed += 1
        if content(place) != before:
            break
    assert failed > 15, "publishing has more steps than that"
    assert open_sidecar(place)[1].entry.pruning.version == "par-nano"


KILLED = """
import os, signal, sys
from pathlib import Path
from allrounder.engines.checkpoint import build as checkpoint
from allrounder.engines.backends import BuildOptions
from allrounder.progress import silent

place, frozen = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.scandir", "shutil.rmtree"}
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        left = int(line)
        def hook(event, arguments):
            global left
            if event in EVENTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        with checkpoint.opened(place, force=True, progress=silent) as output:
            entries = checkpoint.build(frozen, output.staging, BuildOptions())
            sys.addaudithook(hook)
            output.publish(frozen, entries)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_killed_before_any_operation_the_place_is_whole_or_absent(frozen, place):
    """Each round kills publishing before its n-th operation on the file system; the old one stands, or the new one."""
    first, second = frozen(), frozen("par-nano")
    publish(place, first)
    absent = killed = 0
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place), str(second)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for operation in range(1, 400, 3):
            process.stdin.write(f"{operation}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            if not place.exists():
                absent += 1
                publish(place, first)
            sidecar = open_sidecar(place)[1]
            assert sidecar.files == {path: file_record(place / path) for path in content(place) if path != SIDECAR}
            if status == 0:
                break
            assert status == signal.SIGKILL
            killed += 1
        process.stdin.close()
    assert status == 0, "publishing has more operations than were tried"
    assert killed > 15
    assert absent <= 1, "only between two renames"
    publish(place, second, force=True)
    assert left_beside(place) == [], "the next build sweeps what the dead left"
