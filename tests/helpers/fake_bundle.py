"""A bundle small enough for unit tests, yet real: ONNX Runtime runs its graphs and they obey `allrounder.tensors`.

The model: byte-level tokens, N = 4 image tokens, M = 3 layers of one attention head (no rotary embedding), K = 1,
random weights. `full` keeps everything; `t2-l2` keeps two tokens and layers 0 and 2.
"""

import shutil
from pathlib import Path

import msgspec
import numpy as np
from image_plans import fixed_plan
from onnx import TensorProto, helper, numpy_helper
from prunings import pruning
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from allrounder import tensors as t
from allrounder.chat.literals import literals_of
from allrounder.chat.messages import question
from allrounder.engines.bundle.staging import commit
from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.golden import GOLDEN, TOKENIZER, GoldenPrompt, encode_golden
from allrounder.hashing import file_record
from allrounder.manifest import (
    SCHEMA,
    ChatTemplate,
    Entry,
    EntryGraphs,
    Estimate,
    Fidelity,
    Latency,
    Limits,
    Manifest,
    Model,
    Percentiles,
    Workload,
)

IMAGE_EMBEDS, LAYERS, HIDDEN, SIZE, GATHER = 4, 3, 8, 4, 1
PAD, STOP, IMAGE = 0, 1, 2
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = 3 + len(BYTES)
TEMPLATE = ChatTemplate(
    template="{% for m in messages %}{{ m.role | upper }}: "
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %} "
    "{% endfor %}ASSISTANT:",
    special_tokens={},
    image_token="<image>",
)
TEMPLATE = msgspec.structs.replace(TEMPLATE, literals=literals_of(TEMPLATE))
LIMITS = Limits(images=3, image_tokens=12, text_tokens=64, new_tokens=32, batch=8)
KEPT_LAYERS = {"full": (0, 1, 2), "t2-l2": (0, 2)}
MAX_POSITIONS = 96
QUESTION = "what is it?"
_F32, _I64 = TensorProto.FLOAT, TensorProto.INT64
_RANDOM = np.random.default_rng(5)
_WEIGHTS = {
    "embed_image": _RANDOM.normal(size=(12, HIDDEN)) / 4,
    "embed": _RANDOM.normal(size=(VOCABULARY, HIDDEN)),
    "head": _RANDOM.normal(size=(HIDDEN, VOCABULARY)),
    "token_head": _RANDOM.normal(size=(HIDDEN, 1)),
    "layer_head": _RANDOM.normal(size=(HIDDEN, LAYERS)),
    **{f"{part}{layer}": _RANDOM.normal(size=(HIDDEN, HIDDEN)) / 3 for part in "qkvo" for layer in range(LAYERS)},
}


class Graph:
    """Nodes, constants and borders of one graph."""

    def __init__(self, inputs, outputs):
        self.inputs = [helper.make_tensor_value_info(*each) for each in inputs]
        self.outputs = [helper.make_tensor_value_info(*each) for each in outputs]
        self.nodes, self.constants, self.functions = [], {}, []

    def op(self, kind, inputs, output=None, **attributes):
        names = [output] if isinstance(output, str) else output or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, [self.name(value) for value in inputs], names, **attributes))
        return names[0] if len(names) == 1 else names

    def name(self, value):
        if isinstance(value, str):
            if value in _WEIGHTS:
                self.constants[value] = _WEIGHTS[value].astype(np.float32)
            return value
        array = np.asarray(value)
        key = f"c_{len(self.constants)}"
        self.constants[key] = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        return key

    def heads(self, rows):
        """[B, R, H] -> [B, 1, R, H]."""
        return self.op("Unsqueeze", [rows, [1]])

    def save(self, path):
        constants = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, path.stem, self.inputs, self.outputs, constants)
        path.parent.mkdir(parents=True, exist_ok=True)
        opsets = [helper.make_opsetid("", 24), *(helper.make_opsetid(each.domain, 1) for each in self.functions)]
        model = helper.make_model(graph, functions=self.functions, opset_imports=opsets, ir_version=11)
        path.write_bytes(model.SerializeToString(deterministic=True))


