"""What is written beside a TensorRT-LLM checkpoint: the build script, the runner, the page.

The flags are those of `trtllm-build` in 1.0 to 1.2.1.
"""

from __future__ import annotations

from allrounder.engines.tensorrt_llm.limits import EngineLimits
from allrounder.engines.written import LIST

__all__ = ["BUILD", "CHECKPOINT", "ENGINE", "PAGE", "RUN", "scripts"]

CHECKPOINT, ENGINE = "checkpoint", "engine"  # folders beside the scripts
BUILD, RUN, PAGE = "build.sh", "run.py", "README.md"


def scripts(label: str, limits: EngineLimits, pruned: str) -> dict[str, str]:
    """Returns the files beside the checkpoint, by name; ``pruned`` is the way from them to the pruned checkpoint."""
    return {
        BUILD: _BUILD.format(label=label, command=_build_command(limits), engine=ENGINE, listed=LIST),
        RUN: _RUN.format(label=label, pruned=pruned, batch=limits.batch, new_tokens=limits.new_tokens),
        PAGE: _PAGE.format(
            label=label, pruned=pruned, ranks=limits.tensor_parallel, rows=limits.multimodal_len, **limits._asdict()
        ),
    }


def _build_command(limits: EngineLimits) -> str:
    """Returns the `trtllm-build` line, a flag on each line."""
    values = {
        "checkpoint_dir": f'"$here/{CHECKPOINT}"',
        "output_dir": f'"$here/{ENGINE}"',
        "gemm_plugin": "auto",
        "max_batch_size": limits.batch,
        "max_input_len": limits.input_len,
        "max_seq_len": limits.input_len + limits.new_tokens,
        # Every prompt of a batch in one step, padding removed.
        "max_num_tokens": limits.batch * limits.input_len,
        "max_multimodal_len": limits.multimodal_len,
        "workers": limits.tensor_parallel,
    }
    flags = (f"--{name} {value}" for name, value in values.items())
    return " \\\n  ".join(["trtllm-build", *flags, '"$@"'])


_BUILD = """\
#!/usr/bin/env bash
# Builds the TensorRT engine of {label}. Further flags are handed on to trtllm-build.
# For TensorRT-LLM 1.0 to 1.2.1; later ones build no engines.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
if ! command -v trtllm-build >/dev/null; then
  echo "trtllm-build is not here: TensorRT-LLM 1.0 to 1.2.1 bring it. Releases after 1.3.0rc20 build no engines;" >&2
  echo "they serve the pruned checkpoint that this was made from in their PyTorch backend." >&2
  exit 2
fi
{command}
# With this list the engine goes when the checkpoint around it is replaced; without it, it would count as yours.
if [[ -d $here/{engine} ]] && command -v sha256sum >/dev/null; then
  cd "$here/{engine}"
  rm -f {listed}
  sha256sum -- * >{listed}
fi
"""

_RUN = """\
#!/usr/bin/env python3
\"\"\"Answers questions about images with the engine of {label}.

    python run.py Image QUESTION [Image QUESTION ...]         (tensor parallel: mpirun -n RANKS python run.py ...)

The pruned image enters as a prompt table: ids from the vocabulary's size on are its rows.
\"\"\"

import argparse
from pathlib import Path

from allrounder.serving.tensorrt_llm.engine import EngineRunner

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="Image QUESTION", help="up to {batch} pairs, one batch")
    parser.add_argument("--max-new-tokens", type=int, default={new_tokens})
    arguments = parser.parse_args()
    pairs = arguments.pairs
    if len(pairs) % 2:
        parser.error("an image without a question")
    runner = EngineRunner.open((HERE / "{pruned}").resolve(), HERE / "engine")
    for text in runner.answer(list(zip(pairs[::2], pairs[1::2])), max_new_tokens=arguments.max_new_tokens):
        print(text)


if __name__ == "__main__":
    main()
"""

_PAGE = """\
# {label} for TensorRT-LLM's engine path (legacy)

For TensorRT-LLM **1.0 to 1.2.1**. Releases after 1.3.0rc20 build no engines: they serve the pruned checkpoint that this
was made from, `{pruned}`, in their PyTorch backend (`python -m allrounder.serving.tensorrt_llm CHECKPOINT --out
DIR`).

| | |
|---|---|
| `checkpoint/` | TensorRT-LLM checkpoint: `config.json` and one `rankN.safetensors` for each of {ranks} ranks |
| `build.sh` | the `trtllm-build` line; makes `engine/`, on the GPU that will run it |
| `run.py` | prints answers; {tokens} kept rows of each image, made by `{pruned}`, are the prompt table |

The engine takes prompts of {text_tokens} text tokens and {tokens} image tokens, {new_tokens} new tokens, batches of
{batch}: `--max_multimodal_len` is {batch} x {tokens} = {rows}. Kept rows follow each other: positions count
them and not the rows that were dropped. The frozen graphs of this project keep the original positions, and fidelity
figures are theirs.

Nothing here was run in TensorRT-LLM by the project: layout and flags were checked against its sources.
"""
