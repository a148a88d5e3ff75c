"""A ready-to-run directory for a pruned checkpoint in TensorRT-LLM's PyTorch backend.

It is written without TensorRT-LLM, with the options that 1.0 to 1.4.0rc1 have:

    config.yaml           options of the LLM API; `trtllm-serve` and the script below both read it
    ask.py                the LLM API: image and question in, answer out
    serve.sh              `trtllm-serve` with this project's model; from 1.2 on, which brought --custom_module_dirs
    allrounder_llava/     the module that `trtllm-serve` imports
    allrounder.sha256     which files these are (`allrounder.engines.written`)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from allrounder.engines.bundle.folders import beside, reported, sync
from allrounder.engines.checkpoint.sidecar import Sidecar, read_sidecar
from allrounder.engines.tensorrt_llm.limits import EngineLimits, Sizes
from allrounder.engines.tensorrt_llm.release import PYTORCH_PATH
from allrounder.engines.written import list_written
from allrounder.errors import BundleError

__all__ = ["serving_files", "write_directory"]

_MODULE = "allrounder_llava"


def write_directory(checkpoint: Path | str, out: Path | str, sizes: Sizes | None = None) -> Path:
    """Writes the directory at a place that is free, whole or not at all; returns it.

    Raises:
        BundleError: There is no pruned checkpoint, the place is taken, or the file system refuses.
        InputInvalid: Impossible sizes.
    """
    root, place = Path(checkpoint).resolve(), Path(out).resolve()
    sidecar = read_sidecar(root)
    limits = EngineLimits.of(sidecar, sizes or Sizes())
    described = json.loads((root / "config.json").read_bytes()).get("text_config") or {}
    if (most := described.get("max_position_embeddings")) is not None:
        limits.check_positions(sidecar.model.images.tokens, most)  # dropped rows keep their positions
    files = serving_files(sidecar, limits, os.path.relpath(root, place))
    if place.exists():
        raise BundleError("the place is taken", where=place, remedy="give another directory (--out), or remove it")
    with beside(place) as folder, reported(place, "directory"):
        new = folder / "new"
        for name, text in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(text, encoding="utf-8")
            (new / name).chmod(0o755 if name in ("serve.sh", "ask.py") else 0o644)
        list_written(new)
        new.rename(place)
        sync(place.parent)
    return place


def serving_files(sidecar: Sidecar, limits: EngineLimits, checkpoint: str) -> dict[str, str]:
    """Returns the files of the directory by name; ``checkpoint`` is the way to it from there."""
    values = {
        "label": f"{sidecar.entry.pruning.version} of {sidecar.model.name}",
        "checkpoint": checkpoint,
        "module": _MODULE,
        "first": PYTORCH_PATH[0],
        "last": PYTORCH_PATH[1],
        "tokens": limits.tokens,
        "image_tokens": sidecar.model.images.tokens,
        "layers": sidecar.entry.pruning.layers,
        "all_layers": sidecar.model.layers,
        "ranks": limits.tensor_parallel,
        "batch": limits.batch,
        "new_tokens": limits.new_tokens,
        "max_seq_len": limits.input_len + limits.new_tokens,
        "max_num_tokens": limits.batch * limits.input_len,
    }
    return {
        "config.yaml": _CONFIG.format(**values),
        "ask.py": _ASK.format(**values),
        "serve.sh": _SERVE.format(**values),
        f"{_MODULE}/__init__.py": _IMPORT.format(**values),
        "README.md": _PAGE.format(**values),
    }


_CONFIG = """\
# Options of TensorRT-LLM's LLM API for {label}; the same names in {first} to {last}.
tensor_parallel_size: {ranks}
max_batch_size: {batch}
max_seq_len: {max_seq_len} # text, {tokens} image tokens, new tokens
max_num_tokens: {max_num_tokens} # every prompt of a batch in one step
enable_chunked_prefill: false
attn_backend: FLASHINFER # rotates by the positions that it is given; the default counts the kept rows
kv_cache_config:
  # Other questions about one image may keep other rows of it: blocks of equal ids must not be reused.
  enable_block_reuse: false
