"""Stop a run on SIGTERM (schedulers) or SIGINT (Ctrl-C), after its current step and with a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

WATCHED = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Record the signals inside the context in place of their default action; a second Ctrl-C interrupts at once.

    Args:
        promise: what happens after the first signal, for the log.

    Attributes:
        received: the signal that this process received, or None.
        number: the signal on which all processes agreed to stop after the current step, or None.
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
        """Return one number per watched signal, to be summed over all processes."""
        return [float(self.received == number) for number in WATCHED]

    def ask(self) -> None:
        """Request a stop as a signal does, from any thread."""
        if self.received is None:
            self.received = int(signal.SIGTERM)

    def adopt(self, sums: list[float]) -> None:
        """Adopt a signal that any process received."""
        for number, total in zip(WATCHED, sums):
            if total and self.number is None:
                self.number = int(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            name = signal.Signals(number).name
            logger.warning("%s: %s.", name, self.promise)
        self.received = number
        if number == signal.SIGINT:  # launchers repeat SIGTERM; a repeated Ctrl-C is meant
            signal.signal(number, self._before.pop(number, signal.default_int_handler))
