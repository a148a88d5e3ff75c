"""The one error tree.

Stages raise these; they define no errors of their own.
"""

from __future__ import annotations

__all__ = [
    "AllRounderError",
    "BackendError",
    "BundleBusy",
    "BundleCorrupt",
    "BundleError",
    "BundleFromFuture",
    "BundleMismatch",
    "CalibrationError",
    "EngineUnavailable",
    "GraphInvalid",
    "ImageInvalid",
    "InputInvalid",
    "InvalidBudget",
    "ModelUnreadable",
    "ModelUnsupported",
    "NoEngineMeetsTarget",
    "PromptTooLong",
    "PromptsInvalid",
    "RequestCancelled",
    "RouterMismatch",
    "RuntimeClosed",
    "UnknownVersion",
    "VerificationFailed",
]


class AllRounderError(Exception):
    """Root of the tree. The message says what, where, got, wanted and the remedy, each where it applies.

    Args:
        what: The fact, one sentence without a full stop.
        where: File, key, graph or argument.
        got: The offending value.
        wanted: What would have been right.
        remedy: What the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        wanted: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.wanted, self.remedy = what, where, got, wanted, remedy
        parts = [what]
        parts += [f"{name}: {value}" for name, value in (("where", where), ("got", got)) if value is not None]
        parts += [f"{name}: {value}" for name, value in (("wanted", wanted), ("remedy", remedy)) if value is not None]
        super().__init__("; ".join(parts))


class InputInvalid(AllRounderError):
    """An argument of a public call or command is wrong."""


class UnknownVersion(InputInvalid):
    """A version name that is neither in the table nor of the form ``t<T>-l<L>``, or not in the bundle."""


class InvalidBudget(InputInvalid):
    """A budget outside 1 <= T <= N, max(K, 1) <= L <= M, 0 <= K < M."""


class ImageInvalid(InputInvalid):
    """Not an image: unreadable file, wrong dtype, wrong shape, or absent."""


class PromptTooLong(InputInvalid):
    """The question, or question and answer together, exceed the bundle's limits."""


class PromptsInvalid(InputInvalid):
    """A prompts file (JSONL of image and question) has unusable lines; each is named by its number."""


class ModelUnsupported(AllRounderError):
    """The checkpoint is not a vision-language model that pruning understands; names the config key."""


class ModelUnreadable(AllRounderError):
    """A model directory whose files are missing, truncated or not what their index says, or that cannot be fetched."""


class RouterMismatch(AllRounderError):
    """A router that was trained for another model, or a damaged router checkpoint."""


class GraphInvalid(AllRounderError):
    """A frozen graph breaks a rule: unknown domain, wrong static shape, weight of an absent layer."""


class VerificationFailed(AllRounderError):
    """A frozen graph computes something else than the eager module."""


class CalibrationError(AllRounderError):
    """Calibration cannot be done: no usable prompts, or no reference to compare with."""


class BundleError(AllRounderError):
    """Something about a bundle directory."""


class BundleCorrupt(BundleError):
    """Missing, changed, unlisted or unsafe file, or a manifest that cannot be read."""


class BundleFromFuture(BundleError):
    """The manifest's schema is newer than this program."""


class BundleMismatch(BundleError):
    """Adding to a bundle that was made from another model or router."""


class BundleBusy(BundleError):
    """Another process is writing to this bundle."""


class BackendError(AllRounderError):
    """The backend's own library failed; its message is quoted."""


class EngineUnavailable(BackendError):
    """The backend, device or precision that was asked for is not there; names the package or option."""


class NoEngineMeetsTarget(AllRounderError):
    """No entry meets the latency target; the message is the table of what there is."""


class RequestCancelled(AllRounderError):
    """The request was cancelled by its owner, or by closing the runtime."""


class RuntimeClosed(AllRounderError):
    """The runtime was closed before this call."""
