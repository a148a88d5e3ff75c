"""A bundle small enough for unit tests, yet real: ONNX Runtime runs its graphs and they obey `allrounder.tensors`.

The model: byte-level tokens, N = 4 image tokens, M = 3 layers of one attention head (no rotary embedding), K = 1,
random weights. `full` keeps everything; `t2-l2` keeps two tokens and layers 0 and 2.
"""

import shutil
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from prunings import pruning
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from allrounder import tensors as t
from allrounder.engines.bundle.staging import commit
from allrounder.golden import GOLDEN, TOKENIZER, GoldenPrompt, encode_golden
from allrounder.hashing import file_record
from allrounder.manifest import (
    Entry,
    EntryGraphs,
    Estimate,
    Fidelity,
    Latency,
    Limits,
    Manifest,
    Model,
    Percentiles,
    PromptTemplate,
    Workload,
)

IMAGE_EMBEDS, LAYERS, HIDDEN, SIZE, GATHER = 4, 3, 8, 4, 1
PAD, STOP, IMAGE = 0, 1, 2
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = 3 + len(BYTES)
TEMPLATE = PromptTemplate(before_image="USER: ", after_image="\n", after_question=" ASSISTANT:", prefix_special=False)
LIMITS = Limits(text_tokens=64, new_tokens=32, batch=1)
KEPT_LAYERS = {"full": (0, 1, 2), "t2-l2": (0, 2)}
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
        self.nodes, self.constants = [], {}

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
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
        path.write_bytes(model.SerializeToString(deterministic=True))


def preprocess(path):
    g = Graph([(t.IMAGE, TensorProto.UINT8, ["h", "w", 3])], [(t.PIXEL_VALUES, _F32, [1, 3, SIZE, SIZE])])
    chw = g.op("Unsqueeze", [g.op("Transpose", [g.op("Cast", [t.IMAGE], to=_F32)], perm=[2, 0, 1]), [0]])
    small = g.op("Resize", [chw, "", "", [1, 3, SIZE, SIZE]], mode="linear")
    g.op("Div", [small, 128.0], t.PIXEL_VALUES)
    g.save(path)


def vision(path):
    g = Graph([(t.PIXEL_VALUES, _F32, ["B", 3, SIZE, SIZE])], [(t.IMAGE_EMBEDS, _F32, ["B", IMAGE_EMBEDS, HIDDEN])])
    g.op("MatMul", [g.op("Reshape", [t.PIXEL_VALUES, [0, IMAGE_EMBEDS, 12]]), "embed_image"], t.IMAGE_EMBEDS)
    g.save(path)


def prompt_inputs():
    return [
        (t.PREFIX_IDS, _I64, ["B", "P"]),
        (t.IMAGE_EMBEDS, _F32, ["B", IMAGE_EMBEDS, HIDDEN]),
        (t.SUFFIX_IDS, _I64, ["B", "S"]),
    ]


def router(path):
    outputs = [(t.TOKEN_SCORES, _F32, ["B", IMAGE_EMBEDS]), (t.LAYER_SCORES, _F32, ["B", LAYERS])]
    g = Graph(prompt_inputs(), outputs)
    text = g.op("ReduceMean", [g.op("Gather", ["embed", t.SUFFIX_IDS]), [1]], keepdims=1)
    seen = g.op("Tanh", [g.op("Mul", [t.IMAGE_EMBEDS, text])])
    g.op("Squeeze", [g.op("MatMul", [seen, "token_head"]), [2]], t.TOKEN_SCORES)
    g.op("ReduceMean", [g.op("MatMul", [seen, "layer_head"]), [1]], t.LAYER_SCORES, keepdims=0)
    g.save(path)


def cache_borders(layers, key, value):
    shape = ["B", 1, "C", HIDDEN]
    return [(name.format(layer=i), _F32, [*shape[:2], f"C{i}", HIDDEN]) for i in layers for name in (key, value)]


def attend(g, layer, hidden, keys, values, **extra):
    inputs = [g.heads(g.op("MatMul", [hidden, f"q{layer}"])), keys, values]
    length = extra.pop("length", None)
    attended = g.op("Attention", inputs + (["", "", "", length] if length else []), is_causal=1, **extra)
    return g.op("Add", [hidden, g.op("MatMul", [g.op("Squeeze", [attended, [1]]), f"o{layer}"])])


