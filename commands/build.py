"""``allrounder build`` (and ``build_engine.py``): a model, a router and a list of versions become a bundle.

Arguments, defaults and what is printed; the build itself is `allrounder.commands.pipeline.build`.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import get_args

import msgspec

from allrounder.commands.keep_words import keep_words
from allrounder.commands.pipeline.request import BuildRequest, LimitFlags
from allrounder.errors import InputInvalid, UnknownVersion
from allrounder.manifest import Precision
from allrounder.progress import TerminalProgress
from allrounder.pruning import LAYER_POLICIES, parse_keep
from allrounder.versions import DEFAULT_VERSION, FULL, VERSIONS, is_version

__all__ = ["add_arguments", "demo_models", "run"]

_DEMO = "demo"
_CHECKOUT = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``build`` to ``parser``."""
    parser.description = "Freeze pruning versions of a vision-language model into a bundle of engines."
    parser.add_argument(
        "--version",
        help=f"one of {', '.join(VERSIONS)}; several separated by commas; or all (default: {DEFAULT_VERSION})",
    )
    parser.add_argument(
        "--keep",
        metavar="SHARE|COUNT",
        help="a version of your own: the share (0.25) or number (144) of each image's tokens; 1: all",
    )
    parser.add_argument("--layers", type=int, metavar="L", help="a version of your own: the decoder layers it keeps")
    parser.add_argument("--model", default=_DEMO, help="demo, a Hugging Face directory, or a hub id")
    parser.add_argument("--router", type=Path, metavar="DIR", help="a trained router (demo: the shipped one)")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help="what the engines are for: onnxruntime (default), openvino, tensorrt, tensorrt-rtx; or a pruned Hugging "
        "Face directory (K=0, static): checkpoint, and tensorrt-llm with what trtllm-build takes (docs/backends.md)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=get_args(Precision),
        help="of weights, rows and caches (default: fp32); fp16 and bf16 are for GPUs, and OpenVINO runs them too",
    )
    parser.add_argument(
        "--layer-policy",
        choices=("both", *LAYER_POLICIES),
        help="static: layers chosen once, from calibration; dynamic: per input (default: both where the backend runs "
        "both, else static)",
    )
    parser.add_argument(
        "--prune-layer", type=int, default=2, metavar="K", help="the layer before which image tokens are dropped"
    )
    parser.add_argument(
        "--native-op", action="store_true", help="ask for the native gather op where the runtime has it (onnxruntime)"
    )
    parser.add_argument("--calib", type=Path, metavar="FILE", help="JSONL of images and questions to calibrate on")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the bundle, or checkpoint (default: bundles/MODEL, or checkpoints/MODEL-VERSION)",
    )
    limits = parser.add_argument_group("what a request may ask for, at most (default: what fits the model)")
    limits.add_argument("--max-images", type=int, metavar="N", help="images of one request")
    limits.add_argument(
        "--max-text-tokens", type=int, metavar="N", help="text tokens of one prompt, the template's included"
    )
    limits.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of one answer")
    limits.add_argument("--max-batch", type=int, metavar="N", help="requests that decode together")
    parser.add_argument("--force", action="store_true", help="build and measure again what is there already")


def run(arguments: argparse.Namespace) -> int:
    """Builds, shows its progress on stderr and prints one JSON object as the last line of stdout."""
    request = request_from(arguments)
    from allrounder.commands.pipeline.build import (
        build_bundle,  # imports torch: seconds that a typing error need not wait
    )

    report = build_bundle(request, TerminalProgress())
    for entry in report.entries:
        print(f"built {entry.label}: {keep_words(entry.pruning)}, {entry.pruning.layers} decoder layers")
    print(msgspec.json.encode(report).decode())
    return 0