def vision(path):
    g = Graph([(t.TILES, TensorProto.UINT8, ["tiles", SIZE, SIZE, 3])], [(t.IMAGE_EMBEDS, _F32, ["N", HIDDEN])])
    pixels = g.op("Div", [g.op("Cast", [g.op("Transpose", [t.TILES], perm=[0, 3, 1, 2])], to=_F32), 128.0])
    g.op("MatMul", [g.op("Reshape", [pixels, [-1, 12]]), "embed_image"], t.IMAGE_EMBEDS)
    g.save(path)


PROMPT_INPUTS = [
    (t.INPUT_IDS, _I64, ["B", "S"]),
    (t.IMAGE_EMBEDS, _F32, ["N", HIDDEN]),
    (t.IMAGE_INDEX, _I64, ["N"]),
    (t.POSITION_IDS, _I64, [1, "B", "S"]),
]


def embedded(g):
    """The prompt's rows [B, S, H]."""
    text = g.op("Gather", ["embed", t.INPUT_IDS])
    places = g.op("Unsqueeze", [t.IMAGE_INDEX, [1]])
    rows = g.op("ScatterND", [g.op("Reshape", [text, [-1, HIDDEN]]), places, t.IMAGE_EMBEDS])
    # No rotary embedding, yet positions count: each row's is added to it, so that a wrong one shows.
    where = g.op("Unsqueeze", [g.op("Cast", [g.op("Squeeze", [t.POSITION_IDS, [0]])], to=_F32), [2]])
    return g.op("Add", [g.op("Reshape", [rows, g.op("Shape", [text])]), g.op("Mul", [where, 0.01])])


def router(path):
    outputs = [(t.TOKEN_SCORES, _F32, ["N"]), (t.LAYER_SCORES, _F32, [LAYERS])]
    g = Graph([*PROMPT_INPUTS, (t.IMAGE_OF, _I64, ["N"])], outputs)
    text = g.op("ReduceMean", [embedded(g), [1]], keepdims=0)
    seen = g.op("Tanh", [g.op("Mul", [t.IMAGE_EMBEDS, text])])
    g.op("Squeeze", [g.op("MatMul", [seen, "token_head"]), [1]], t.TOKEN_SCORES)
    g.op("Squeeze", [g.op("MatMul", [g.op("Tanh", [text]), "layer_head"]), [0]], t.LAYER_SCORES)
    g.save(path)


def cache_borders(layers, key, value):
    return [(name.format(layer=i), _F32, ["B", 1, f"C{i}", HIDDEN]) for i in layers for name in (key, value)]


def decoder(path, layers, *, prunes):
    inputs = [*PROMPT_INPUTS, (t.SLOTS, _I64, ["B"]), (t.LOGITS_TO_KEEP, _I64, [1])]
    outputs = [(t.LOGITS, _F32, ["B", "Q", VOCABULARY])]
    if prunes:
        inputs += [(t.TOKEN_SCORES, _F32, ["N"]), (t.IMAGE_OF, _I64, ["N"])]
        inputs += [(t.KEEP_COUNTS, _I64, ["I"]), (t.KEPT_SLOTS, _I64, ["B"])]
        outputs.append((t.KEEP_INDICES, _I64, ["T"]))
    inputs += cache_borders(layers, t.CACHE_KEY, t.CACHE_VALUE)
    g = Graph(inputs, [*outputs, *cache_borders(layers, t.CACHE_KEY_OUT, t.CACHE_VALUE_OUT)])
    hidden, slots = embedded(g), t.SLOTS
    for layer in layers:
        if layer == layers[GATHER] and prunes:
            g.functions = [token_gather()]
            given = [hidden, t.POSITION_IDS, t.TOKEN_SCORES, t.IMAGE_INDEX, t.IMAGE_OF, t.KEEP_COUNTS]
            names = ["kept", "kept_positions", t.KEEP_INDICES]
            hidden, slots = g.op("TokenGather", given, names, domain="allrounder", **PLUGIN)[0], t.KEPT_SLOTS
        filled = g.op("Add", [slots, g.op("Shape", [hidden], start=1, end=2)])
        grown = []
        for part, old, new in (("k", t.CACHE_KEY, t.CACHE_KEY_OUT), ("v", t.CACHE_VALUE, t.CACHE_VALUE_OUT)):
            rows = g.heads(g.op("MatMul", [hidden, f"{part}{layer}"]))
            given = [old.format(layer=layer), rows, slots]
            grown.append(g.op("TensorScatter", given, new.format(layer=layer), axis=-2))
        query = g.heads(g.op("MatMul", [hidden, f"q{layer}"]))
        attended = g.op("Attention", [query, *grown, "", "", "", filled], is_causal=1)
        hidden = g.op("Add", [hidden, g.op("MatMul", [g.op("Squeeze", [attended, [1]]), f"o{layer}"])])
    last = g.op("Slice", [hidden, g.op("Neg", [t.LOGITS_TO_KEEP]), [2**62], [1]])
    g.op("MatMul", [last, "head"], t.LOGITS)
    g.save(path)


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE({"<pad>": 0, "</s>": 1, "<image>": 2} | {b: 3 + i for i, b in enumerate(BYTES)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "</s>", "<image>")])
    return made


