"""The ready-to-run directory: whole, with options that releases have, run with programs that pass for NVIDIA's."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from plain_reading import kept_of, stock_answer
from released import KV_CACHE, LLM_API, TRTLLM_SERVE_1_1, TRTLLM_SERVE_1_2, program, unknown_flags

from allrounder.engines.checkpoint.sidecar import open_sidecar
from allrounder.engines.tensorrt_llm.limits import Sizes
from allrounder.errors import BundleCorrupt, BundleError, InputInvalid
from allrounder.serving.tensorrt_llm.__main__ import main
from allrounder.serving.tensorrt_llm.directory import write_directory

STUBS = Path(__file__).parent / "stubs"


@pytest.fixture
def directory(pruned, tmp_path):
    return write_directory(pruned().checkpoint, tmp_path / "serve", Sizes(batch=3, text_tokens=32, new_tokens=8))


def test_it_is_written_whole_and_only_once(pruned, directory):
    names = sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())
    scripts = ["ask.py", "config.yaml", "serve.sh"]
    assert names == ["README.md", "allrounder.sha256", "allrounder_llava/__init__.py", *scripts]
    assert [path.name for path in directory.parent.iterdir()] == ["serve"]
    with pytest.raises(BundleError, match="taken"):
        write_directory(pruned().checkpoint, directory)
    with pytest.raises(InputInvalid, match="begin at 1"):
        write_directory(pruned().checkpoint, directory.parent / "other", Sizes(batch=0))
    with pytest.raises(InputInvalid, match="16 image"):  # 480 + 16 + 17 places; the rows that are left would fit
        write_directory(pruned().checkpoint, directory.parent / "other", Sizes(text_tokens=480, new_tokens=17))
    with pytest.raises(BundleCorrupt, match="not a pruned checkpoint"):
        write_directory(directory, directory.parent / "other")


def test_options_are_those_of_the_llm_api_and_follow_from_the_version(pruned, directory):
    options = yaml.safe_load((directory / "config.yaml").read_text())
    assert set(options) <= LLM_API
    assert set(options["kv_cache_config"]) <= KV_CACHE
    assert options["kv_cache_config"]["enable_block_reuse"] is False
    tokens = kept_of(open_sidecar(pruned().checkpoint)[1])
    assert options["max_seq_len"] == 32 + tokens + 8
    assert options["attn_backend"] == "FLASHINFER"
    assert options["max_num_tokens"] == 3 * (32 + tokens)


def test_the_launch_script_names_only_flags_that_the_release_has(directory):
    script = (directory / "serve.sh").read_text()
    assert unknown_flags(script, TRTLLM_SERVE_1_2, "exec trtllm-serve") == set()
    assert unknown_flags(script, TRTLLM_SERVE_1_1, "exec trtllm-serve") == {"custom_module_dirs"}  # it asks first
    invented = script.replace("--backend pytorch", "--backend pytorch --image_keep_ratio 0.25")
    assert unknown_flags(invented, TRTLLM_SERVE_1_2, "exec trtllm-serve") == {"image_keep_ratio"}
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([tool, str(directory / "serve.sh")], check=True)


def served(directory, tmp_path, help_text):
    programs = program(
        tmp_path / "bin",
        "trtllm-serve",
        f'if [[ $* == *--help* ]]; then echo "{help_text}"; else echo "$PYTHONPATH"; printf "%s\\n" "$@"; fi',
    )
    path = f"{programs}:{os.environ['PATH']}"
    words = [directory / "serve.sh", "--port", "8001"]
    return subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "PATH": path}, cwd="/")


def test_the_server_gets_checkpoint_module_and_options(pruned, directory, tmp_path):
    done = served(directory, tmp_path, "--custom_module_dirs PATH")
    assert done.returncode == 0, done.stderr
    path, *words = done.stdout.splitlines()
    assert path.split(":")[0] == str(directory)
    assert words[0] == "serve"
    assert Path(words[1]).resolve() == pruned().checkpoint.resolve()
    assert words[-2:] == ["--port", "8001"]
    assert str(directory / "allrounder_llava") in words
    assert str(directory / "config.yaml") in words


def test_a_server_without_custom_modules_is_not_started(directory, tmp_path):
    done = served(directory, tmp_path, "--tp_size")
    assert done.returncode == 2
    assert "ask.py" in done.stderr
    assert done.stdout == ""


def test_without_a_server_it_says_what_is_missing(directory):
    done = subprocess.run([directory / "serve.sh"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "1.0.0 to 1.4.0rc1" in done.stderr


@pytest.mark.parametrize("release", ["v1_0_0", "v1_4_0rc1"])
def test_the_script_answers_with_the_registered_model(pruned, directory, image, tmp_path, release):
    checkpoint, question = pruned().checkpoint, "what is it?"
    image.save(tmp_path / "image.png")
    environment = {**os.environ, "PYTHONPATH": f"{STUBS / release}:{STUBS}"}
    words = [sys.executable, directory / "ask.py", tmp_path / "image.png", question, "--max-tokens", "6"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n") == stock_answer(checkpoint, image, question, 6, kept=True)


def test_the_module_and_the_script_import_what_there_is(directory):
    for name in ("ask.py", "allrounder_llava/__init__.py"):
        for node in ast.walk(ast.parse((directory / name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("allrounder"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
            if isinstance(node, ast.Import) and node.names[0].name.startswith("allrounder"):
                assert importlib.util.find_spec(node.names[0].name) is not None


def test_the_page_says_what_was_not_run(directory):
    page = (directory / "README.md").read_text()
    assert "Nothing here was run in TensorRT-LLM" in page
    assert not re.search(r"[{}]", page)


def test_as_a_command(pruned, tmp_path, capsys):
    assert main([str(pruned().checkpoint), "--out", str(tmp_path / "out"), "--batch", "2"]) == 0
    assert "README.md" in capsys.readouterr().out
    assert main([str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "allrounder build --backend checkpoint" in capsys.readouterr().err
