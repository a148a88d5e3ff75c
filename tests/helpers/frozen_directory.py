"""A small but real frozen directory: ONNX files that ONNX Runtime loads, weights outside them."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_plans import fixed_plan
from onnx import TensorProto, helper
from prunings import pruning

from allrounder.hashing import file_record
from allrounder.manifest import (
    SCHEMA,
    ChatTemplate,
    Frozen,
    FrozenVersion,
    Limits,
    Model,
    SharedGraphs,
    encode,
)
from allrounder.versions import FULL, keep_of, resolve

TOKENS, LAYERS = 18, 8


def _graph(name: str, constant: float, weights: str | None) -> bytes:
    """A graph that adds a constant and one row of the weights file, through a model-local function."""
    x, y = (helper.make_tensor_value_info(side, TensorProto.FLOAT, ["rows", 4]) for side in ("x", "y"))
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("allrounder", 1)]
    function = helper.make_function(
        "allrounder", "Plus", ["a", "b"], ["c"], [helper.make_node("Add", "ab", "c")], opset[:1]
    )
    row = helper.make_tensor("row", TensorProto.FLOAT, [4], np.full(4, constant, np.float32).tobytes(), raw=True)
    if weights:
        row = TensorProto(name="row", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", weights), ("offset", "0"), ("length", "16")):
            row.external_data.add(key=key, value=value)
    tag = helper.make_tensor("tag", TensorProto.FLOAT, [1], [constant])
    nodes = [
        helper.make_node("Plus", ["x", "row"], ["t"], domain="allrounder"),
        helper.make_node("Add", ["t", "tag"], ["y"]),
    ]
    graph = helper.make_graph(nodes, name, [x], [y], [row, tag])
    model = helper.make_model(graph, opset_imports=opset, functions=[function], ir_version=10)
    return model.SerializeToString(deterministic=True)


class FrozenBuilder:
    """Writes frozen directories of one imagined model."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(
        self,
        *versions: str,
        policy: str = "dynamic",
        router: str | None = "r",
        vlm: str = "h",
        precision: str = "fp32",
        salt: str = "",
        chat: dict[str, object] | None = None,
        limits: dict[str, int] | None = None,
        **model: object,
    ) -> Path:
        """Writes the directory; ``salt`` makes other graphs of the same versions."""
        out = (
            self.root
            / hashlib.sha256(
                repr((versions, policy, router, vlm, precision, salt, chat, limits, model)).encode()
            ).hexdigest()[:12]
        )
        (out / "graphs/weights").mkdir(parents=True)
        (out / "tokenizer").mkdir()
        (out / "tokenizer/tokenizer.json").write_text('{"fake": true}')
        weights = f"weights/model-{precision}-{_digest(vlm)[:12]}.bin"
        (out / "graphs" / weights).write_bytes(np.arange(1024, dtype=np.float32).tobytes())
        router_weights = f"weights/router-{precision}-{_digest(router or '')[:12]}.bin"
        if router:
            (out / "graphs" / router_weights).write_bytes(np.arange(64, dtype=np.float32).tobytes())
        shared = SharedGraphs(
            vision=self._write(out, "vision", 1.0, weights),
            router=self._write(out, "router", 2.0, router_weights) if router else None,
        )
        frozen = Frozen(
            schema=SCHEMA,
            producer="test",
            precision=precision,
            model=Model(
                **{
                    "name": "fake",
                    "digest": _digest(vlm),
                    "router": router and _digest(router),
                    "images": fixed_plan(TOKENS),
                    "image_token_id": 3,
                    "layers": LAYERS,
                    "hidden": 4,
                    "vocabulary": 32,
                    "max_positions": 256,
                    "stop_ids": (2,),
                    **model,
                }
            ),
            chat=ChatTemplate(
                **{"template": "<image>{{ messages }}", "special_tokens": {}, "image_token": "<image>", **(chat or {})}
            ),
            limits=Limits(
                **{"images": 2, "image_tokens": 36, "text_tokens": 64, "new_tokens": 32, "batch": 4, **(limits or {})}
            ),
            graphs=shared,
            versions=tuple(self._version(out, name, policy, weights, salt) for name in versions),
            files={str(p.relative_to(out)): file_record(p) for p in sorted(out.rglob("*")) if p.is_file()},
        )
        (out / "frozen.json").write_bytes(encode(frozen))
        return out

    def _version(self, out: Path, name: str, policy: str, weights: str, salt: str) -> FrozenVersion:
        layers = resolve(name, tokens=TOKENS, layers=LAYERS).layers
        static = policy == "static" or name == FULL
        kept = pruning((keep_of(name), layers), 2, tuple(range(layers)) if static else None, name)
        kept.check(layers=LAYERS)
        constant = float(int(_digest(name + salt + policy)[:4], 16))
        return FrozenVersion(pruning=kept, decoder=self._write(out, "decoder", constant, weights))

    def _write(self, out: Path, stem: str, constant: float, weights: str | None) -> str:
        data = _graph(stem, constant, weights)
        path = f"graphs/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
        (out / path).write_bytes(data)
        return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def freeze(tmp_path: Path, own_cache: Path) -> FrozenBuilder:
    """A builder of frozen directories below the test's own folder."""
    return FrozenBuilder(tmp_path / "frozen")


@pytest.fixture(scope="session")
def _bundle_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from allrounder.engines.backends import BuildOptions, backend
    from allrounder.engines.bundle.publish import Staging, publish

    root = tmp_path_factory.mktemp("template")
    freeze = FrozenBuilder(root / "frozen")
    with Staging(root / "demo") as staging:
        backend("onnxruntime").build(freeze(FULL, "par-lite"), staging, BuildOptions())
        backend("onnxruntime").build(freeze("par-nano", policy="static"), staging, BuildOptions())
        publish(staging)
    return root / "demo"


@pytest.fixture
def bundle(_bundle_template: Path, tmp_path: Path, own_cache: Path) -> Path:
    """A fresh copy of a small bundle: `full`, dynamic `par-lite`, static `par-nano`."""
    return Path(shutil.copytree(_bundle_template, tmp_path / "bundles" / "demo"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps what tests remember away from the user's cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache
