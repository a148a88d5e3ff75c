"""Opens a bundle on "cuda" and prints, as JSON, what was left to the CPU; run with stand-ins of CUDA's libraries.

The last key is what a step's cells held in three runs: once as the CPU reads it, plus 1, and once as the GPU copies it.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.onnxruntime import session as onnxruntime_backend
from allrounder.errors import AllRounderError
from allrounder.runtime.engine import Engine, EngineOptions

OPTIONS = EngineOptions(threads=1, device="cuda")


def main(bundle: Path, folder: Path) -> None:
    """Prints the facts."""
    left, failed = {}, {}
    plain = onnxruntime_backend._on_cpu

    def counted(session):
        found = plain(session)
        left[Path(session._model_path).name] = dict(found)
        return found

    onnxruntime_backend._on_cpu = counted
    opened = open_bundle(bundle)
    for entry in opened.manifest.entries:
        try:
            Engine.open(opened, entry, OPTIONS)
        except AllRounderError as error:
            failed[entry.label] = str(error)
    print(json.dumps({"left": dict(left), "failed": failed, "seen": seen(folder)}))


def seen(folder: Path) -> list[tuple[int, int]]:
    """Returns what a graph gives for the slots 5, 6 and 50, bound once."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"]),
        helper.make_node("Add", ["slots", "rows"], ["sum"]),
        helper.make_node("Unsqueeze", ["ids", "rows"], ["copy"]),
    ]
    integer, shape = TensorProto.INT64, ["n"]
    inputs = [helper.make_tensor_value_info(name, integer, shape) for name in ("x", "slots", "ids")]
    outputs = [
        helper.make_tensor_value_info("sum", integer, shape),
        helper.make_tensor_value_info("copy", integer, None),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "cells", inputs, outputs), opset_imports=[helper.make_opsetid("", 24)], ir_version=11
    )
    (folder / "cells.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime_backend.open_session(folder / "cells.onnx", OPTIONS)
    slots, total, copy = (session.cell(each) for each in (np.array([0]), np.array([0]), np.array([[0]])))
    inputs = {"x": session.cell(np.array([0])).tensor, "slots": slots.tensor, "ids": slots.tensor}
    bound = session.bind(inputs, {"sum": total.tensor, "copy": copy.tensor})
    found = []
    for slot in (5, 6, 50):
        slots.set(np.array([slot]))
        bound.run()
        found.append((int(total.get()[0]), int(copy.get()[0, 0])))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
