"""TensorRT plans by name: what a plan was built with, known before TensorRT reads it.

There are two libraries of that kind, TensorRT and TensorRT-RTX, whose own messages about a foreign plan name neither
cause nor remedy. So a plan's file name is checked against the library and the GPU first.

    decoder-1f0c8a5e21d3-trt10.16.1-sm90.plan              this TensorRT (major.minor), this architecture
    decoder-1f0c8a5e21d3-trt10.16.1-sm80-newer-ampere.plan newer ones of the major version, Ampere and all after it
    decoder-1f0c8a5e21d3-trt10.16.1-sm90-plugin.plan       needs the plugin of the gather op
    decoder-1f0c8a5e21d3-rtx1.7.1-sm80-ampere.plan         TensorRT-RTX's, which makes its kernels where it runs
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from allrounder.errors import EngineUnavailable

__all__ = [
    "PLAN",
    "RTX",
    "TENSORRT",
    "Flavour",
    "Hardware",
    "PlanTarget",
    "check_target",
    "parse_version",
    "plan_name",
    "read_target",
]

PLAN = ".plan"
Hardware = Literal["same", "ampere"]  # "ampere": every architecture from SM 80 on

_NAME = re.compile(r"-([a-z]+)(\d+(?:\.\d+){1,3})-sm(\d+)(-newer)?(-ampere)?(-plugin)?\.plan\Z")
_AMPERE = 80


class Flavour(NamedTuple):
    """A library that builds and runs plans."""

    name: str
    backend: str  # its own among ours
    module: str  # its Python package, and what pip calls it
    mark: str  # of its plans, in their names
    oldest: tuple[int, int]
    why: str  # it is the oldest
    architectures: tuple[int, ...] = ()  # all that it runs on; none named: what a plan's name says

    def check_gpu(self, sm: int) -> None:
        """Checks that the library runs on a GPU of that architecture.

        Raises:
            EngineUnavailable: It does not.
        """
        if self.architectures and sm not in self.architectures:
            raise EngineUnavailable(
                f"{self.name} does not run on this GPU",
                got=f"SM {sm} here",
                wanted=f"one of SM {', '.join(map(str, self.architectures))}",
                remedy="build for it with --backend tensorrt, or run the plans on another GPU",
            )


TENSORRT = Flavour(
    "TensorRT",
    "tensorrt",
    "tensorrt",
    "trt",
    (10, 15),
    "the first whose ONNX parser reads TensorScatter, RotaryEmbedding and RMSNormalization, which every decoder graph "
    "holds",
)
# From Ampere on, what TensorRT-RTX 1.7 knows. Its plans are built for all of them.
_RTX_GPUS = (80, 86, 89, 120, 121)
RTX = Flavour("TensorRT-RTX", "tensorrt-rtx", "tensorrt_rtx", "rtx", (1, 7), "the oldest that was tried", _RTX_GPUS)


class PlanTarget(NamedTuple):
    """What a plan was built with, and for."""

    version: tuple[int, ...]  # TensorRT's: major, minor, ...
    sm: int  # compute capability, 90 for 9.0
    newer: bool = False  # newer minor versions of TensorRT run it too
    hardware: Hardware = "same"
    plugin: bool = False  # the gather op in it is the plugin


def parse_version(text: str, flavour: Flavour = TENSORRT) -> tuple[int, ...]:
    """Returns the numbers of a library's version, up to four of them: "10.16.1.11" gives (10, 16, 1, 11).

    Raises:
        EngineUnavailable: Not such a version, or one older than the oldest that is supported.
    """
    found = re.match(r"\d+(?:\.\d+){1,3}", text)
    version = tuple(int(part) for part in found[0].split(".")) if found else ()
    if version[:2] < flavour.oldest:
        raise EngineUnavailable(
            f"this {flavour.name} is too old",
            got=f"{flavour.module} {text}",
            wanted=f"{flavour.module} {_dotted(flavour.oldest)} or newer, {flavour.why}",
            remedy=f"pip install -U {flavour.module}",
        )
    return version


def plan_name(kind: str, digest: str, target: PlanTarget, flavour: Flavour = TENSORRT) -> str:
    """Returns the file name of a plan: its graph's kind, a digest of what it was built from, and its target."""
    marks = "-newer" * target.newer + "-ampere" * (target.hardware == "ampere") + "-plugin" * target.plugin
    return f"{kind}-{digest}-{flavour.mark}{_dotted(target.version)}-sm{target.sm}{marks}{PLAN}"


def read_target(name: str, flavour: Flavour = TENSORRT) -> PlanTarget | None:
    """Returns what a plan of that name was built with, or None where the name does not say, or of another library."""
    found = _NAME.search(name)
    if found is None or found[1] != flavour.mark:
        return None
    _, version, sm, newer, ampere, plugin = found.groups()
    numbers = tuple(int(part) for part in version.split("."))
    return PlanTarget(numbers, int(sm), bool(newer), "ampere" if ampere else "same", bool(plugin))


def check_target(name: str, *, version: tuple[int, ...], sm: int, flavour: Flavour = TENSORRT) -> PlanTarget:
    """Returns the target of a plan that this library and this GPU can run.

    Raises:
        EngineUnavailable: They cannot, or the name does not say what the plan was built with.
    """
    target = read_target(name, flavour)
    again = f"build it again here: allrounder build --backend {flavour.backend} --force"
    if target is None:
        raise EngineUnavailable("nothing says what this plan was built with", where=name, remedy=again)
    built, here = target.version[:2], version[:2]
    if not (here == built or (target.newer and here[0] == built[0] and here > built)):
        raise EngineUnavailable(
            f"this plan was built with another {flavour.name}",
            where=name,
            got=f"{flavour.name} {_dotted(version)} here",
            wanted=f"{flavour.name} {_dotted(built)}" + (f" or a newer {built[0]}.x" if target.newer else ""),
            remedy=f"{again}; or pip install '{flavour.module}=={_dotted(built)}.*'",
        )
    flavour.check_gpu(sm)
    if not (sm == target.sm or (target.hardware == "ampere" and sm >= _AMPERE)):
        raise EngineUnavailable(
            "this plan was built for another GPU architecture",
            where=name,
            got=f"SM {sm} here",
            wanted=f"SM {_AMPERE} or later" if target.hardware == "ampere" else f"SM {target.sm}",
            remedy=again,
        )
    return target


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
