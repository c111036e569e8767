"""Report a run while it trains: log files, terminal, trackers, and plots at the end."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlkit.config.schema import RunOptions
from vlkit.errors import MissingDependency
from vlkit.io.files import atomic_write
from vlkit.runner.context import RunContext
from vlkit.runner.log import WAITED, Ledger, MetricsFile, read_lines
from vlkit.runner.plan import Plan

logger = logging.getLogger(__name__)
_MUCH = 0.1  # share of the time spent waiting for data from which the terminal mentions it
Bad = tuple[str, str, str]
"""Source, reason, and where the sample was read."""


class Reporter:
    """Writes in process 0; methods that gather are called by every process.

    Args:
        context: of the run.
        plan: lengths in steps.
        run: the section.
    """

    def __init__(self, context: RunContext, plan: Plan, run: RunOptions):
        self.plan, self.run, self.world, self.output = plan, run, context.world, context.output
        self.metrics = MetricsFile(self.output.path / "metrics.jsonl")
        self.ledger = Ledger(self.output.path / "ledger.jsonl")
        self._trackers: Trackers | None = None
        self._bar: Bar | None = None
        self._since = (0, 0.0)
        self._unwritten: dict[str, Any] | None = None

    def open(self, step: int) -> None:
        """Start the progress bar at ``step``, and the trackers.

        Raises:
            MissingDependency: a tracker's package is not installed.
        """
        if self.world.is_main:
            self._trackers = Trackers(self.output.path, self.run.tensorboard, self.run.wandb, self.output.config)
            self._bar = Bar(self.plan.steps, step)

    def close(self) -> None:
        """Close the progress bar and the trackers."""
        bar, trackers, self._bar, self._trackers = self._bar, self._trackers, None, None
        if bar is not None:
            bar.close()
        if trackers is not None:
            trackers.close()

    def position(self, step: int) -> dict[str, Any]:
        """Return ``step`` in steps, epochs and samples."""
        epoch = round(step / self.plan.steps_per_epoch, 6)
        return {"step": step, "epoch": epoch, "samples": step * self.run.batch_size}

    def advance(self) -> None:
        """Count a step."""
        if self._bar is not None:
            self._bar.advance()

    def training(self, step: int, rate: float, means: dict[str, float], seconds: float) -> None:
        """Write a line of losses.

        Args:
            step: optimizer steps done.
            rate: learning rate of the last one.
            means: of losses and metrics since the last line.
            seconds: spent in steps since the run began.
        """
        done, spent = step - self._since[0], seconds - self._since[1]
        self._since = (step, seconds)
        speed = done * self.run.batch_size / max(spent, 1e-9)
        waited = min(means[WAITED] * done / max(spent, 1e-9), 1.0)
        line = {
            **self.position(step),
            "lr": rate,
            "loss": means["loss"],
            "losses": _under("losses/", means),
            "metrics": _under("metrics/", means),
            "grad_norm": means["grad_norm"],
            "samples_per_s": round(speed, 2),
            "waited_for_data": round(waited, 4),
        }
        left = self.plan.seconds_left(step, seconds, speed / self.run.batch_size)
        text = f"loss {means['loss']:.4g}, lr {rate:.3g}, {speed:.1f} samples/s, {left:.0f} s left"
        if waited >= _MUCH:
            text += f"; {waited:.0%} of the time waits for data: see run.num_workers"
        end = f"/{self.plan.steps}" if self.plan.steps is not None else ""
        self._write(line, f"step {step}{end}, {text}")

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write a line of scores."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._write({**self.position(step), "eval": scores}, f"step {step}: {text}")

    def bad_samples(self, found: list[Bad]) -> None:
        """Enter the unusable samples of all processes into the ledger. A collective."""
        found = self.world.gather(found)
        if self.world.is_main and found:
            self.output.writer.check()
            self.ledger.add(found)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"since": list(self._since), "unwritten": self._unwritten}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._since = (int(state["since"][0]), float(state["since"][1]))
        self._unwritten = state.get("unwritten")

    def write_missing_line(self) -> None:
        """Write the line that could not be written before the checkpoint, if there is one; process 0 only."""
        if self._unwritten is not None:
            self.metrics.append(self._unwritten)
            self._unwritten = None

    def _write(self, line: dict[str, Any], text: str) -> None:
        if self._bar is not None and self._trackers is not None:
            self._unwritten = line
            self.output.writer.check()
            self.metrics.append(line)
            self._unwritten = None
            self._trackers.log(line)
            self._bar.report(text)


class Bar:
    """Progress bar on a terminal; log lines elsewhere. A terminal that goes away is ignored.

    Args:
        steps: of the run; None: unknown.
        done: steps of earlier calls.
    """

    def __init__(self, steps: int | None, done: int):
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """Count a step."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.update()

    def report(self, text: str) -> None:
        """Show figures next to the bar, or log them."""
        if self._bar is None:
            logger.info("%s", text)
        else:
            with contextlib.suppress(OSError):
                self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


