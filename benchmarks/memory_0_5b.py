"""What one version holds in memory over the bytes of its weights, at the 0.5B shape with its tower.

Each version is opened in a process of its own, with packed weights, and asked once; then the process reads its PSS in
/proc/self/smaps_rollup: its own pages, and those of files that it maps, each counted once. Python and the backend's
library are in it. A version's weights are those that its graphs name: tower, projector, router, kept layers.

    python benchmarks/memory_0_5b.py [--backends onnxruntime,openvino] [--shape 0.5b] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.manifest import Entry
from allrounder.progress import TerminalProgress
from allrounder.versions import DEFAULT_VERSION, FULL

PROMISED = {"onnxruntime": 1.15}  # times the weights
ROLLUP = Path("/proc/self/smaps_rollup")
_PARTS = ("Pss", "Pss_Anon", "Pss_File")


def main() -> int:
    """Measures; returns 1 where the promise is missed."""
    from allrounder.commands.pipeline.random_model import build_shape  # not where memory is measured: it imports torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="onnxruntime,openvino", metavar="NAMES")
    parser.add_argument("--shape", default="0.5b", help="a named random shape, in fp32; small ones miss the promise")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dir", type=Path, help="where temporary files go: about two checkpoints")
    arguments = parser.parse_args()
    backends = arguments.backends.split(",")
    with tempfile.TemporaryDirectory(prefix="allrounder-memory-", dir=arguments.dir) as folder:
        versions, progress = (FULL, DEFAULT_VERSION), TerminalProgress()
        bundle = build_shape(arguments.shape, Path(folder), versions, progress, ("static",), backends)
        rows = [measured(bundle, entry, arguments.threads) for entry in bundle.manifest.entries]
    for row in rows:
        held = ", ".join(f"{row[name] / 2**20:.0f} MiB {name}" for name in (*_PARTS, "weights"))
        print(f"{row['entry']}: {held}: {row['ratio']:.3f} of its weights{said(row)}")
    met = all(row["ratio"] <= PROMISED.get(row["backend"], row["ratio"]) for row in rows)
    print(json.dumps({"shape": arguments.shape, "met": met, "rows": rows}))
    return 0 if met else 1


def measured(bundle: OpenBundle, entry: Entry, threads: int | None) -> dict[str, object]:
    """Returns the bytes that a process holds which opens this entry alone and answers once."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_ask, args=(str(bundle.path), entry.label, threads, sender))
    child.start()
    sender.close()
    try:
        held = receiver.recv()
    except EOFError:
        raise SystemExit(f"{entry.label} could not be measured") from None
    child.join()
    weights = weights_bytes(bundle, entry)
    row = {"entry": entry.label, "backend": entry.backend, "version": entry.version, "weights": weights}
    return {**row, **held, "ratio": round(held["Pss"] / weights, 4)}


def weights_bytes(bundle: OpenBundle, entry: Entry) -> int:
    """Returns the bytes of the tensors in weights files that an entry's graphs name, each counted once."""
    import msgspec
    import onnx

    from allrounder.engines.bundle.references import external_tensors

    found: dict[tuple[str, str], int] = {}
    for path in filter(None, msgspec.structs.astuple(entry.graphs)):
        for tensor in external_tensors(onnx.load(bundle.path / path, load_external_data=False)):
            place = {each.key: each.value for each in tensor.external_data}
            found[place["location"], place.get("offset", "0")] = int(place["length"])
    return sum(found.values())


def said(row: dict[str, object]) -> str:
    """Returns whether a promise is kept, in words."""
    wanted = PROMISED.get(str(row["backend"]))
    if wanted is None:
        return ""
    return f", promised at most {wanted}: {'met' if float(str(row['ratio'])) <= wanted else 'MISSED'}"


def _ask(place: str, label: str, threads: int | None, results: Connection) -> None:
    from allrounder.runtime.engine import Engine
    from allrounder.runtime.measure import default_workload, make_request

    bundle = open_bundle(place)
    entry = next(entry for entry in bundle.manifest.entries if entry.label == label)
    engine = Engine.open(bundle, entry, EngineOptions(threads=threads))
    request = make_request(engine, default_workload(engine))
    state = engine.start(engine.prepare([request.rgb]), request.layout, free_slots=request.new_tokens)
    for _ in range(request.new_tokens):
        engine.decode(state, [0])
    lines = dict(line.split(":", 1) for line in ROLLUP.read_text(encoding="ascii").splitlines()[1:])
    results.send({name: int(lines[name].split()[0]) * 1024 for name in _PARTS})


if __name__ == "__main__":
    sys.exit(main())
