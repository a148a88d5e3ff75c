"""``allrounder inspect``: what is in a bundle, and what an image keeps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from allrounder.calib.tables import ranges, table
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.fingerprint import Machine
from allrounder.images.plan import ImagePlan
from allrounder.images.planning import token_range
from allrounder.manifest import Entry, Estimate, Fidelity, Figures, Recommendation
from allrounder.progress import TerminalProgress

__all__ = ["add_arguments", "render", "run"]

_MIB = 1 << 20
_FIGURES = ("accuracy", "retention", "agreement", "KL (nats)", "questions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``inspect`` to ``parser``."""
    parser.description = "Show a bundle as tables, and draw what a version keeps of an image."
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("bundles/demo"), help="default: bundles/demo")
    parser.add_argument("--image", type=Path, metavar="FILE", help="an image to be drawn with its kept tokens")
    parser.add_argument("--question", default="What is in the image?", metavar="TEXT", help="what is asked about it")
    parser.add_argument("--version", metavar="NAMES", help="versions to draw, separated by commas (default: all)")
    parser.add_argument("--out", type=Path, metavar="OUT.png", help="where to write it")
    parser.add_argument("--threads", type=int, help="CPU threads: latencies count where the threads are the same")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables and, where an image is given, writes it."""
    if (arguments.image is None) != (arguments.out is None):
        raise InputInvalid("--image and --out belong together", remedy="give both, or neither")
    bundle = open_bundle(arguments.bundle, progress=TerminalProgress())
    print(render(bundle, arguments.threads))
    if arguments.out is not None:
        from allrounder.commands.drawing import write_image

        names = arguments.version.split(",") if arguments.version else None
        lines = write_image(bundle, arguments.image, arguments.question, arguments.out, names)
        print("\n" + "\n".join(lines))
        print(f"wrote {arguments.out}")
    return 0


def render(bundle: OpenBundle, threads: int | None = None) -> str:
    """Returns the bundle as text; ``threads`` are those that its latencies are compared for (default: all cores)."""
    manifest = bundle.manifest
    model, limits = manifest.model, manifest.limits
    facts = [
        ("bundle", str(bundle.path)),
        ("manifest", f"{bundle.digest[:16]}, written by {manifest.producer}"),
        ("model", f"{model.name}, digest {model.digest[:16]}, router {(model.router or 'none')[:16]}"),
        ("", f"{model.images.tokens} tokens of {model.images.size} px squared{_tiles(model.images)}"),
        ("", f"{model.layers} layers of {model.hidden}"),
        ("", f"{model.max_positions} tokens are its longest sequence, prompt and answer"),
        (
            "limits",
            f"{limits.images} images ({limits.image_tokens} image tokens), {limits.text_tokens} text tokens in, ",
        ),
        ("", f"{limits.new_tokens} out, in batches of up to {limits.batch}"),
    ]
    sections = [
        "\n".join(f"{name:<10}{value}" for name, value in facts),
        _versions(manifest.entries, token_range(model.images)),
        _fidelities(manifest.entries),
        *_by_class(manifest.entries),
        *_recommendations(manifest.recommendations),
        _latencies(manifest.entries, threads),
        _files(bundle),
    ]
    return "\n\n".join(sections)


def _names(entries: Sequence[Entry]) -> list[str]:
    """Returns what each entry is called in a table: its version, and the rest of its key where that is not enough."""
    versions = [entry.version for entry in entries]
    return [entry.version if versions.count(entry.version) == 1 else entry.label for entry in entries]


def _tiles(plan: ImagePlan) -> str:
    """Returns what is to be added where an image is more than one tile."""
    if plan.most_tiles == 1:
        return ""
    least, most = token_range(plan)
    return f", the tile; up to {plan.most_tiles} tiles, {least} to {most} tokens of an image"


def _versions(entries: Sequence[Entry], image_tokens: tuple[int, int]) -> str:
    least, most = image_tokens
    header = (
        "version",
        "backend",
        "precision",
        "keep",
        "of an image" if least == most else f"of {least} to {most}",
        "layers",
        "K",
        "native op",
        "policy",
        "kept layers",
    )
    rows = [
        (
            entry.version,
            entry.backend,
            entry.precision,
            entry.pruning.keep,
            " to ".join(str(entry.pruning.budget(tokens).tokens) for tokens in sorted(set(image_tokens))),
            str(entry.pruning.layers),
            str(entry.pruning.prune_layer),
            "asked for" if entry.native_op else "-",
            entry.pruning.layer_policy,
            "per input" if entry.pruning.kept_layers is None else ranges(entry.pruning.kept_layers),
        )
        for entry in entries
    ]
    return table(header, rows)


def _fidelities(entries: Sequence[Entry]) -> str:
    header = ("fidelity to full", *_FIGURES, "kind", "prompts")
    rows = []
    for name, entry in zip(_names(entries), entries, strict=True):
        known = entry.fidelity
        if known is None:
            rows.append((name, *("-" for _ in header[1:])))
        else:
            rows.append((name, *_figures(known), "quick" if known.quick else "full report", known.dataset))
    return table(header, rows)


def _by_class(entries: Sequence[Entry]) -> list[str]:
    """Returns the table of figures by class of question, a class's entries together; nothing where there are none."""
    named = [
        (name, entry.fidelity.kinds) for name, entry in zip(_names(entries), entries, strict=True) if entry.fidelity
    ]
    classes = sorted({kind for _, kinds in named for kind in kinds})
    rows = [(kind, name, *_figures(kinds[kind])) for kind in classes for name, kinds in named if kind in kinds]
    return [table(("class", "entry", *_FIGURES), rows)] if rows else []


