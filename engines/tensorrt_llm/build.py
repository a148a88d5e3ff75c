"""The engine path of TensorRT-LLM 1.0 to 1.2.1 (legacy): a pruned checkpoint, and in it one that `trtllm-build` takes.

It writes everything that the checkpoint backend writes, and beside it the folder `tensorrt_llm/` with the decoder's
weights in TensorRT-LLM's own layout, the build script and a runner; and it calls `trtllm-build` where that is there.

    python -m allrounder.engines.tensorrt_llm.build CHECKPOINT --out DIR [--tensor-parallel 2] [--batch 4] [--build]

does the same with a pruned checkpoint that is there already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import msgspec

from allrounder.engines.backends import Output
from allrounder.engines.bundle.folders import beside, reported, sync
from allrounder.engines.checkpoint import build as checkpoint
from allrounder.engines.checkpoint.sidecar import SIDECAR, Sidecar, open_sidecar
from allrounder.engines.onnxruntime.build import build
from allrounder.engines.tensorrt_llm.layout import HEAD, decoder_of, engine_config, targets
from allrounder.engines.tensorrt_llm.limits import EngineLimits, Sizes, checkpoint_parser, sizes_of
from allrounder.engines.tensorrt_llm.release import FOLDER, require_engine_path, require_gpu
from allrounder.engines.tensorrt_llm.scripts import BUILD, CHECKPOINT, ENGINE, scripts
from allrounder.engines.tensorrt_llm.weights import DTYPES, Weights, write_rank
from allrounder.engines.written import list_written
from allrounder.errors import AllRounderError, BackendError, BundleError
from allrounder.hashing import file_record, list_files
from allrounder.manifest import Entry, encode
from allrounder.progress import Progress, TerminalProgress, silent

__all__ = ["BACKEND", "PLACE", "POLICIES", "build", "check", "convert", "main", "opened", "run_build"]

BACKEND = "tensorrt-llm"
PLACE, POLICIES = checkpoint.PLACE, checkpoint.POLICIES
check = checkpoint.check  # one KV length for all layers here too


def opened(place: Path, *, force: bool, progress: Progress) -> AbstractContextManager[Output]:
    """Opens a place for a checkpoint that holds TensorRT-LLM's as well; see the checkpoint backend's `opened`."""
    return checkpoint.opened(place, force=force, progress=progress, write=_write_both)


def _write_both(frozen_dir: Path, measured: Entry, out: Path, progress: Progress = silent) -> Sidecar:
    sidecar = checkpoint.write_checkpoint(frozen_dir, measured, out, progress)
    folder = out / FOLDER
    _convert(out, sidecar, folder, Sizes(), "..", progress)
    added = {f"{FOLDER}/{name}": file_record(folder / name) for name in list_files(folder)}
    entry = msgspec.structs.replace(sidecar.entry, backend=BACKEND)
    both = msgspec.structs.replace(sidecar, entry=entry, files=dict(sorted({**sidecar.files, **added}.items())))
    (out / SIDECAR).write_bytes(encode(both))
    sync(out / SIDECAR)
    return both


def convert(
    source: Path | str, out: Path | str, sizes: Sizes | None = None, progress: Progress = silent
) -> EngineLimits:
    """Writes what `trtllm-build` needs of a pruned checkpoint into a new folder, whole or not at all.

    Raises:
        BundleError: The place is taken, or the file system refuses.
        BundleCorrupt: The checkpoint is damaged.
        ModelUnsupported: Its decoder has no place in the layout.
        InputInvalid: It cannot be cut into so many ranks, or an engine cannot have these limits.
    """
    root, sidecar = open_sidecar(source, progress=progress)
    place = Path(out).resolve()
    if place.exists():
        raise BundleError("the place is taken", where=place, remedy="give another directory (--out), or remove it")
    with beside(place) as folder:
        pruned = os.path.relpath(root, place)
        limits = _convert(root, sidecar, folder / "new", sizes or Sizes(), pruned, progress)
        with reported(place, "TensorRT-LLM checkpoint"):
            list_written(folder / "new")
            (folder / "new").rename(place)
            sync(place.parent)
    return limits


def _convert(root: Path, sidecar: Sidecar, out: Path, sizes: Sizes, pruned: str, progress: Progress) -> EngineLimits:
    config = json.loads((root / "config.json").read_bytes())
    weights = Weights(root)
    decoder = decoder_of(config.get("text_config") or {}, tied=HEAD not in weights)
    limits = EngineLimits.of(sidecar, sizes)
    limits.check_positions(limits.tokens, decoder.max_positions)
    ranks = [tuple(targets(decoder, limits.tensor_parallel, rank)) for rank in range(limits.tensor_parallel)]
    with reported(out, "TensorRT-LLM checkpoint"):
        (out / CHECKPOINT).mkdir(parents=True)
        described = engine_config(decoder, DTYPES[weights.dtype], limits.tensor_parallel)
        (out / CHECKPOINT / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        for rank, wanted in enumerate(ranks):
            file = out / CHECKPOINT / f"rank{rank}.safetensors"
            write_rank(file, weights, wanted, partial(progress, f"writing rank {rank}"))
        for name, text in scripts(f"{sidecar.entry.pruning.version} of {sidecar.model.name}", limits, pruned).items():
            (out / name).write_text(text, encoding="utf-8")
            (out / name).chmod(0o644 if name.endswith(".md") else 0o755)
    return limits


def run_build(folder: Path | str, flags: Sequence[str] = ()) -> Path:
    """Runs the build script of a converted checkpoint, where TensorRT-LLM and a GPU are; returns the engine's folder.

    Raises:
        EngineUnavailable: TensorRT-LLM is not installed, or of a release that builds no engines or is not known; or the
            GPU is not one that it builds for.
        BackendError: `trtllm-build` failed; the end of its output is quoted.
    """
    folder = Path(folder).resolve()
    release = require_engine_path()
    require_gpu(release)
    bash = shutil.which("bash")
    if bash is None:
        raise BackendError("there is no bash to run the build script with", where=folder / BUILD)
    done = subprocess.run(  # noqa: S603 - the script that was written above
        [bash, str(folder / BUILD), *flags], check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise BackendError("trtllm-build failed", where=folder / BUILD, got=done.stderr[-2000:].strip())
    return folder / ENGINE


def main(argv: Sequence[str] | None = None) -> int:
    """Converts a pruned checkpoint as a command; returns the exit code (0, or 2 with one message on stderr)."""
    about = "A pruned checkpoint becomes one for TensorRT-LLM's engine path (1.0 to 1.2.1, legacy)."
    parser = checkpoint_parser("allrounder.engines.tensorrt_llm.build", about)
    parser.add_argument("--build", action="store_true", help="run trtllm-build as well; needs it and the GPU here")
    arguments = parser.parse_args(argv)
    try:
        if arguments.build:
            require_gpu(require_engine_path())  # before the work, not after it
        limits = convert(arguments.checkpoint, arguments.out, sizes_of(arguments), TerminalProgress())
        engine = run_build(arguments.out) if arguments.build else None
    except AllRounderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"out": str(arguments.out), "engine": engine and str(engine), **limits._asdict()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
