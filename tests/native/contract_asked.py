"""The contract in C++, asked through `contract_probe`, a program of its tests that takes JSON lines."""

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings

from allrounder import errors

MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
Answer = tuple[str, object]  # "ok" and what was said, or an error's name and its message


class Probe:
    """The program and its two pipes."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op: str, **question: object) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode({"op": op, **question}) + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return ("ok", answer["ok"]) if "ok" in answer else (answer["error"], answer["message"])

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def python(call: Any) -> Answer:
    try:
        return "ok", call()
    except errors.AllRounderError as error:
        return type(error).__name__, str(error)


def message(refusal: Answer) -> str:
    """A refusal without its remedy, which speaks of each language's own arguments."""
    return str(refusal[1]).partition("; remedy:")[0]