def golden(made: Tokenizer) -> bytes:
    prompts = []
    for text in (QUESTION, "naïve 日本 \N{GRINNING FACE}", "two\nlines "):
        messages = question(text)
        rendered = f"USER: <image>\n{text} ASSISTANT:"
        ids = made.encode(rendered, add_special_tokens=False).ids
        prompts.append(GoldenPrompt(messages=messages, text=rendered, input_ids=tuple(ids)))
    return encode_golden(prompts)


def fidelity(kl: float) -> Fidelity:
    one = Estimate(mean=1.0, low=1.0, high=1.0)
    estimate = Estimate(mean=kl, low=kl, high=kl)
    return Fidelity(retention=None, agreement=one, kl=estimate, questions=64, dataset="fake", quick=True)


def latency(machine, ttft: float, tpot: float) -> Latency:
    return Latency(
        ttft_ms=Percentiles(p50=ttft, p95=ttft, p99=ttft),
        tpot_ms=Percentiles(p50=tpot, p95=tpot, p99=tpot),
        machine=machine,
        workload=Workload(text_tokens=32, new_tokens=8, batch=1, threads=machine.threads, image_size=SIZE),
    )


def entry(version: str, **extra) -> Entry:
    layers = KEPT_LAYERS[version]
    return Entry(
        pruning=pruning((1 if version == "full" else 2, len(layers)), GATHER, layers, version),
        backend=extra.get("backend", "onnxruntime"),
        precision="fp32",
        graphs=EntryGraphs(
            vision="graphs/vision.onnx",
            router="graphs/router.onnx",
            decoder=f"graphs/{version}.decoder.onnx",
        ),
        fidelity=extra.get("fidelity"),
        latency=extra.get("latency"),
        native_op=extra.get("native_op", False),
    )


def write_graphs(folder: Path) -> None:
    vision(folder / "graphs/vision.onnx")
    router(folder / "graphs/router.onnx")
    for version, layers in KEPT_LAYERS.items():
        decoder(folder / f"graphs/{version}.decoder.onnx", layers, prunes=version != "full")
    made = tokenizer()
    (folder / TOKENIZER).parent.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / TOKENIZER))
    (folder / GOLDEN).write_bytes(golden(made))


def write_manifest(folder: Path, entries, *, stop_ids=(STOP,), limits=LIMITS, template=TEMPLATE) -> Path:
    """Makes a bundle of what lies in ``folder``; a manifest that stood there is replaced."""
    for stale in folder.glob("*.json"):
        stale.unlink()
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        schema=SCHEMA,
        producer="fake",
        model=Model(
            name="fake",
            digest="0" * 64,
            router="1" * 64,
            images=fixed_plan(IMAGE_EMBEDS, SIZE),
            image_token_id=IMAGE,
            layers=LAYERS,
            hidden=HIDDEN,
            vocabulary=VOCABULARY,
            max_positions=MAX_POSITIONS,
            stop_ids=stop_ids,
        ),
        chat=template,
        limits=limits,
        files={path: file_record(folder / path) for path in paths},
        entries=tuple(entries),
    )
    commit(folder, manifest)
    return folder


def write_bundle(folder: Path, entries=None, **extra) -> Path:
    write_graphs(folder)
    return write_manifest(folder, entries or [entry(version) for version in KEPT_LAYERS], **extra)


def copy_bundle(source: Path, folder: Path, entries, **extra) -> Path:
    shutil.copytree(source, folder)
    return write_manifest(folder, entries, **extra)
