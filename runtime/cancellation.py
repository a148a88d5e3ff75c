"""Cancelling a request."""

from __future__ import annotations

import threading

from allrounder.errors import RequestCancelled

__all__ = ["Cancellation"]


class Cancellation:
    """Passed to `Runtime.generate` or `Runtime.stream`; `cancel` ends the request with `RequestCancelled`.

    One object may be passed to several requests; it cancels all of them, and stays cancelled.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Asks the requests to end before their next step; returns at once."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises `RequestCancelled` where `cancel` was called."""
        if self._event.is_set():
            raise RequestCancelled("the request was cancelled")
