"""Our engines beside stock transformers, as it comes and compiled, on the same device: parity, TTFT and TPOT.

    python benchmarks/gpu_peers --shape 7b --device cuda --work DIR

does it on a GPU, in fp16; the same code runs on a CPU with `--device cpu --shape tiny`. It works in steps (model,
engines, parity, races) that are kept in the work folder: called again with the same arguments it goes on where it
was cut off. Weights are random, but for the shape "demo": figures tell of speed and memory, never of answers.

A race holds our `full`, the peers and as many of our other entries as fit into memory at once (`--at-once`; the
default is one for 7b, else all); ratios are taken within a race, round by round.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import msgspec
import torch
import transformers
from model import DTYPES, NAMES, Settings, built, claim, model
from parity import Parity, judge, ours, prepare, reference, stock
from race import Ours, Subject, rounds
from report import markdown, report
from stock import Compiled, Eager

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.errors import AllRounderError, EngineUnavailable, InputInvalid
from allrounder.manifest import Entry
from allrounder.progress import TerminalProgress
from allrounder.pruning import LayerPolicy
from allrounder.runtime.engine import open_engines
from allrounder.runtime.measure import Request, default_workload, make_request
from allrounder.versions import FULL
from allrounder.vlm.model import load_model

_PEERS = {"eager": Eager, "compiled": Compiled}


class Job:
    """One call: what was asked for, and what every step needs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.asked, self.work, self.device = arguments, arguments.work.resolve(), arguments.device
        self.progress = TerminalProgress()
        self.settings = _settings(arguments)
        self.peers = _known(arguments.peers, tuple(_PEERS), "--peers")
        self.backends = _known(arguments.backends, ("onnxruntime", "openvino", "tensorrt"), "--backends")
        self._raced: list[Subject] | None = None  # the peers, compiled once for all races
        self.options = EngineOptions(threads=arguments.threads, device=self.device, provider=arguments.provider)
        self._check_machine()
        if self.device == "cpu":
            torch.set_num_threads(self.options.thread_count)
        else:
            torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean what it says; products of matrices have it off

    def _check_machine(self) -> None:
        """Refuses before any work what this machine has not."""
        for name in self.backends:
            backend(name).fingerprint(self.options)
        if self.device != "cpu" and not torch.cuda.is_available():
            raise EngineUnavailable(
                "this torch has no GPU for stock transformers",
                where="--device",
                got=f"torch {torch.__version__}",
                wanted="a torch with CUDA, and a GPU",
                remedy="install one (pip install torch, on a machine with a GPU), or give --device cpu",
            )

    def run(self) -> dict[str, Any]:
        """Goes through the steps; returns the report."""
        claim(self.work, self.settings)
        pair = model(self.work, self.settings, self.progress)
        bundle = built(self.work, self.settings, self.backends, self.progress)
        vlm = pair.vlm
        parity = self._kept("parity", bundle, self.backends, partial(self._parity, bundle, vlm))
        entries = [each for each in bundle.manifest.entries if each.backend in self.backends]
        full = next(each for each in entries if each.version == FULL)
        others = [each for each in entries if each != full]
        size = self.asked.at_once or (1 if self.settings.shape == "7b" else len(others))
        races = []
        for start in range(0, max(1, len(others)), max(1, size)):
            chosen = [full, *others[start : start + size]]
            asked = ([each.label for each in chosen], self.peers, self.asked.rounds)
            races.append(self._kept("race", bundle, asked, partial(self._race, bundle, chosen, vlm)))
        bases = [_PEERS[name].name for name in reversed(self.peers)] + [full.label]
        facts = {"settings": self.settings, "device": self.device, "provider": self.options.provider}
        facts |= {"rounds": self.asked.rounds, "versions": _versions(self.device)}
        return report(facts, parity, races, bases)

    def _kept(self, what: str, bundle: OpenBundle, asked: object, make: Callable[[], Any]) -> Any:
        """Returns what stands in the work folder under these circumstances, or makes it."""
        facts = [bundle.digest, self.device, asked, *_versions(self.device).values()]
        facts += [self.options.thread_count, self.options.provider, self.asked.images if what == "parity" else 0]
        digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:12]
        file = self.work / f"{what}-{digest}.json"
        if file.exists():
            return json.loads(file.read_bytes())
        part = file.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(make()))
        part.replace(file)
        return json.loads(file.read_bytes())

    def _engines(self, bundle: OpenBundle, entries: Sequence[Entry]) -> tuple[list[Any], Request]:
        engines = list(open_engines(bundle, entries, self.options))
        settings = self.settings
        workload = default_workload(engines[0], text_tokens=settings.text_tokens, new_tokens=settings.new_tokens)
        return engines, make_request(engines[0], workload)

    def _parity(self, bundle: OpenBundle, directory: Path) -> list[Parity]:
        entries = [e for e in bundle.manifest.entries if e.version == FULL and e.backend in self.backends]
        engines, request = self._engines(bundle, entries[:1])
        prepared = prepare(engines[0], request, self.asked.images, self.progress)
        del engines
        _forget(self.device)
        self.progress("stock in fp32", 0, 1)
        exact = reference(directory, request, prepared, self.device)
        self.progress("stock in fp32" if exact else "stock in fp32: does not fit, parity is not judged", 1, 1)
        vlm = load_model(directory, DTYPES[self.settings.precision], self.device)
        peer = stock(vlm, request, prepared)
        del vlm
        _forget(self.device)
        found = []
        for entry in entries:
            (engine,), request = self._engines(bundle, [entry])
            found.append(judge(entry.label, ours(engine, request, prepared), peer, exact))
            del engine
            _forget(self.device)
        return found

    def _peers_of(self, directory: Path, request: Request) -> list[Subject]:
        if self._raced is None:
            vlm = load_model(directory, DTYPES[self.settings.precision], self.device) if self.peers else None
            self._raced = [_PEERS[name](vlm, request) for name in self.peers if vlm]
        return self._raced

    def _race(self, bundle: OpenBundle, entries: Sequence[Entry], directory: Path) -> dict[str, Any]:
        before = _used(self.device)
        engines, request = self._engines(bundle, entries)
        subjects: list[Subject] = [Ours(e.entry.label, e, request) for e in engines]
        for subject in subjects:  # until now: their own use of the GPU, which torch does not see
            subject.ask()
        held = _used(self.device) - before
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
        subjects += self._peers_of(directory, request)
        times = rounds(subjects, self.asked.rounds, self.progress)
        peak = torch.cuda.max_memory_allocated(self.device) if self.device != "cpu" else 0
        answers = {subject.name: subject.answer for subject in subjects}
        machine = backend(entries[0].backend).fingerprint(self.options)
        del engines, subjects
        _forget(self.device)
        return {
            "times_ms": {name: rows.tolist() for name, rows in times.items()},
            "answers": answers,
            "engines_gpu_bytes": held,  # of all our entries in this race, by the driver's account
            "peers_peak_gpu_bytes": peak,  # of all peers together, by torch's account, weights included
            "machine": msgspec.to_builtins(machine),
            "load_1_min": os.getloadavg()[0],
        }


def _settings(arguments: argparse.Namespace) -> Settings:
    policies: tuple[LayerPolicy, ...] = _known(arguments.policies, ("dynamic", "static"), "--policies")
    precision = arguments.precision or ("fp32" if arguments.device == "cpu" else "fp16")
    for name, least in (("rounds", 2), ("new_tokens", 2), ("text_tokens", 2), ("images", 1), ("at_once", 0)):
        if getattr(arguments, name) < least:
            got = getattr(arguments, name)
            raise InputInvalid("too few", where=f"--{name.replace('_', '-')}", got=got, wanted=f"{least} or more")
    versions = tuple(dict.fromkeys((FULL, *arguments.versions.split(","))))
    words = (arguments.text_tokens, arguments.new_tokens)
    return Settings(arguments.shape, precision, versions, policies, *words)


def _known(text: str, names: tuple[str, ...], flag: str) -> Any:
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in found if name not in names]:
        raise InputInvalid("unknown name", where=flag, got=", ".join(unknown), wanted=", ".join(names))
    return found


def _versions(device: str) -> dict[str, str]:
    gpu = "" if device == "cpu" else torch.cuda.get_device_name(device)
    # Peers' own; those of our backends stand with each race's machine.
    return {"torch": str(torch.__version__), "transformers": transformers.__version__, "gpu": gpu}


def _used(device: str) -> int:
    if device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _forget(device: str) -> None:
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def main() -> int:
    """Runs what is missing, prints the table and, as the last line, one JSON object; 1 where parity is missed."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu_peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=NAMES, required=True)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="kept; 7b needs about 30 GB")
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:1 (default: cuda)")
    parser.add_argument("--precision", choices=DTYPES, help="default: fp16, on a CPU fp32")
    parser.add_argument("--versions", default="full,par-base,par-lite,par-nano")
    parser.add_argument("--policies", default="dynamic,static")
    parser.add_argument("--backends", default="onnxruntime", help="also tensorrt, which takes static layers alone")
    parser.add_argument("--provider", default="cuda", help="of ONNX Runtime on a GPU: cuda or tensorrt")
    parser.add_argument("--peers", default="eager,compiled")
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--images", type=int, default=8, help="on which parity is looked at")
    parser.add_argument("--at-once", type=int, default=0, metavar="ENTRIES", help="in one race, beside `full`")
    parser.add_argument("--threads", type=int)
    try:
        job = Job(parser.parse_args())
        found = job.run()
    except AllRounderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page = markdown(found)
    (job.work / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (job.work / "report.md").write_text(page, encoding="utf-8")
    print(page)
    print(json.dumps({name: part for name, part in found.items() if name != "races"}))
    return 1 if any(each["met"] is False for each in found["parity"]) else 0


if __name__ == "__main__":
    sys.exit(main())