class Trackers:
    """Copy the log to TensorBoard and Weights & Biases, where the run asks for them.

    Args:
        folder: output folder of the run.
        tensorboard: write event files into ``folder/tensorboard``.
        wandb: project of Weights & Biases, or None.
        config: recorded with the run.

    Raises:
        MissingDependency: the package is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool, wandb: str | None, config: Mapping[str, Any]):
        self._log: list[Callable[[int, dict[str, float]], object]] = []
        self._close: list[Callable[[], object]] = []
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependency("tensorboard", "run.tensorboard", "track") from error
            board = SummaryWriter(str(folder / "tensorboard"))

            def log(step: int, flat: dict[str, float]) -> None:
                for name, value in flat.items():
                    board.add_scalar(name, value, step)

            self._log.append(log)
            self._close.append(board.close)
        if wandb:
            try:
                import wandb as package
            except ImportError as error:
                raise MissingDependency("wandb", "run.wandb", "track") from error
            run = package.init(project=wandb, dir=str(folder), name=folder.name, config=dict(config), resume="allow")
            self._log.append(lambda step, flat: run.log(flat, step=step))
            self._close.append(run.finish)

    def log(self, line: Mapping[str, Any]) -> None:
        """Log a line of ``metrics.jsonl``."""
        flat = dict(_numbers(line))
        step = int(flat.pop("step"))
        for log in self._log:
            log(step, flat)

    def close(self) -> None:
        """Flush and close."""
        for close in self._close:
            close()


def _numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings under ``outer/inner``."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            yield prefix + key, value


def _under(start: str, means: dict[str, float]) -> dict[str, float]:
    return {name[len(start) :]: mean for name, mean in means.items() if name.startswith(start)}


def draw_curves(metrics: Path, path: Path) -> bool:
    """Plot the losses and scores of ``metrics.jsonl`` by step as PNG, one panel each.

    Args:
        metrics: the log; a missing file is empty.
        path: the PNG.

    Returns:
        Whether there was something to plot. A plot never fails a run: whatever goes wrong is a warning.
    """
    try:
        return _draw_curves(metrics, path)
    except Exception as error:  # matplotlib, its fonts and its cache, the disk
        logger.warning("%s was not drawn: %s: %s", path, type(error).__name__, error)
        return False


def _draw_curves(metrics: Path, path: Path) -> bool:
    from matplotlib.figure import Figure  # a slow import

    curves: dict[str, list[tuple[int, Any]]] = {}
    for line in read_lines(metrics, {"step": int}):
        losses = {"loss": line["loss"], **line.get("losses", {})} if "loss" in line else {}
        for name, value in {**losses, **line.get("eval", {})}.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, []).append((line["step"], value))
    if not curves:
        return False
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(rows, columns, squeeze=False).flat, curves.items()):
        axes.plot(*zip(*points), marker="." if len(points) < 30 else None)
        axes.set(title=name, xlabel="step")
    for axes in figure.axes[len(curves) :]:
        axes.set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    return True