"""

_IMPORT = '''\
"""What `trtllm-serve --custom_module_dirs` imports: it registers pruned LLaVA checkpoints with TensorRT-LLM."""

import allrounder.serving.tensorrt_llm.llava  # noqa: F401 - imported for its effect
'''

_ASK = '''\
#!/usr/bin/env python3
"""Answers questions about images with {label} in TensorRT-LLM's PyTorch backend.

    python ask.py Image QUESTION [Image QUESTION ...]
"""

import argparse
from pathlib import Path

import yaml
from PIL import Image
from tensorrt_llm import LLM, SamplingParams

from allrounder.serving.tensorrt_llm import register
from allrounder.serving.tensorrt_llm.requests import prompt_text
from allrounder.engines.checkpoint.sidecar import read_sidecar

register()  # here, not in main: worker processes import this file again

HERE = Path(__file__).resolve().parent
CHECKPOINT = (HERE / "{checkpoint}").resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="Image QUESTION")
    parser.add_argument("--max-tokens", type=int, default={new_tokens})
    arguments = parser.parse_args()
    pairs = arguments.pairs
    if len(pairs) % 2:
        parser.error("an image without a question")
    sidecar = read_sidecar(CHECKPOINT)
    requests = [
        {{"prompt": prompt_text(sidecar.chat, question), "multi_modal_data": {{"image": [Image.open(image)]}}}}
        for image, question in zip(pairs[::2], pairs[1::2])
    ]
    sampling = SamplingParams(
        max_tokens=arguments.max_tokens, temperature=0.0, stop_token_ids=list(sidecar.model.stop_ids)
    )
    options = yaml.safe_load((HERE / "config.yaml").read_text())
    with LLM(model=str(CHECKPOINT), **options) as llm:
        for answer in llm.generate(requests, sampling):
            print(answer.outputs[0].text)


if __name__ == "__main__":
    main()
'''

_SERVE = """\
#!/usr/bin/env bash
# Serves {label} with TensorRT-LLM's OpenAI-compatible server. Further flags are handed on to trtllm-serve.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
if ! command -v trtllm-serve >/dev/null; then
  echo "trtllm-serve is not here: install TensorRT-LLM {first} to {last}, or use NVIDIA's container" >&2
  exit 2
fi
# Checked first: without the module the server does not know this architecture.
help=$(trtllm-serve serve --help)
if [[ $help != *--custom_module_dirs* ]]; then
  echo "this trtllm-serve takes no --custom_module_dirs: it came with 1.2; ask.py works from {first} on" >&2
  exit 2
fi
export PYTHONPATH="$here${{PYTHONPATH:+:$PYTHONPATH}}" # worker processes import the module by its name
exec trtllm-serve serve "$here/{checkpoint}" \\
  --backend pytorch \\
  --custom_module_dirs "$here/{module}" \\
  --extra_llm_api_options "$here/config.yaml" \\
  "$@"
"""

_PAGE = """\
# {label} in TensorRT-LLM (PyTorch backend)

For TensorRT-LLM **{first} to {last}** with `allrounder` installed beside it. The decoder keeps {layers} of {all_layers}
layers and sees {tokens} of {image_tokens} image tokens; the checkpoint is `{checkpoint}`.

```
python ask.py image.png "what is it?"       # the LLM API, every release
./serve.sh --port 8000                        # trtllm-serve, from 1.2 on
```

TensorRT-LLM has no class for LLaVA-1.5. `allrounder.serving.tensorrt_llm` brings one: its input processor turns
the image into {tokens} rows with ONNX Runtime, on the CPU, and the decoder is TensorRT-LLM's own. Rows can also be
made elsewhere (`allrounder.serving.tensorrt_llm.requests`).

- Blocks of the KV cache are not reused (`config.yaml`): which rows are kept may depend on the question.
- Kept rows have their positions in the unpruned prompt, as in the frozen graphs, whose fidelity the sidecar gives. The
  default attention (`TRTLLM`) counts rows instead: it is refused, but for ALLROUNDER_TRTLLM_POSITIONS=counted in the
  environment, with worse answers.
- So every prompt has the template's text before the image, and one image. TensorRT-LLM tokenises it: a special
  token's text in a question becomes that token.

Nothing here was run in TensorRT-LLM by the project: calls and options were checked against its sources, and the modules
against stubs of them.
"""
