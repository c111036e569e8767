"""Workers on a Slurm cluster, through submitit: one array task for each node, so that each starts when it can."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlkit.capfilt.launch import end, start_worker
from vlkit.errors import MissingDependency, VlkitError, did_you_mean

logger = logging.getLogger(__name__)
_OURS = {"local": int, "nodes": int, "workers_per_node": int, "folder": str}
_SUBMITIT = {"name": str, "gpus_per_node": int, "cpus_per_task": int, "mem_gb": float, "timeout_min": int}
_SLURM = (
    *("partition", "qos", "account", "constraint", "exclude", "nodelist", "gres", "gpus_per_task", "cpus_per_gpu"),
    *("mem", "mem_per_cpu", "mem_per_gpu", "exclusive", "dependency", "comment", "mail_type", "mail_user", "wckey"),
    *("array_parallelism", "signal_delay_s"),
)
_DEFAULTS = {"name": "vlkit-capfilt", "timeout_min": 720}
_REQUEUED = 1000  # times that a job whose time is up is resumed; it always makes progress


class SlurmWorker:
    """A task of a Slurm job: a process of ``vlkit capfilt``.

    Args:
        arguments: of the command.
    """

    def __init__(self, arguments: Sequence[str]):
        self.arguments = list(arguments)

    def __call__(self) -> None:
        """Work until all shards are done.

        Raises:
            RuntimeError: the worker failed; what it printed is in the log of the task.
        """
        import submitit

        process = start_worker(self.arguments, submitit.JobEnvironment().local_rank, {})
        try:
            code = process.wait()
        finally:  # also when the node is taken away: what was not finished is given back
            end([process])
        if code:
            raise RuntimeError(f"the worker ended with exit code {code}; its log says why")

    def checkpoint(self) -> Any:
        """Submit the task again when the node was taken away or the time was up; it resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def parse_slurm(text: str) -> dict[str, Any]:
    """``partition=gpu,nodes=4,gpus_per_node=8`` as a mapping.

    Raises:
        VlkitError: a part that is not ``key=value``, a key that nobody knows, or a value that it cannot have.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise VlkitError(f"--slurm: {part!r} is not key=value. An example: --slurm partition=gpu,nodes=4")
        found[key.strip()] = _value(key.strip(), value.strip())
    return found


def submit(options: Mapping[str, Any], arguments: Sequence[str], log_folder: Path | None) -> list[Any]:
    """Submit the workers of a job.

    Args:
        options: as :func:`parse_slurm` gives them: ``nodes``, ``gpus_per_node``, ``timeout_min``..., and whatever else
            submitit has for Slurm.
        arguments: of each ``vlkit capfilt``.
        log_folder: for logs, unless the options have ``folder``.

    Returns:
        The jobs of submitit.

    Raises:
        VlkitError: no Slurm here, or it refuses the job.
    """
    given = {**_DEFAULTS, **options}
    cluster = "local" if given.pop("local", 0) else "slurm"
    nodes, folder = given.pop("nodes", 1), Path(given.pop("folder", None) or log_folder or "log") / cluster
    given["tasks_per_node"] = given.pop("workers_per_node", None) or given.get("gpus_per_node") or 1
    executor = _executor(cluster, folder, {f"slurm_{key}" if key in _SLURM else key: given[key] for key in given})
    try:
        with executor.batch():
            jobs = [executor.submit(SlurmWorker(arguments)) for _ in range(nodes)]
    except Exception as error:  # of a command of Slurm
        raise VlkitError(f"--slurm: the jobs could not be submitted: {error}") from error
    logger.info("submitted: %s; logs are in %s", ", ".join(job.job_id for job in jobs), executor.folder)
    return jobs


def wait(jobs: Sequence[Any]) -> int:
    """Wait for jobs; return 0, or 1 when a worker failed, whose log is named."""
    failed = [job for job in jobs if _failed(job)]
    for job in failed:
        logger.error("job %s failed; its logs are in %s", job.job_id, job.paths.folder)
    return 1 if failed else 0


def _failed(job: Any) -> bool:
    from submitit.core.utils import UncompletedJobError

    try:
        return job.exception() is not None
    except UncompletedJobError:
        return True


def _value(key: str, text: str) -> Any:
    known = [*_OURS, *_SUBMITIT, *_SLURM]
    if key not in known:
        raise VlkitError(f"--slurm: there is no key {key!r}.{did_you_mean(key, known)} Keys: {', '.join(known)}.")
    kind = {**_OURS, **_SUBMITIT}.get(key)
    if kind is None:  # Slurm's own: submitit writes what it is given into the script
        return {"true": True, "false": False}.get(text.lower(), int(text) if text.isdigit() else text)
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or (kind is not str and value < (key == "nodes")):
        raise VlkitError(f"--slurm: {key}={text}: a number, {int(key == 'nodes')} or more, is needed.")
    return value


def _executor(cluster: str, folder: Path, parameters: dict[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise MissingDependency("submitit", "--slurm", "slurm") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, **{f"{cluster}_max_num_timeout": _REQUEUED})
    except RuntimeError as error:  # it looks for srun
        raise VlkitError(f"--slurm: {error} Run this where sbatch is, or try --slurm local=1.") from error
    executor.update_parameters(**parameters)
    return executor
