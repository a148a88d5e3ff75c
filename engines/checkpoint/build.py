"""The checkpoint backend: a pruned model as a stock Hugging Face directory, for serving stacks that load one.

It writes the model with the kept layers, renumbered, beside the graphs that make its T image rows and a sidecar that
says what was kept. ONNX Runtime's engines of the same decision are staged, so that its fidelity is measured like any
version's; they are thrown away. The stacks themselves are the business of `allrounder.serving`.

    config.json, model*.safetensors, tokenizer, processor, chat template    as `from_pretrained` wants them
    allrounder.json                                                         the sidecar
    image/                                                                  vision, router, tokenizer

The directory is whole or absent: it is made beside its place and renamed. Killed while it takes the place of an older
checkpoint, between two renames, it is absent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from allrounder import __version__
from allrounder.engines.backends import Asked
from allrounder.engines.bundle.folders import beside, reported, sync
from allrounder.engines.bundle.locking import exclusive
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.checkpoint.image import write_image
from allrounder.engines.checkpoint.sidecar import IMAGE_FOLDER, SIDECAR, PrunedEntry, Sidecar, read_sidecar
from allrounder.engines.checkpoint.weights import pruned_config, write_weights
from allrounder.engines.frozen import read_frozen
from allrounder.engines.onnxruntime.build import build, load_graph
from allrounder.engines.written import written
from allrounder.errors import BundleCorrupt, BundleError, InputInvalid
from allrounder.hashing import check_files, file_record, list_files, verify_files
from allrounder.manifest import SCHEMA, Entry, FileRecord, SharedGraphs, encode
from allrounder.model_files import CONFIG, MODEL_FOLDER, ModelRecord, read_model
from allrounder.progress import Progress, silent

__all__ = ["BACKEND", "PLACE", "POLICIES", "build", "check", "opened", "write_checkpoint"]

BACKEND = "checkpoint"
PLACE = "checkpoints/{model}-{version}"
POLICIES = ("static",)
_POSITIONS = (
    "fidelity holds where the serving stack gives every row its position in the unpruned prompt; one that counts the "
    "rows it is given computes something else, and may lose much (docs/backends.md)"
)
_TOKENIZER_CONFIG = "tokenizer_config.json"
_PLAIN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # one class: its name in transformers 4 and in 5
Writer = Callable[[Path, Entry, Path, Progress], Sidecar]  # as `write_checkpoint`


def check(asked: Asked) -> None:
    """Refuses what one stock directory cannot express.

    Raises:
        InputInvalid: Another prune layer than 0, dynamic layers, several versions, or bf16; the remedy is the
            nearest command line that works.
    """
    reasons: list[str] = []
    first, *others = asked.versions
    if asked.prune_layer:
        reasons.append(
            f"tokens cannot be dropped at layer {asked.prune_layer}, because serving stacks hold one KV length "
            "for all layers: drop them before the decoder (--prune-layer 0)"
        )
    if asked.dynamic:
        reasons.append(
            "layers cannot be chosen per input, because every layer of the file is run for every input: fix them "
            "by a ranking (--layer-policy static)"
        )
    if others:
        reasons.append("--out becomes one model directory: build one version at a time, each into a place of its own")
    if asked.precision == "bf16":
        reasons.append(
            "the graphs of image/ hand their rows to any stack as numpy arrays, and numpy has no bfloat16: give "
            "--precision fp16 or fp32, which is that of these graphs alone (the weights keep the model's bytes)"
        )
    if reasons:
        raise InputInvalid(
            "a pruned checkpoint cannot express this",
            where=f"--backend {asked.backend}",
            got="; ".join(reasons),
            remedy=asked.static_command(
                version=first,
                prune_layer="0",
                precision="fp32" if asked.precision == "bf16" else asked.precision,
            ),
        )


@contextmanager
def opened(place: Path, *, force: bool, progress: Progress, write: Writer | None = None) -> Iterator[_Output]:
    """Opens a place for a checkpoint, which may take the place of another with ``force``.

    A backend whose directory holds more gives ``write``, in place of `write_checkpoint`.

    Raises:
        BundleError: It holds something that is no checkpoint of ours, or one, and ``force`` is not given.
    """
    place = place.resolve()
    _check_place(place, force=force)
    with beside(place) as folder, Staging(folder / "measured", progress=progress) as staging:
        yield _Output(place, folder, staging, write or write_checkpoint, force=force, progress=progress)


class _Output:
    """A build that ends in a checkpoint; an `allrounder.engines.backends.Output`."""

    notes: tuple[str, ...] = (_POSITIONS,)

    def __init__(
        self, place: Path, folder: Path, staging: Staging, write: Writer, *, force: bool, progress: Progress
    ) -> None:
        self.place, self.staging, self._write = place, staging, write
        self._folder, self._force, self._progress = folder, force, progress

    def publish(self, frozen_dir: Path, entries: Sequence[Entry]) -> tuple[PrunedEntry, ...]:
        source = Path(read_model(frozen_dir).source)
        if self.place in (source, *source.parents):
            raise BundleError("the model itself would be replaced", where=self.place, remedy="give another --out")
        wanted = {entry.key for entry in entries}
        (measured,) = (entry for entry in self.staging.manifest.entries if entry.key in wanted)
        new = self._folder / "checkpoint"
        with reported(self.place, "checkpoint"):
            sidecar = self._write(frozen_dir, measured, new, self._progress)
            _put(new, self.place, self._folder / "old", force=self._force)
        return (sidecar.entry,)


def write_checkpoint(frozen_dir: Path, measured: Entry, out: Path, progress: Progress = silent) -> Sidecar:
    """Writes a checkpoint into a folder that does not exist yet; the sidecar comes last.

    It takes the pruning and the figures of ``measured``, a static entry with K = 0.

    Raises:
        InputInvalid: The entry drops tokens inside the decoder, or is dynamic.
        BundleCorrupt: The frozen directory is damaged, or the model's weights are no longer those that were frozen.
        ModelUnsupported: The model's config speaks of layers in a way that cannot be pruned.
        OSError: The file system refuses.
    """
    frozen, vlm = read_frozen(frozen_dir), read_model(frozen_dir)
    if vlm.digest != frozen.model.digest:
        raise BundleCorrupt("the model's files are not those of the graphs", where=frozen_dir, got=vlm.digest)
    entry = _pruned(measured)
    kept = entry.pruning.kept_layers or ()
    out.mkdir()
    files = _small_files(frozen_dir / MODEL_FOLDER, vlm, kept, out)
    files |= write_weights(vlm, kept, out, progress)
    graphs, image_files = write_image(frozen_dir, frozen, out / IMAGE_FOLDER, router=entry.pruning.prunes)
    for name in filter(None, (graphs.vision, graphs.router)):
        load_graph(out / IMAGE_FOLDER / name, f"{IMAGE_FOLDER}/{name}")
    files |= {f"{IMAGE_FOLDER}/{name}": record for name, record in image_files.items()}
    sidecar = Sidecar(
        schema=SCHEMA,
        producer=f"allrounder {__version__}",
        model=frozen.model,
        chat=frozen.chat,
        limits=frozen.limits,
        entry=entry,
        graphs=SharedGraphs(
            vision=f"{IMAGE_FOLDER}/{graphs.vision}",
            router=graphs.router and f"{IMAGE_FOLDER}/{graphs.router}",
        ),
        files=dict(sorted(files.items())),
    )
    (out / SIDECAR).write_bytes(encode(sidecar))
    for path in (*sidecar.files, SIDECAR):
        sync(out / path)
    for folder in {out, *((out / path).parent for path in sidecar.files)}:
        sync(folder)
    return sidecar


def _pruned(measured: Entry) -> PrunedEntry:
    if measured.pruning.layer_policy != "static" or measured.pruning.prune_layer != 0:
        raise InputInvalid("a checkpoint cannot express this", got=measured.label, wanted="K=0, static")
    return PrunedEntry(
        pruning=measured.pruning, backend=BACKEND, precision=measured.precision, fidelity=measured.fidelity
    )


def _small_files(source: Path, vlm: ModelRecord, kept: Sequence[int], out: Path) -> dict[str, FileRecord]:
    """Copies what a model has beside its weights, the config with fewer layers."""
    try:
        verify_files(source, vlm.files, check_files(source, vlm.files))
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleCorrupt("the model's files cannot be read", where=source, got=error) from error
    for name in vlm.files:
        shutil.copyfile(source / name, out / name)
    (out / CONFIG).write_text(json.dumps(pruned_config(config, vlm, kept), indent=2) + "\n", encoding="utf-8")
    if _TOKENIZER_CONFIG in vlm.files:
        _say_for_older(out / _TOKENIZER_CONFIG)
    return {name: file_record(out / name) for name in vlm.files}


def _say_for_older(path: Path) -> None:
    """Says in the older way too what transformers 5 says of a plain tokenizer; version 4 has no `TokenizersBackend`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("tokenizer_class") not in _PLAIN_TOKENIZERS:
            return
    except (OSError, ValueError, AttributeError) as error:
        raise BundleCorrupt("the model's files cannot be read", where=path, got=error) from error
    config["tokenizer_class"] = _PLAIN_TOKENIZERS[0]
    if isinstance(config.get("extra_special_tokens"), list):  # a dict in version 4
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if isinstance(config.get("model_specific_special_tokens"), dict):  # which version 4 reads under that name
        config.setdefault("extra_special_tokens", config["model_specific_special_tokens"])
    config.setdefault("model_input_names", ["input_ids", "attention_mask"])  # version 4 adds what no decoder takes
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_place(place: Path, *, force: bool) -> bool:
    """Says whether a checkpoint is at the place that may be replaced; an absent or empty one is free.

    Raises:
        BundleError: Something else is there, or a checkpoint while ``force`` is not given.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    if not (place / SIDECAR).is_file():
        raise BundleError(
            "the place is taken by something that is not a pruned checkpoint",
            where=place,
            remedy="give another directory (--out), or remove what is there",
        )
    present = read_sidecar(place)
    others = set(list_files(place)) - set(present.files) - {SIDECAR}
    if strays := sorted(others - written(place, others, present.files)):
        raise BundleError(
            "there are files beside the pruned checkpoint that are not this program's, or were changed",
            where=place,
            got=", ".join(strays[:5]) + (" ..." if len(strays) > 5 else ""),
            remedy="move them out, or give another directory (--out)",
        )
    if not force:
        raise BundleError(
            "there is a pruned checkpoint already",
            where=place,
            got=f"{present.entry.label} of {present.model.name}",
            remedy="give --force to replace it, or another directory (--out)",
        )
    return True


def _put(new: Path, place: Path, old: Path, *, force: bool) -> None:
    """Renames the finished checkpoint to its place; what it replaces goes with the temporary folder."""
    with exclusive(place):
        if _check_place(place, force=force):
            place.rename(old)
        try:
            new.rename(place)  # onto nothing or an empty directory
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        sync(place.parent)