def prefill(path, layers, tokens):
    pruned = tokens < IMAGE_EMBEDS
    inputs = [*prompt_inputs(), (t.FREE_SLOTS, _I64, [1])]
    outputs = [(t.LOGITS, _F32, ["B", VOCABULARY]), *cache_borders(layers, t.CACHE_KEY, t.CACHE_VALUE)]
    if pruned:
        inputs.append((t.TOKEN_SCORES, _F32, ["B", IMAGE_EMBEDS]))
        outputs.append((t.KEEP, _I64, ["B", tokens]))
    g = Graph(inputs, outputs)
    parts = [g.op("Gather", ["embed", t.PREFIX_IDS]), t.IMAGE_EMBEDS, g.op("Gather", ["embed", t.SUFFIX_IDS])]
    hidden = g.op("Concat", parts, axis=1)
    for layer in layers:
        if layer == layers[GATHER] and pruned:
            sizes = [g.op("Shape", [t.PREFIX_IDS], start=1), [IMAGE_EMBEDS], g.op("Shape", [t.SUFFIX_IDS], start=1)]
            before, image_embeds, after = g.op(
                "Split", [hidden, g.op("Concat", sizes, axis=0)], ["before", "image_tokens", "after"], axis=1
            )
            _, best = g.op("TopK", [t.TOKEN_SCORES, [tokens]], ["best_scores", "best"])
            g.op("TopK", [best, [tokens]], [t.KEEP, "order"], largest=0)
            kept = g.op("GatherND", [image_embeds, g.op("Unsqueeze", [t.KEEP, [2]])], batch_dims=1)
            hidden = g.op("Concat", [before, kept, after], axis=1)
        keys, values = (g.heads(g.op("MatMul", [hidden, f"{part}{layer}"])) for part in "kv")
        pads = g.op("Concat", [[0], t.FREE_SLOTS], axis=0)
        g.op("Pad", [keys, pads, "", [2]], t.CACHE_KEY.format(layer=layer))
        g.op("Pad", [values, pads, "", [2]], t.CACHE_VALUE.format(layer=layer))
        hidden = attend(g, layer, hidden, keys, values)
    last = g.op("Gather", [hidden, -1], axis=1)
    g.op("MatMul", [last, "head"], t.LOGITS)
    g.save(path)


def decode(path, layers, tokens):
    inputs = [(t.INPUT_IDS, _I64, ["B", "S"]), (t.POSITIONS, _I64, ["B"])]
    if tokens < IMAGE_EMBEDS:
        inputs.append((t.SLOTS, _I64, ["B"]))
    inputs += cache_borders(layers, t.CACHE_KEY, t.CACHE_VALUE)
    outputs = [(t.LOGITS, _F32, ["B", "S", VOCABULARY]), *cache_borders(layers, t.CACHE_KEY_OUT, t.CACHE_VALUE_OUT)]
    g = Graph(inputs, outputs)
    hidden = g.op("Gather", ["embed", t.INPUT_IDS])
    count = g.op("Shape", [t.INPUT_IDS], start=1)
    for layer in layers:
        slot = t.SLOTS if tokens < IMAGE_EMBEDS and layer >= GATHER else t.POSITIONS
        grown = []
        for part, old, new in (("k", t.CACHE_KEY, t.CACHE_KEY_OUT), ("v", t.CACHE_VALUE, t.CACHE_VALUE_OUT)):
            rows = g.heads(g.op("MatMul", [hidden, f"{part}{layer}"]))
            inputs = [old.format(layer=layer), rows, slot]
            grown.append(g.op("TensorScatter", inputs, new.format(layer=layer), axis=-2))
        hidden = attend(g, layer, hidden, *grown, length=g.op("Add", [slot, count]))
    g.op("MatMul", [hidden, "head"], t.LOGITS)
    g.save(path)


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE({"<pad>": 0, "</s>": 1, "<image>": 2} | {b: 3 + i for i, b in enumerate(BYTES)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<pad>", "</s>", "<image>")])
    return made


def golden(made: Tokenizer) -> bytes:
    prompts = []
    for question in (QUESTION, "naïve 日本 \N{GRINNING FACE}", "two\nlines "):
        text = f"{TEMPLATE.before_image}<image>{TEMPLATE.after_image}{question}{TEMPLATE.after_question}"
        ids = made.encode(text, add_special_tokens=False).ids
        cut = ids.index(IMAGE)
        prompts.append(
            GoldenPrompt(question=question, text=text, prefix_ids=tuple(ids[:cut]), suffix_ids=tuple(ids[cut + 1 :]))
        )
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
        pruning=pruning((IMAGE_EMBEDS if version == "full" else 2, len(layers)), GATHER, layers, version),
        backend=extra.get("backend", "onnxruntime"),
        precision="fp32",
        graphs=EntryGraphs(
            preprocess="graphs/preprocess.onnx",
            vision="graphs/vision.onnx",
            router="graphs/router.onnx",
            prefill=f"graphs/{version}.prefill.onnx",
            decode=f"graphs/{version}.decode.onnx",
        ),
        fidelity=extra.get("fidelity"),
        latency=extra.get("latency"),
        native_op=extra.get("native_op", False),
    )


def write_graphs(folder: Path) -> None:
    preprocess(folder / "graphs/preprocess.onnx")
    vision(folder / "graphs/vision.onnx")
    router(folder / "graphs/router.onnx")
    for version, layers in KEPT_LAYERS.items():
        tokens = IMAGE_EMBEDS if version == "full" else 2
        prefill(folder / f"graphs/{version}.prefill.onnx", layers, tokens)
        decode(folder / f"graphs/{version}.decode.onnx", layers, tokens)
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
        schema=1,
        producer="fake",
        model=Model(
            name="fake",
            digest="0" * 64,
            router="1" * 64,
            image_tokens=IMAGE_EMBEDS,
            layers=LAYERS,
            hidden=HIDDEN,
            vocabulary=VOCABULARY,
            image_size=SIZE,
            stop_ids=stop_ids,
        ),
        prompt=template,
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