def _figures(known: Fidelity | Figures) -> tuple[str, ...]:
    """Returns the cells under `_FIGURES`."""
    shares = ("-" if share is None else _interval(share, 3) for share in (known.accuracy, known.retention))
    return (*shares, _interval(known.agreement, 3), _interval(known.kl, 4), str(known.questions))


def _recommendations(recommendations: Sequence[Recommendation]) -> list[str]:
    lines = [f"{each.version}: {each.layer_policy} is recommended: {each.why}" for each in recommendations]
    return ["\n".join(lines)] if lines else []


def _latencies(entries: Sequence[Entry], threads: int | None) -> str:
    header = ("latency, ms", "ttft p50", "p95", "p99", "tpot p50", "p95", "p99", "threads", "counts here")
    rows = []
    for name, entry in zip(_names(entries), entries, strict=True):
        known = entry.latency
        if known is None:
            rows.append((name, *("-" for _ in header[1:-1]), "not measured"))
            continue
        figures = [
            f"{value:.2f}" for each in (known.ttft_ms, known.tpot_ms) for value in (each.p50, each.p95, each.p99)
        ]
        counts = "yes" if known.machine == _machine(entry, threads) else f"no: {_short(known.machine)}"
        rows.append((name, *figures, str(known.machine.threads), counts))
    return table(header, rows)


def _machine(entry: Entry, threads: int | None) -> Machine | None:
    """Returns this machine, or None where the entry's backend is not there."""
    from allrounder.engines.options import EngineOptions
    from allrounder.engines.sessions import backend

    device = "cuda" if entry.latency and entry.latency.machine.gpu else "cpu"
    try:
        return backend(entry.backend).fingerprint(EngineOptions(threads=threads, device=device))
    except EngineUnavailable:
        return None


def _short(machine: Machine) -> str:
    return f"{machine.gpu or machine.cpu}, {machine.cores} cores, {machine.backend}"


def _files(bundle: OpenBundle) -> str:
    files = bundle.manifest.files
    rows = [(path, f"{files[path].bytes:,}", files[path].sha256[:16]) for path in sorted(files)]
    total = sum(record.bytes for record in files.values())
    return table(("file", "bytes", "sha256"), [*rows, (f"{len(rows)} files, {total / _MIB:.1f} MiB", f"{total:,}", "")])


def _interval(estimate: Estimate, digits: int) -> str:
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
