"""The manifest: what a bundle says about itself.

`frozen.json`, the smaller manifest between export and engines, is made of the same records.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from allrounder.errors import BundleCorrupt, BundleFromFuture
from allrounder.fingerprint import Machine
from allrounder.images.plan import ImagePlan
from allrounder.pruning import LayerPolicy, PruningConfig
from allrounder.records import Count, Positive, Record

__all__ = [
    "SCHEMA",
    "ChatLiterals",
    "ChatTemplate",
    "Entry",
    "EntryGraphs",
    "Estimate",
    "Fidelity",
    "Figures",
    "FileRecord",
    "Frozen",
    "FrozenVersion",
    "Latency",
    "Limits",
    "Manifest",
    "Model",
    "Percentiles",
    "Recommendation",
    "RoleLiterals",
    "SharedGraphs",
    "Workload",
    "check_schema",
    "decode",
    "encode",
]

SCHEMA: Final = 3

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # \Z: no line end behind it
Precision = Literal["fp32", "fp16", "bf16"]


class Model(Record, frozen=True, kw_only=True):
    """The model, and the router where there is one, as far as a runtime must know them."""

    name: str
    digest: Sha256  # digest of the model's weights and config
    router: Sha256 | None
    images: ImagePlan
    image_token_id: Count  # the placeholder of an image in a prompt
    layers: Positive  # M
    hidden: Positive
    vocabulary: Positive
    max_positions: Positive  # the longest sequence that the model takes
    stop_ids: tuple[Count, ...]  # any of them ends an answer


class RoleLiterals(Record, frozen=True, kw_only=True):
    """What a chat template writes in messages of one role. Of an image it writes the image token between these."""

    empty: str | None  # for a message without a part; None: the template refuses it
    before_text: str  # where a text or an image is the first part
    before_image: str
    text_text: str  # between two parts
    text_image: str
    image_text: str
    image_image: str
    after_text: str  # where one is the last part
    after_image: str


class ChatLiterals(Record, frozen=True, kw_only=True):
    """A chat template that is literal strings alone, for messages whose contents are lists of parts.

    Made by `allrounder.chat.literals`, for runtimes without Jinja.
    """

    begin: str  # before a first message of the role system
    begin_without_system: str  # before another one
    generation: str  # where the answer begins
    images_first: bool  # all images of a message before its texts
    trims: bool  # texts without the white space at their ends
    roles: dict[str, RoleLiterals]


class ChatTemplate(Record, frozen=True, kw_only=True):
    """What makes a conversation into text: the model's own Jinja template and what it may name."""

    template: str  # Jinja, as the model's processor has it
    special_tokens: dict[str, str]  # by role, as stock rendering gives them to the template: {"bos_token": "<s>"}
    image_token: str  # what the template writes where an image stands
    literals: ChatLiterals | None = None  # the same as strings; None: it is more than that


class Limits(Record, frozen=True, kw_only=True):
    """What a request may ask for."""

    images: Count  # of one request
    image_tokens: Count  # of all images of one request
    text_tokens: Positive  # of one prompt, the template's included
    new_tokens: Positive
    batch: Positive


class FileRecord(Record, frozen=True, kw_only=True):
    """One file of the bundle."""

    sha256: Sha256
    bytes: Count


class Estimate(Record, frozen=True, kw_only=True):
    """A mean with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float


class Figures(Record, frozen=True, kw_only=True):
    """Fidelity on one set of questions, against `full` on the same ones; accuracies where they have answers."""

    questions: Positive
    accuracy: Estimate | None
    retention: Estimate | None  # accuracy over that of `full`
    agreement: Estimate
    kl: Estimate  # nats per token


class Fidelity(Record, frozen=True, kw_only=True):
    """What an entry keeps of ``full`` on the same prompts.

    ``accuracy`` and ``kinds`` came later than the others: bundles written before have none.
    """

    retention: Estimate | None  # accuracy over that of `full`; None where the prompts have no answers
    agreement: Estimate  # share of greedy answers equal to those of `full`, token by token
    kl: Estimate  # mean KL(full || entry) of next-token distributions along full's answer, nats
    questions: Positive
    dataset: str  # name and digest of the prompts
    quick: bool  # measured by `build` on few prompts, not a full report
    accuracy: Estimate | None = None  # share of right answers; None where the prompts have no answers
    # The same by class of question; questions without a class are in none.
    kinds: dict[str, Figures] = msgspec.field(default_factory=dict[str, Figures])


class Workload(Record, frozen=True, kw_only=True):
    """What was run to measure latency."""

    text_tokens: Positive
    new_tokens: Positive
    batch: Positive
    threads: Positive
    image_size: Positive


class Percentiles(Record, frozen=True, kw_only=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


class Latency(Record, frozen=True, kw_only=True):
    """Latency of an entry; it counts only on ``machine``."""

    ttft_ms: Percentiles  # image in to first token out
    tpot_ms: Percentiles  # per further token
    machine: Machine
    workload: Workload


class SharedGraphs(Record, frozen=True, kw_only=True):
    """Graphs that all versions of one precision use."""

    vision: str
    router: str | None


class EntryGraphs(Record, frozen=True, kw_only=True):
    """Paths of an entry's graphs, relative to the bundle."""

    vision: str
    router: str | None
    decoder: str


