"""Communicate among the processes that ``torchrun`` started; a single process communicates nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist

from vlkit.errors import ConfigError, LostProcess, VlkitError
from vlkit.runner.heartbeat import Heartbeat, is_communication_error, lost_message, start_heartbeat

T = TypeVar("T")

TIMEOUT_VARIABLE = "VLKIT_TIMEOUT_SECONDS"
_TIMEOUT_SECONDS = 1800.0


class World:
    """The processes of a run, seen from this one.

    Attributes:
        rank: 0 <= rank < size; 0 writes files and logs.
        local_rank: rank among the processes of this machine, which selects the GPU.
        size: number of processes.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self._started_here = False

    _heartbeat: ClassVar[Heartbeat | None] = None  # of this Python process, as torch's default group is

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def start(self, device: torch.device) -> None:
        """Connect to the other processes from the environment of ``torchrun``: gloo, and also NCCL on CUDA.

        A collective fails after ``VLKIT_TIMEOUT_SECONDS`` (default 1800). A process that died, is stopped or cannot be
        reached is detected earlier: after ``VLKIT_LOST_AFTER_SECONDS`` (default 35) without its heartbeat the others
        end with a message that names it.

        Raises:
            ConfigError: several processes cannot share this kind of device.
        """
        if self.size == 1 or dist.is_initialized():
            return
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"several processes need run.device cpu or cuda, not {device.type!r}.")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        seconds = float(os.environ.get(TIMEOUT_VARIABLE, _TIMEOUT_SECONDS))
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        self._started_here = True
        World._heartbeat = start_heartbeat(self.rank, self.size)

    def finish(self) -> None:
        """Disconnect, if :meth:`start` connected."""
        if self._started_here:
            if World._heartbeat is not None:
                World._heartbeat.leave()
                World._heartbeat = None
            dist.destroy_process_group()
            self._started_here = False

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the backend's error on a lost process into one that names it; announce other errors to the others.

        Raises:
            LostProcess: another process died, stopped, or ended with an error.
        """
        try:
            yield
        except BaseException as error:
            heartbeat = World._heartbeat
            if heartbeat is None or isinstance(error, LostProcess):
                raise
            if not is_communication_error(error):
                heartbeat.fail(error)
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            reason = heartbeat.wait_for_loss() or f"the connection to another process failed ({first})"
            raise LostProcess(lost_message(reason)) from error

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Keep this process running inside the context although another one is lost."""
        heartbeat = World._heartbeat
        if heartbeat is not None:
            heartbeat.saving = True
        try:
            yield
        finally:
            if heartbeat is not None:
                heartbeat.saving = False

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in float64 through the CPU, which does not wait for the GPU."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """Return the lists of all processes joined in rank order, in every process."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def on_main(self, action: Callable[[], T]) -> T:
        """Run ``action`` in process 0 and return its result in every process. An error is raised in all of them, in the
        others as a VlkitError with the same message."""
        if self.size == 1:
            return action()
        result: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                result[0] = action()
            except VlkitError as error:
                failure, result[1] = error, str(error)
            except Exception as error:  # any error of a task or a tracker: the others wait
                failure, result[1] = error, f"process 0 failed: {type(error).__name__}: {error}"
        dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise failure or VlkitError(result[1])
        return result[0]
