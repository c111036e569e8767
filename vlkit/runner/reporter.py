"""What a run reports while it trains: to its files, the terminal and trackers."""

from __future__ import annotations

from typing import Any

from vlkit.config.schema import RunOptions
from vlkit.runner.distributed import World
from vlkit.runner.log import Bar, Ledger, MetricsFile
from vlkit.runner.loop import WAITED
from vlkit.runner.output import OutputFolder
from vlkit.runner.plan import Plan
from vlkit.runner.trackers import Trackers

_MUCH = 0.1
"""Share of waiting for data from which on the terminal says so."""
Bad = tuple[str, str, str]
"""Source, reason, and where it was met."""


class Reporter:
    """Writes for process 0; the others take part where something is gathered.

    Args:
        output: the folder.
        plan: lengths in steps.
        run: the section.
        world: the processes.
    """

    def __init__(self, output: OutputFolder, plan: Plan, run: RunOptions, world: World):
        self.plan, self.run, self.world, self.output = plan, run, world, output
        self.metrics = MetricsFile(output.path / "metrics.jsonl")
        self.ledger = Ledger(output.path / "ledger.jsonl")
        self._trackers: Trackers | None = None
        self._bar: Bar | None = None
        self._since = (0, 0.0)
        self._unwritten: dict[str, Any] | None = None

    def open(self, step: int) -> None:
        """Begin at ``step``: start the bar and the trackers.

        Raises:
            MissingDependency: a tracker's package is not installed.
        """
        if self.world.is_main:
            self._trackers = Trackers(self.output.path, self.run.tensorboard, self.run.wandb, self.output.config)
            self._bar = Bar(self.plan.steps, step)

    def close(self) -> None:
        """Put everything in order."""
        bar, trackers, self._bar, self._trackers = self._bar, self._trackers, None, None
        if bar is not None:
            bar.close()
        if trackers is not None:
            trackers.close()

    def place(self, step: int) -> dict[str, Any]:
        """``step`` in every unit."""
        epoch = round(step / self.plan.steps_per_epoch, 6)
        return {"step": step, "epoch": epoch, "samples": step * self.run.batch_size}

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.advance()

    def training(self, step: int, rate: float, means: dict[str, float], seconds: float) -> None:
        """A line of losses, with the share of the time in which processes waited for data (0..1).

        Args:
            step: optimizer steps done.
            rate: learning rate of the last one.
            means: of the losses and metrics since the last line.
            seconds: spent in steps since the run began.
        """
        done, spent = step - self._since[0], seconds - self._since[1]
        self._since = (step, seconds)
        speed = done * self.run.batch_size / max(spent, 1e-9)
        waited = min(means[WAITED] * done / max(spent, 1e-9), 1.0)
        line = {
            **self.place(step),
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
        """A line of scores."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._write({**self.place(step), "eval": scores}, f"step {step}: {text}")

    def bad_samples(self, found: list[Bad]) -> None:
        """Enter what any process met into the ledger; all processes must call this."""
        found = self.world.gather(found)
        if self.world.is_main and found:
            self.output.writer.check()
            self.ledger.add(found)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"since": list(self._since), "unwritten": self._unwritten}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._since = (int(state["since"][0]), float(state["since"][1]))
        self._unwritten = state.get("unwritten")

    def catch_up(self) -> None:
        """Write the line whose writing failed before the checkpoint, if there is one; for process 0."""
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


def _under(start: str, means: dict[str, float]) -> dict[str, float]:
    return {name[len(start) :]: mean for name, mean in means.items() if name.startswith(start)}
