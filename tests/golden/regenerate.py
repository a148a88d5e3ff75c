"""Writes the golden manifests; nothing else does.

What it is: one imagined bundle whose manifest uses every record, every policy, every absent value, and strings that
need care (quotes, line ends, no ASCII). Python and C++ tests read the files beside this one. `first-edition.json` is
the manifest as the first edition wrote it (schema 1): nothing writes it any more, and both languages refuse it.
What it knows: the contract's records. What it does not know: any stage.

Run it as ``python tests/golden/regenerate.py`` when the schema changes, and look at the difference.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from allrounder.fingerprint import Machine
from allrounder.images.plan import Fixed, ImagePlan
from allrounder.manifest import (
    SCHEMA,
    ChatLiterals,
    ChatTemplate,
    Entry,
    EntryGraphs,
    Estimate,
    Fidelity,
    Figures,
    FileRecord,
    Frozen,
    FrozenVersion,
    Latency,
    Limits,
    Manifest,
    Model,
    Percentiles,
    Recommendation,
    RoleLiterals,
    SharedGraphs,
    Workload,
    encode,
)
from allrounder.pruning import PruningConfig

__all__ = ["frozen", "manifest"]

_MODEL = Model(
    name='golden "model" \N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}',
    digest=hashlib.sha256(b"model").hexdigest(),
    router=hashlib.sha256(b"router").hexdigest(),
    images=ImagePlan(
        size=336,
        tokens=576,
        filter="bicubic",
        scale=1 / 255,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        layout=Fixed(square=(122, 116, 104), shortest=336),
    ),
    image_token_id=32000,
    layers=32,
    hidden=4096,
    vocabulary=32064,
    max_positions=4096,
    stop_ids=(2, 32001),
)
_ROLE = RoleLiterals(
    empty='"nothing"\n',
    before_text="USER:\t",
    before_image="USER:",
    text_text=" \\ ",
    text_image="\n",
    image_text="\u2028",
    image_image="",
    after_text="</s>",
    after_image=" </s>",
)
_CHAT = ChatTemplate(
    template='{% for m in messages %}{{ m["role"] }}: \\n\t{{ eos_token }}{% endfor %}\n',
    special_tokens={"bos_token": "<s>", "eos_token": "</s>", "odd": '"\\\u2028'},
    image_token="<image>",
    literals=ChatLiterals(
        begin="<s>",
        begin_without_system="<s>\N{GRINNING FACE}",
        generation="ASSISTANT:",
        images_first=True,
        trims=False,
        roles={"user": _ROLE, "system": msgspec.structs.replace(_ROLE, before_text="")},
    ),
)
_LIMITS = Limits(images=4, image_tokens=2304, text_tokens=512, new_tokens=256, batch=8)
_SHARED = SharedGraphs(vision="graphs/vision.onnx", router="graphs/router.onnx")
_NAMES = ("full", "par-lite", "t100-l20")


def manifest() -> Manifest:
    """Returns the golden manifest."""
    paths = [_SHARED.vision, "graphs/router.onnx", "graphs/weights/model-fp32-0.bin"]
    paths += [f"graphs/decoder-{name}.onnx" for name in _NAMES]
    return Manifest(
        schema=SCHEMA,
        producer="allrounder golden",
        model=_MODEL,
        chat=_CHAT,
        limits=_LIMITS,
        files={path: _record(path) for path in [*paths, "tokenizer/tokenizer.json"]},
        entries=(
            _entry("full", kept=tuple(range(32)), keep="1", layers=32, figures=True),
            _entry("par-lite", kept=None, keep="1/4", layers=24, figures=True),
            _entry("t100-l20", kept=(0, 1, *range(14, 32)), keep="100", layers=20, figures=False),
        ),
        recommendations=(
            Recommendation(
                version="par-lite", layer_policy="static", why='static agrees on 86.5%, dynamic on 86.9%: "enough".'
            ),
        ),
    )


def bf16() -> Manifest:
    """Returns the golden manifest in the half precisions, bf16 among them."""
    one = _entry("par-lite", kept=(0, 1, *range(10, 32)), keep="1/4", layers=24, figures=False)
    files = manifest().files
    return msgspec.structs.replace(
        manifest(),
        entries=tuple(msgspec.structs.replace(one, precision=precision) for precision in ("fp16", "bf16")),
        files=files | {"graphs/weights/model-bf16-0.bin": _record("graphs/weights/model-bf16-0.bin")},
        recommendations=(),
    )


def frozen() -> Frozen:
    """Returns the golden record between export and engines."""
    return Frozen(
        schema=SCHEMA,
        producer="allrounder golden",
        precision="fp16",
        model=_MODEL,
        chat=_CHAT,
        limits=_LIMITS,
        graphs=_SHARED,
        versions=(
            FrozenVersion(pruning=_pruning("par-lite", None, "1/4", 24), decoder="graphs/decoder-par-lite.onnx"),
        ),
        files={
            path: _record(path)
            for path in (
                _SHARED.vision,
                "graphs/router.onnx",
                "graphs/decoder-par-lite.onnx",
            )
        },
    )


def _entry(name: str, *, kept: tuple[int, ...] | None, keep: str, layers: int, figures: bool) -> Entry:
    whole = name == "full"
    return Entry(
        pruning=_pruning(name, kept, keep, layers),
        backend="onnxruntime",
        precision="fp32",
        graphs=EntryGraphs(
            vision=_SHARED.vision,
            router=None if whole else _SHARED.router,
            decoder=f"graphs/decoder-{name}.onnx",
        ),
        fidelity=_fidelity(whole=whole) if figures else None,
        latency=_latency() if figures else None,
        native_op=name == "par-lite",
    )


def _pruning(name: str, kept: tuple[int, ...] | None, keep: str, layers: int) -> PruningConfig:
    return PruningConfig(
        version=name,
        keep=keep,
        layers=layers,
        prune_layer=2,
        layer_policy="dynamic" if kept is None else "static",
        kept_layers=kept,
    )


def _fidelity(*, whole: bool) -> Fidelity:
    return Fidelity(
        retention=Estimate(mean=1.0, low=1.0, high=1.0) if whole else None,
        agreement=Estimate(mean=0.1 + 0.2, low=1e-300, high=0.9999999999999999),
        kl=Estimate(mean=0.0, low=-0.0, high=1.7976931348623157e308),
        questions=64,
        dataset="golden.jsonl:0123456789abcdef",
        quick=not whole,
        accuracy=Estimate(mean=0.5, low=0.25, high=0.75) if whole else None,
        kinds={"read": _figures(5), 'a "class"': _figures(59)} if whole else {},
    )


def _figures(questions: int) -> Figures:
    return Figures(
        questions=questions,
        accuracy=Estimate(mean=0.5, low=0.25, high=0.75),
        retention=None,
        agreement=Estimate(mean=1.0, low=1.0, high=1.0),
        kl=Estimate(mean=0.0, low=0.0, high=0.0),
    )


def _latency() -> Latency:
    return Latency(
        ttft_ms=Percentiles(p50=40.25, p95=44.0, p99=51.125),
        tpot_ms=Percentiles(p50=1.5, p95=1.75, p99=2.0),
        machine=Machine(cpu="Golden CPU @ 2 GHz", cores=2, threads=2, backend="onnxruntime 1.31.1", gpu="", driver=""),
        workload=Workload(text_tokens=70, new_tokens=16, batch=1, threads=2, image_size=336),
    )


def _record(path: str) -> FileRecord:
    return FileRecord(sha256=hashlib.sha256(path.encode()).hexdigest(), bytes=len(path))


def _write(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(encode(manifest()))
    (folder / "manifest-bf16.json").write_bytes(encode(bf16()))
    (folder / "frozen.json").write_bytes(encode(frozen()))


if __name__ == "__main__":
    _write(Path(__file__).parent)