class Entry(Record, frozen=True, kw_only=True):
    """One engine."""

    pruning: PruningConfig
    backend: str
    precision: Precision
    graphs: EntryGraphs
    fidelity: Fidelity | None
    latency: Latency | None
    native_op: bool = False  # asks for the native gather op where a runtime has it; the same file runs without

    @property
    def version(self) -> str:
        """The name of its version."""
        return self.pruning.version

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes an entry the same as another: a bundle holds each key once."""
        version, prune_layer, layer_policy = self.pruning.key
        return (version, self.backend, self.precision, prune_layer, layer_policy)

    @property
    def label(self) -> str:
        """The key as people read it."""
        version, prune_layer, layer_policy = self.pruning.key
        return f"{version} ({self.backend}, {self.precision}, {layer_policy}, K={prune_layer})"


class Recommendation(Record, frozen=True, kw_only=True):
    """Which layer policy a version should be built with, and why, in one sentence with its figures."""

    version: str
    layer_policy: LayerPolicy
    why: str


class Manifest(Record, frozen=True, kw_only=True):
    """What a bundle holds; its file is named by its digest (`allrounder.engines.bundle.reader`)."""

    schema: Literal[3]
    producer: str  # program and version that wrote it
    model: Model
    chat: ChatTemplate
    limits: Limits
    files: dict[str, FileRecord]  # every file of the bundle but the manifest and the pointer to it
    entries: tuple[Entry, ...]
    recommendations: tuple[Recommendation, ...] = ()  # where both layer policies of a version were measured


class FrozenVersion(Record, frozen=True, kw_only=True):
    """One version as the exporter froze it: an entry before it has a backend and figures."""

    pruning: PruningConfig
    decoder: str


class Frozen(Record, frozen=True, kw_only=True):
    """`frozen.json`: what the exporter hands to the engines, one per precision."""

    schema: Literal[3]
    producer: str
    precision: Precision
    model: Model
    chat: ChatTemplate
    limits: Limits
    graphs: SharedGraphs
    versions: tuple[FrozenVersion, ...]
    files: dict[str, FileRecord]


class _SchemaAlone(Struct):
    schema: Any = None


Document = TypeVar("Document", Manifest, Frozen)


def encode(document: Record) -> bytes:
    """Returns a record as indented JSON with a final newline; equal records give equal bytes.

    Raises:
        BundleCorrupt: A value is NaN or infinite, or one that `decode` would refuse.
    """
    plain = msgspec.to_builtins(document)
    _refuse_nonfinite(plain, "$")
    try:
        checked = msgspec.convert(plain, type(document))
    except msgspec.ValidationError as error:
        raise BundleCorrupt("no reader would accept this manifest", got=error) from error
    return msgspec.json.format(msgspec.json.encode(checked, order="deterministic"), indent=1) + b"\n"


def check_schema(data: bytes, *, where: object) -> None:
    """Reads the schema number alone, before anything else is read.

    Raises:
        BundleFromFuture: The schema is newer than this program.
        BundleCorrupt: It is older, and nothing reads it any more.
    """
    try:
        schema: Any = msgspec.json.decode(data, type=_SchemaAlone).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # `decode` complains about it
    if not isinstance(schema, int) or isinstance(schema, bool):
        return
    if schema > SCHEMA:
        raise BundleFromFuture(
            "the manifest is from the future",
            where=where,
            got=f"schema {schema}",
            wanted=f"schema {SCHEMA}",
            remedy="update allrounder, or build the bundle again with this one",
        )
    if schema < SCHEMA:
        raise BundleCorrupt(
            "the bundle is of an older allrounder, which this one does not read",
            where=where,
            got=f"schema {schema}",
            wanted=f"schema {SCHEMA}",
            remedy="build it again into an empty directory: python build_engine.py --version par-lite --out DIRECTORY",
        )


def decode(data: bytes, kind: type[Document], *, where: object) -> Document:
    """Returns the document in ``data``; its schema number is read before anything else.

    Raises:
        BundleFromFuture: The schema is newer than this program; beats every other complaint.
        BundleCorrupt: Older, not JSON, unknown or missing keys, wrong types, NaN or infinity.
    """
    check_schema(data, where=where)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BundleCorrupt(
            "the manifest is malformed", where=where, got=error, remedy="build the bundle again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleCorrupt("the manifest is not JSON", where=where, got=error) from error


def _refuse_nonfinite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise BundleCorrupt("a manifest holds finite numbers only", where=path, got=value)
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            _refuse_nonfinite(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("list[Any]", value)):
            _refuse_nonfinite(item, f"{path}[{index}]")
