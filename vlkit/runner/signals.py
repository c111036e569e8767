"""Requests to stop: SIGTERM (schedulers) and SIGINT (Ctrl-C) end a run after its step, with a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

WATCHED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, notes the signals instead of dying of them; a second Ctrl-C is obeyed at once.

    Args:
        promise: what happens then, for the log.

    Attributes:
        received: the signal that this process got, or None.
        number: the signal that all processes agreed to obey after the current step, or None.
    """

    def __init__(self, promise: str = "the run stops after this step and writes a checkpoint") -> None:
        self.promise = promise
        self.received: int | None = None
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in WATCHED:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def flags(self) -> list[float]:
        """One number for each watched signal, to be added up over all processes."""
        return [float(self.received == number) for number in WATCHED]

    def ask(self) -> None:
        """Ask for the run to stop, as a signal would; from any thread."""
        if self.received is None:
            self.received = int(signal.SIGTERM)

    def adopt(self, sums: list[float]) -> None:
        """Obey what any process received."""
        for number, total in zip(WATCHED, sums):
            if total and self.number is None:
                self.number = int(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            name = signal.Signals(number).name
            logger.warning("%s: %s.", name, self.promise)
        self.received = number
        if number == signal.SIGINT:  # launchers repeat SIGTERM, but a repeated Ctrl-C is impatience
            signal.signal(number, self._before.pop(number, signal.default_int_handler))
