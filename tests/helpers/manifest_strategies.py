"""Strategies of hypothesis for the manifest's records; whatever they give, `encode` writes and `decode` reads.

What it is: `texts`, `machines`, `entries`, `manifests` and `frozens`, each valid record by record.
What it does not know: what makes sense as a whole (`allrounder.consistency`).
"""

import hashlib
from fractions import Fraction

import msgspec
from hypothesis import strategies as st

from allrounder.fingerprint import Machine
from allrounder.images.plan import FILTERS, Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect
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
)
from allrounder.pruning import LAYER_POLICIES, PruningConfig

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_count, _positive = st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1)
_number = st.floats(allow_nan=False, allow_infinity=False)
_sha = st.binary(min_size=4, max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())
_byte, _three = st.integers(0, 255), st.tuples(_number, _number, _number)
_color = st.none() | st.tuples(_byte, _byte, _byte)
_layouts = st.one_of(
    st.builds(Fixed, square=_color, shortest=st.none() | _positive),
    st.builds(
        Canvases,
        canvases=st.lists(st.tuples(_positive, _positive), max_size=3).map(tuple),
        most=st.none() | _positive,
        several=_color,
    ),
    st.builds(NearestAspect, least=_positive, most=_positive, before=texts, after=texts),
    st.builds(LongestEdge, edge=_positive, split=st.booleans(), around=texts, whole=texts),
)
_plans = st.builds(
    ImagePlan,
    size=_positive,
    tokens=_positive,
    filter=st.sampled_from(FILTERS),
    scale=_number,
    mean=_three,
    std=_three,
    layout=_layouts,
)
for _kind, _strategy in (
    (
        Model,
        {
            "digest": _sha,
            "router": st.none() | _sha,
            "images": _plans,
            "image_token_id": _count,
            "stop_ids": st.lists(_count, max_size=3).map(tuple),
        },
    ),
    (RoleLiterals, {"empty": st.none() | texts}),
    (ChatLiterals, {"roles": st.dictionaries(texts, st.deferred(lambda: st.from_type(RoleLiterals)), max_size=2)}),
    (
        ChatTemplate,
        {
            "special_tokens": st.dictionaries(texts, texts, max_size=3),
            "literals": st.none() | st.deferred(lambda: st.from_type(ChatLiterals)),
        },
    ),
    (Limits, {"images": _count, "image_tokens": _count}),
    (FileRecord, {"sha256": _sha, "bytes": _count}),
    (Machine, {}),
):
    _fields = {
        field.name: _strategy.get(field.name, {str: texts, bool: st.booleans()}.get(field.type, _positive))
        for field in msgspec.structs.fields(_kind)
    }
    st.register_type_strategy(_kind, st.builds(_kind, **_fields))
machines = st.from_type(Machine)
_percentiles = st.builds(Percentiles, p50=_number, p95=_number, p99=_number)
_estimate = st.builds(Estimate, mean=_number, low=_number, high=_number)
_workload = st.builds(
    Workload, **dict.fromkeys(("text_tokens", "new_tokens", "batch", "threads", "image_size"), _positive)
)
_latency = st.builds(Latency, ttft_ms=_percentiles, tpot_ms=_percentiles, machine=machines, workload=_workload)
_figures = st.builds(
    Figures,
    questions=_positive,
    accuracy=st.none() | _estimate,
    retention=st.none() | _estimate,
    agreement=_estimate,
    kl=_estimate,
)
_fidelity = st.builds(
    Fidelity,
    retention=st.none() | _estimate,
    agreement=_estimate,
    kl=_estimate,
    questions=_positive,
    dataset=texts,
    quick=st.booleans(),
    accuracy=st.none() | _estimate,
    kinds=st.dictionaries(texts, _figures, max_size=2),
)
_recommendation = st.builds(Recommendation, version=texts, layer_policy=st.sampled_from(LAYER_POLICIES), why=texts)
keep_rules = (
    st.just("1")
    | st.builds(
        lambda share: f"{share.numerator}/{share.denominator}",
        st.fractions(Fraction(1, 10**9), 1, max_denominator=10**9).filter(lambda share: 0 < share < 1),
    )
    | st.integers(2, 10**9 - 1).map(str)
)
_pruning = st.builds(
    PruningConfig,
    version=texts,
    keep=keep_rules,
    layers=_positive,
    prune_layer=_count,
    layer_policy=st.sampled_from(LAYER_POLICIES),
    kept_layers=st.none() | st.lists(_count, max_size=4).map(tuple),
)
_graphs = st.builds(EntryGraphs, vision=texts, router=st.none() | texts, decoder=texts)
_precision = st.sampled_from(["fp32", "fp16", "bf16"])
entries = st.builds(
    Entry,
    pruning=_pruning,
    backend=texts,
    precision=_precision,
    graphs=_graphs,
    fidelity=st.none() | _fidelity,
    latency=st.none() | _latency,
    native_op=st.booleans(),
)
_common = {
    "schema": st.just(SCHEMA),
    "producer": texts,
    "model": st.from_type(Model),
    "chat": st.from_type(ChatTemplate),
    "limits": st.from_type(Limits),
    "files": st.dictionaries(texts, st.from_type(FileRecord), max_size=4),
}
manifests = st.builds(
    Manifest,
    **_common,
    entries=st.lists(entries, max_size=2).map(tuple),
    recommendations=st.lists(_recommendation, max_size=2).map(tuple),
)
frozens = st.builds(
    Frozen,
    **_common,
    precision=_precision,
    graphs=st.builds(SharedGraphs, vision=texts, router=st.none() | texts),
    versions=st.lists(st.builds(FrozenVersion, pruning=_pruning, decoder=texts), max_size=2).map(tuple),
)
