"""``allrounder run``: one question, or a conversation, with any number of images."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from allrounder.chat.messages import Messages
from allrounder.commands.conversation import add_arguments as add_conversation
from allrounder.commands.conversation import conversation
from allrounder.commands.keep_words import keep_words
from allrounder.manifest import Entry
from allrounder.progress import TerminalProgress
from allrounder.pruning import parse_keep
from allrounder.runtime.answer import Answer
from allrounder.runtime.choice import LatencyTarget
from allrounder.runtime.request import RequestOptions
from allrounder.runtime.runtime import Runtime
from allrounder.versions import Keep

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``run`` to ``parser``."""
    parser.description = "Ask a bundle a question about images, or without any."
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundles/demo"), metavar="DIR", help="default: bundles/demo"
    )
    add_conversation(parser)
    choice = parser.add_argument_group("which engine (default: the most faithful)")
    choice.add_argument("--version", metavar="NAME", help="this version, for example par-lite")
    choice.add_argument("--ttft-ms", type=float, metavar="MS", help="the most faithful with this time to first token")
    choice.add_argument("--tpot-ms", type=float, metavar="MS", help="and this time per further token")
    choice.add_argument("--percentile", type=int, choices=(50, 95, 99), default=95, help="of these times (default: 95)")
    choice.add_argument("--fallback", choices=("fastest",), help="where none meets them, take the nearest")
    choice.add_argument("--threads", type=int, help="CPU threads (default: all usable cores)")
    choice.add_argument("--weights", choices=("fast", "shared"), default="fast")
    choice.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    choice.add_argument(
        "--provider", choices=("cuda", "tensorrt"), default="cuda", help="ONNX Runtime's, on a GPU (default: cuda)"
    )
    answer = parser.add_argument_group("the answer")
    answer.add_argument("--max-new-tokens", type=int, metavar="N", help="default: 128")
    answer.add_argument(
        "--keep",
        metavar="SHARE|COUNT",
        help="the share (0.25) or number (144) of each image's tokens to keep; 1: all of them (default: the version's)",
    )
    answer.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    answer.add_argument("--seed", type=int, help="repeats a sampled answer")
    answer.add_argument("--stream", action="store_true", help="print the answer as it comes")
    answer.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    """Answers, and prints answer, engine and times, or with ``--json`` one JSON object."""
    target = None
    if arguments.ttft_ms is not None or arguments.tpot_ms is not None:
        target = LatencyTarget(arguments.ttft_ms, arguments.tpot_ms, arguments.percentile)
    messages = conversation(arguments)
    options: RequestOptions = {
        "keep": None if arguments.keep is None else _number(parse_keep(arguments.keep)),
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
    }
    runtime = Runtime.load(
        arguments.bundle,
        target=target,
        version=arguments.version,
        fallback=arguments.fallback,
        progress=TerminalProgress(),
        threads=arguments.threads,
        weights=arguments.weights,
        device=arguments.device,
        provider=arguments.provider,
    )
    with runtime:
        if arguments.stream and not arguments.json:
            answer = _stream(runtime, messages, options)
        else:
            answer = runtime.chat(messages, **options)
            print(_json(runtime.entry, answer) if arguments.json else answer.text)
        if not arguments.json:
            print(f"\n{_facts(runtime.entry, answer)}")
    return 0


def _number(keep: Keep) -> float:
    return keep if isinstance(keep, int) else float(keep)


def _stream(runtime: Runtime, messages: Messages, options: RequestOptions) -> Answer:
    stream = runtime.stream_chat(messages, **options)
    for piece in stream:
        print(piece, end="", flush=True)
    print()
    assert stream.answer is not None, "a stream that ended without an error has its answer"
    return stream.answer


def _facts(entry: Entry, answer: Answer) -> str:
    timing, usage = answer.timing, answer.usage
    images = f" and {usage.image_tokens} of images ({usage.kept_image_tokens} stay)" if usage.image_tokens else ""
    tpot = "" if timing.tpot_ms is None else f", then {timing.tpot_ms:.2f} ms per token"
    names = ("preprocess", "vision", "router", "prefill", "decode")
    phases = ", ".join(f"{name} {getattr(timing, f'{name}_ms'):.1f}" for name in names)
    return "\n".join(
        (
            f"engine  {entry.label}: {keep_words(entry.pruning)}, {entry.pruning.layers} decoder layers",
            f"time    first token after {timing.ttft_ms:.1f} ms{tpot}",
            f"phases  {phases} ms",
            f"tokens  {usage.text_tokens} of text{images} in, {usage.new_tokens} out, ended by {answer.finish}",
        )
    )


def _json(entry: Entry, answer: Answer) -> str:
    plain = {"version": entry.version, "engine": entry.label, **msgspec.to_builtins(answer)}
    return msgspec.json.encode(plain).decode()