def request_from(arguments: argparse.Namespace) -> BuildRequest:
    """Returns what the arguments ask for, defaults filled in.

    Raises:
        UnknownVersion: A version name that is none.
        InvalidBudget: A keep rule that is none.
        InputInvalid: The demo model is asked for where it does not lie, a router is missing, or the native op is asked
            for where the backend has no use for it.
    """
    if arguments.native_op and arguments.backend != "onnxruntime":
        raise InputInvalid(
            "the native op is registered with ONNX Runtime alone",
            where="--native-op",
            got=f"--backend {arguments.backend}",
            remedy="leave --native-op out",
        )
    limits = _limits(arguments)
    custom = arguments.keep is not None or arguments.layers is not None
    versions = _versions(arguments.version, custom=custom)
    vlm, router, calib = arguments.model, arguments.router, arguments.calib
    if vlm == _DEMO:
        models = demo_models()
        vlm = str(models / "demo")
        router = router or models / "demo-router"
        calib = calib or models / "demo" / "calibration" / "prompts.jsonl"
    if router is None and (versions != (FULL,) or custom):
        raise InputInvalid(
            f"every version but {FULL} needs a router",
            where="--router",
            remedy=f"train one: allrounder train-router --model {shlex.quote(vlm)} --prompts PROMPTS.jsonl "
            "--out my-router, then give --router my-router",
        )
    return BuildRequest(
        versions=versions,
        keep=None if arguments.keep is None else parse_keep(arguments.keep),
        layers=arguments.layers,
        vlm=vlm,
        router=router,
        backend=arguments.backend,
        precision=arguments.precision,
        layer_policy=arguments.layer_policy,
        prune_layer=arguments.prune_layer,
        calib=calib,
        own_prompts=arguments.calib is not None,
        out=arguments.out,
        force=arguments.force,
        native_op=arguments.native_op,
        flags=_flags(arguments, limits),
        limits=limits,
    )


def _limits(arguments: argparse.Namespace) -> LimitFlags:
    limits = LimitFlags(arguments.max_images, arguments.max_text_tokens, arguments.max_new_tokens, arguments.max_batch)
    for flag, value in limits.given.items():
        if value < 1:
            raise InputInvalid("an impossible limit", where=flag, got=value, wanted="1 or more")
    return limits


def _flags(arguments: argparse.Namespace, limits: LimitFlags) -> tuple[str, ...]:
    """Returns what an error's remedy repeats of the command line: where things lie and limits, as far as given."""
    given = {
        "--model": arguments.model,
        "--router": arguments.router,
        "--calib": arguments.calib,
        "--out": arguments.out,
        **limits.given,
    }
    return tuple(
        part for flag, value in given.items() if value is not None and value != _DEMO for part in (flag, str(value))
    )


def _versions(names: str | None, *, custom: bool) -> tuple[str, ...]:
    """Returns the versions asked for by name, each once, in the order of the table, custom ones last.

    Where a ``custom`` version is given and no name, it is all that is built.
    """
    if names is None:
        asked = [] if custom else [DEFAULT_VERSION]
    elif names.strip() == "all":
        asked = list(VERSIONS)
    else:
        asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if not is_version(name):
            raise UnknownVersion(
                f"there is no version {name!r}",
                where="--version",
                wanted=f"one of {', '.join(VERSIONS)}; several separated by commas; or all",
                remedy="for a budget of your own give --keep and --layers",
            )
    ranks = {name: rank for rank, name in enumerate(VERSIONS)}
    return tuple(sorted(dict.fromkeys(asked), key=lambda name: ranks.get(name, len(ranks))))


def demo_models() -> Path:
    """Returns the folder that holds the shipped models: of this checkout, else of the current directory."""
    for root in (_CHECKOUT, Path.cwd()):
        if (root / "models" / "demo" / "config.json").is_file():
            return root / "models"
    raise InputInvalid(
        "the demo model is not here",
        where="models/demo",
        remedy="run this in a checkout of the repository (the wheel does not carry models), or give --model",
    )
