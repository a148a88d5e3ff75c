"""The engine path's scripts, its checks of what is installed, and its runner, with programs that pass for NVIDIA's."""

import ast
import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from plain_reading import Reader, kept_of, stock_answer
from prunings import pruning
from released import TRTLLM_BUILD, installed, program, unknown_flags

from allrounder.engines.backends import Asked, BuildOptions, backend
from allrounder.engines.checkpoint.sidecar import open_sidecar
from allrounder.engines.releases import Release, parse_release
from allrounder.engines.tensorrt_llm.build import convert, main, run_build
from allrounder.engines.tensorrt_llm.limits import Sizes
from allrounder.engines.tensorrt_llm.release import require_engine_path, require_gpu, require_pytorch_path
from allrounder.engines.written import written
from allrounder.errors import BackendError, EngineUnavailable, InputInvalid
from allrounder.hashing import list_files
from allrounder.manifest import FileRecord
from allrounder.serving.tensorrt_llm.engine import EngineRunner

OPTIONS = Sizes(batch=3, text_tokens=32, new_tokens=8)
QUESTION = "what is it?"


@pytest.fixture
def converted(pruned, tmp_path):
    convert(pruned().checkpoint, tmp_path / "engine", OPTIONS)
    return tmp_path / "engine"


def machine(tmp_path, monkeypatch, *, version=None, capability=None, build=None):
    """A machine on which these are installed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if version is not None:
        monkeypatch.syspath_prepend(str(installed(tmp_path / "site", version)))
    if capability is not None:
        program(programs, "nvidia-smi", f"echo '{capability}'")
    if build is not None:
        program(programs, "trtllm-build", build)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    importlib.invalidate_caches()


def test_the_build_script_names_only_flags_that_the_release_has(converted):
    script = (converted / "build.sh").read_text()
    assert unknown_flags(script, TRTLLM_BUILD, "trtllm-build \\") == set()
    invented = script.replace("--workers", "--prune_image_tokens")
    assert unknown_flags(invented, TRTLLM_BUILD, "trtllm-build \\") == {"prune_image_tokens"}


def test_the_build_script_passes_shellcheck(converted):
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([tool, str(converted / "build.sh")], check=True)


def test_limits_follow_from_the_version_and_agree_with_each_other(converted, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, build='printf "%s\\n" "$@"')
    done = subprocess.run([converted / "build.sh", "--dry_run"], check=True, capture_output=True, text=True, cwd="/")
    words = done.stdout.split()
    assert words.pop() == "--dry_run"  # what the caller adds
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert int(flags["--max_multimodal_len"]) % int(flags["--max_batch_size"]) == 0
    rows = int(flags["--max_multimodal_len"]) // int(flags["--max_batch_size"])
    assert int(flags["--max_input_len"]) == 32 + rows
    assert int(flags["--max_seq_len"]) == 32 + rows + 8
    assert int(flags["--max_num_tokens"]) == 3 * (32 + rows)
    assert flags["--gemm_plugin"] == "auto"
    assert flags["--checkpoint_dir"] == str(converted / "checkpoint")
    assert flags["--output_dir"] == str(converted / "engine")


def test_multimodal_len_is_batch_times_t(pruned, converted):
    _, sidecar = open_sidecar(pruned().checkpoint)
    assert f"--max_multimodal_len {3 * kept_of(sidecar)} " in (converted / "build.sh").read_text()


def test_without_trtllm_build_the_script_says_what_is_missing(converted):
    done = subprocess.run([converted / "build.sh"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "1.0 to 1.2.1" in done.stderr
    assert "PyTorch backend" in done.stderr


def test_the_runner_script_is_whole(converted):
    script = (converted / "run.py").read_text()
    tree = ast.parse(script)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
    done = subprocess.run([sys.executable, converted / "run.py", "one"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "an image without a question" in done.stderr


def opened_by(script, image, monkeypatch):
    """The checkpoint that a runner script opens."""
    asked = []
    monkeypatch.setattr(
        EngineRunner, "open", lambda *places: asked.append(places) or SimpleNamespace(answer=lambda *_, **__: [])
    )
    monkeypatch.setattr(sys, "argv", [str(script), str(image), QUESTION])
    runpy.run_path(str(script), run_name="__main__")
    ((checkpoint, engine),) = asked
    assert engine == script.parent / "engine"
    return checkpoint


def test_the_runner_script_opens_the_checkpoint_that_it_was_made_from(pruned, converted, tmp_path, monkeypatch):
    assert opened_by(converted / "run.py", "image.png", monkeypatch) == pruned().checkpoint.resolve()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (None, "not installed"),
        ("1.3.0rc22", "--backend checkpoint"),
        ("1.4.0rc1", "removed after 1.3.0rc20"),
        ("1.3.0rc15", "not known"),
        ("0.21.0", "not known"),
        ("nightly", "not known"),
    ],
)
def test_releases_without_engines_are_refused(tmp_path, monkeypatch, version, says):
    machine(tmp_path, monkeypatch, version=version)
    with pytest.raises(EngineUnavailable, match=says) as error:
        require_engine_path()
    assert "1.2.1" in str(error.value)


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.0", "1.2.1", "1.2.1+cu13", "1.2.0.post1"])
def test_releases_with_engines_are_taken(tmp_path, monkeypatch, version):
    machine(tmp_path, monkeypatch, version=version)
    assert require_engine_path() <= Release(1, 2, 1)


@pytest.mark.parametrize(("version", "known"), [("1.0.0", True), ("1.3.0rc22", True), ("1.4.0rc1", True)])
def test_the_pytorch_path_is_known_up_to_the_last_one_read(tmp_path, monkeypatch, version, known):
    machine(tmp_path, monkeypatch, version=version)
    assert str(require_pytorch_path()) == version


@pytest.mark.parametrize("version", ["0.21.0", "1.4.0rc2", "1.4.0", "2.0.0", "1.0.0rc6"])
def test_the_pytorch_path_of_others_is_not(tmp_path, monkeypatch, version):
    machine(tmp_path, monkeypatch, version=version)
    with pytest.raises(EngineUnavailable, match="not known") as error:
        require_pytorch_path()
    assert f"tensorrt_llm {version}" in str(error.value)
    assert "1.0.0 to 1.4.0rc1" in str(error.value)


def test_releases_follow_each_other():
    ordered = ["0.21.0", "1.0.0rc6", "1.0.0", "1.2.1", "1.3.0.dev2026", "1.3.0rc2", "1.3.0rc15", "1.3.0", "1.4.0rc1"]
    parsed = [parse_release(text) for text in ordered]
    assert None not in parsed
    assert parsed == sorted(parsed)
    assert [parse_release(text) for text in ("", "main", "1", "1.2.x", "v1.2.1")] == [None] * 5


@pytest.mark.parametrize(("capability", "says"), [("7.5", "7.5"), ("9.0\n7.0", "7.0"), ("No devices", "No devices")])
def test_a_gpu_that_it_does_not_build_for_is_refused(tmp_path, monkeypatch, capability, says):
    machine(tmp_path, monkeypatch, capability=capability)
    with pytest.raises(EngineUnavailable, match="GPU") as error:
        require_gpu(Release(1, 2, 1))
    assert says in str(error.value)


def test_the_build_is_called_where_everything_is_there(converted, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, version="1.2.1", capability="9.0", build=f'echo "$@" > {tmp_path}/said')
    assert run_build(converted, ["--log_level", "error"]) == converted / "engine"
    assert (tmp_path / "said").read_text().rstrip().endswith("--log_level error")


def test_an_engine_inside_a_checkpoint_goes_with_it(converted, tmp_path, monkeypatch):
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    builds = (
        f"mkdir -p {converted}/engine; echo one > {converted}/engine/rank0.engine; echo {{}} > {converted}/engine/c"
    )
    machine(tmp_path, monkeypatch, version="1.2.1", capability="9.0", build=builds)
    for _ in range(2):  # built again, it is listed again
        engine = run_build(converted)
    everything = {f"{converted.name}/{name}" for name in list_files(converted)}
    assert written(converted.parent, everything) == everything
    (engine / "rank0.engine").write_text("another")
    assert everything - written(converted.parent, everything) == {f"{converted.name}/engine/rank0.engine"}


def test_what_a_failed_build_said_is_quoted(converted, tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch, version="1.2.1", capability="9.0", build="echo no tactic >&2; exit 7")
    with pytest.raises(BackendError, match="no tactic"):
        run_build(converted)


def test_as_a_command(pruned, tmp_path, monkeypatch, capsys):
    machine(tmp_path, monkeypatch, version="1.3.0rc22", capability="9.0")
    words = [str(pruned().checkpoint), "--out", str(tmp_path / "out"), "--batch", "2", "--text-tokens", "32"]
    assert main([*words, "--new-tokens", "8", "--build"]) == 2  # refused before the work
    assert "--backend checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--new-tokens", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 2


def test_as_a_backend_it_writes_both_and_lists_every_file(pruned, tmp_path, monkeypatch):
    module = backend("tensorrt-llm")
    with pytest.raises(InputInvalid, match="--prune-layer 0"):
        module.check(Asked("tensorrt-llm", (pruning((4, 6)),), "fp32"))
    frozen = pruned().frozen
    with module.opened(tmp_path / "out", force=False, progress=lambda *_: None) as output:
        entries = module.build(frozen, output.staging, BuildOptions())
        (told,) = output.publish(frozen, entries)
    root, sidecar = open_sidecar(tmp_path / "out")  # every file is verified
    assert {"tensorrt_llm/checkpoint/rank0.safetensors", "tensorrt_llm/build.sh", "tensorrt_llm/run.py"} <= set(
        sidecar.files
    )
    assert all(isinstance(record, FileRecord) for record in sidecar.files.values())
    assert sidecar.entry == told
    assert told.backend == "tensorrt-llm"
    assert os.access(root / "tensorrt_llm/build.sh", os.X_OK)
    assert opened_by(root / "tensorrt_llm/run.py", "image.png", monkeypatch) == root


class Session:
    """Passes for `tensorrt_llm.runtime.ModelRunner` (1.2, `runtime/model_runner.py`); the plain reading decodes."""

    def __init__(self, engine_dir):
        self.reader = Reader(engine_dir.parent / "checkpoint")

    @torch.no_grad()
    def generate(
        self,
        batch_input_ids,
        position_ids=None,
        sampling_config=None,
        prompt_table=None,
        prompt_tasks=None,
        *,
        max_new_tokens,
        end_id,
        pad_id,
        top_k,
    ):
        assert top_k == 1
        assert prompt_tasks == ",".join("0" * len(batch_input_ids))
        words = self.reader.config["vocab_size"]
        table = torch.cat([self.reader.ranks[0]["transformer.vocab_embedding.weight"], prompt_table])
        self.asked = [sorted({int(i) - words for i in ids if i >= words}) for ids in batch_input_ids]
        out = []
        for prompt in batch_input_ids:
            assert prompt.dtype == torch.int32
            ids = prompt.tolist()
            for _ in range(max_new_tokens):
                ids.append(int(self.reader.logits(table[torch.tensor(ids)])[-1].argmax()))
            out.append(ids)
        longest = max(map(len, out))  # [batch, beams, longest], padded behind as the Python runtime does
        return torch.tensor([[ids + [pad_id] * (longest - len(ids))] for ids in out])


def with_engine(folder, version, monkeypatch, session=None):
    (folder / "engine").mkdir()
    (folder / "engine" / "config.json").write_text(
        json.dumps({"version": version, "build_config": {"max_batch_size": 3}})
    )
    runner = SimpleNamespace(
        from_dir=lambda engine_dir, rank: session or (_ for _ in ()).throw(RuntimeError("wrong SM"))
    )
    package = SimpleNamespace(mpi_rank=lambda: 0)
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.runtime", SimpleNamespace(ModelRunner=runner))


def test_the_runner_feeds_one_prompt_table_for_the_batch(pruned, converted, tmp_path, monkeypatch, image):
    checkpoint = pruned().checkpoint
    machine(tmp_path, monkeypatch, version="1.2.1")
    session = Session(converted / "engine")
    with_engine(converted, "1.2.1", monkeypatch, session)
    runner = EngineRunner.open(checkpoint, converted / "engine")
    pairs = [(image, QUESTION), (image.rotate(90), "and this one, please?")]
    answers = runner.answer(pairs, max_new_tokens=6)
    tokens = kept_of(open_sidecar(checkpoint)[1])
    assert session.asked == [list(range(tokens)), list(range(tokens, 2 * tokens))]
    assert all(answers)
    assert answers == [stock_answer(checkpoint, *pair, 6) for pair in pairs]
    with pytest.raises(InputInvalid, match="batch"):
        runner.answer(pairs * 2, max_new_tokens=6)


def test_engines_of_other_releases_and_other_gpus_are_refused(pruned, converted, tmp_path, monkeypatch):
    checkpoint = pruned().checkpoint
    machine(tmp_path, monkeypatch, version="1.2.1")
    with pytest.raises(EngineUnavailable, match=r"build\.sh"):
        EngineRunner.open(checkpoint, converted / "engine")
    with_engine(converted, "1.1.0", monkeypatch)
    with pytest.raises(EngineUnavailable, match=r"tensorrt_llm 1\.1\.0"):
        EngineRunner.open(checkpoint, converted / "engine")
    (converted / "engine" / "config.json").write_text(
        json.dumps({"version": "1.2.1", "build_config": {"max_batch_size": 3}})
    )
    with pytest.raises(BackendError, match="wrong SM") as error:
        EngineRunner.open(checkpoint, converted / "engine")
    assert "GPU architecture" in str(error.value)
