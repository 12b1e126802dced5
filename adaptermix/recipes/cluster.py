"""Run the steps of a recipe on a Ray cluster, independent ones in parallel.

Ray decides where a step runs and starts its process. This module decides from the step graph which
steps can run, and restarts a step whose worker was lost from its checkpoint. The recipe, its data
and its outputs must be on storage that all machines see under the same paths.
"""

import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from adaptermix.errors import AdaptermixError, ConfigError, ResourceError, first_line, require_extra
from adaptermix.progress import OnProgress, Progress
from adaptermix.recipes.step import Step
from adaptermix.settings.shared import Settings

ATTEMPTS = 3  # of a step whose worker was lost
_LOOK = 0.3  # seconds between two polls
_ORPHANED = 120.0  # seconds to wait for a step of a killed run; Ray ends it within half a minute
_PASSED_ON = ("ADAPTERMIX_CACHE", "HF_HUB_OFFLINE", "PYTHONPATH")  # never keys or tokens


class Board(Protocol):
    """Shows the progress of several steps; by default, nothing."""

    def show(self, step: Step, progress: Progress) -> None:
        """Show a step's progress."""
        return None

    def remove(self, step: Step) -> None:
        """Remove a step that has ended."""
        return None


@dataclass(frozen=True)
class Done:
    """The outcome of a step.

    Attributes:
        record: The part of its report to store.
        report: The report of its command.
        seconds: Run time in seconds.
    """

    record: dict[str, Any]
    report: Any
    seconds: float


Perform = Callable[[Step, Settings, OnProgress], Done]


class Cluster:
    """A Ray cluster that runs steps.

    Attributes:
        is_own: Whether this run started the cluster, on this machine.
        attempts: How many times each step was submitted.
    """

    def __init__(self, address: str | None) -> None:
        """Connect to a cluster, or start one on this machine.

        Args:
            address: ``ray://HOST:PORT`` or ``HOST:PORT``; None for the cluster in
                ``RAY_ADDRESS``, or else for a new one on this machine.

        Raises:
            ResourceError: Ray is not installed, or there is no such cluster.
        """
        require_extra("ray")
        import ray

        self.is_own = address is None and not os.environ.get("RAY_ADDRESS")
        _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # Ray gives a task one thread, but sums round differently with another number of threads.
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        ray_errors = (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError)
        try:
            ray.init(
                address="local" if self.is_own else address or "auto",
                include_dashboard=False if self.is_own else None,
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ray_errors as error:
            raise _unreachable(address or "ray", error) from error
        self._ray: Any = ray
        # Every step gets its own process, which frees the step's memory when it exits.
        self._task: Any = ray.remote(max_calls=1)(_perform)
        inbox: Any = ray.remote(_Inbox)
        self._inbox = inbox.options(num_cpus=0, max_restarts=-1).remote()
        self._running: dict[Any, Step] = {}
        self.attempts: Counter[str] = Counter()

    def close(self) -> None:
        """Cancel running steps and disconnect from the cluster."""
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        self._ray.shutdown()

    def check(self, step: Step) -> str | None:
        """Return a note if no machine of the cluster has the resources that a step requests.

        Raises:
            ConfigError: There is none, and the cluster is only this machine, so none will join.
        """
        asked = self._asked(step)
        named = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked["memory"]}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(k, 0) >= v for k, v in named.items()) for node in nodes):
            return None
        key = {"CPU": "cpus", "GPU": "gpus", "memory": "memory"}
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in named}
        lacking = [
            f"{key[name]} = {_amount(name, value)} (the largest machine has "
            f"{_amount(name, most[name])})"
            for name, value in named.items()
            if most[name] < value
        ]
        what = f"it requests {', '.join(lacking) or 'more than one machine has'}"
        if self.is_own:
            raise ConfigError(f"{step.path}:{step.line()}: [{step.name}] {what}")
        return f"{what}; it waits until the cluster has such a machine"

    def submit(self, step: Step, settings: Settings, perform: Perform) -> None:
        """Submit a step to the cluster."""
        self.attempts[step.name] += 1
        task = self._task.options(max_retries=0, name=step.name, **self._asked(step))
        self._running[task.remote(perform, step, settings, str(Path.cwd()), self._inbox)] = step

    def wait(self, board: Board) -> Iterator[tuple[Step, Done | AdaptermixError | None]]:
        """Wait briefly, show new progress, and yield the steps that have ended.

        The outcome is None if the step's worker was lost.
        """
        if not self._running:
            return
        refs = list(self._running)
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=_LOOK)
        self._show(board)
        for ref in ready:
            step = self._running.pop(ref)
            board.remove(step)
            yield step, self._outcome(ref)

    @property
    def is_busy(self) -> bool:
        """Whether a step is running."""
        return bool(self._running)

    def _outcome(self, ref: Any) -> Done | AdaptermixError | None:
        try:
            outcome: Done | AdaptermixError = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError:
            return None
        return outcome

    def _show(self, board: Board) -> None:
        steps = {step.name: step for step in self._running.values()}
        try:
            events = self._ray.get(self._inbox.take.remote(), timeout=10)
        except self._ray.exceptions.RayError:  # the inbox's machine was lost; Ray moves it
            return
        for name, progress in events:
            if name in steps:
                board.show(steps[name], progress)

    def _asked(self, step: Step) -> dict[str, Any]:
        """Return Ray's options for the resources that a step requests.

        By default, a command that needs torch gets a GPU if the cluster has any. One that decodes
        on servers needs none.
        """
        has_gpus = self._ray.cluster_resources().get("GPU", 0) > 0
        search = getattr(step.settings, "search", None)
        is_heavy = step.command.extra in ("train", "eval", "search") or bool(search)
        is_elsewhere = bool(getattr(step.settings, "server", ())) and search != "learn"
        asked = step.resources
        gpus = (
            asked.gpus
            if asked.gpus is not None
            else float(has_gpus and is_heavy and not is_elsewhere)
        )
        cpus = asked.cpus if asked.cpus is not None else 1
        return {"num_cpus": cpus, "num_gpus": gpus, "memory": asked.memory or 0}


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to a cluster for the duration of a run.

    Meanwhile, standard output goes to standard error, because Ray prints about dead workers.

    Raises:
        ResourceError: As for ``Cluster``.
    """
    with redirect_stdout(sys.stderr):
        cluster = Cluster(address)
        try:
            yield cluster
        finally:
            cluster.close()


def address_of(on: str) -> str | None:
    """Return the address in ``--on``, which is ``ray`` or ``ray://ADDRESS``.

    Raises:
        ConfigError: The value has another form.
    """
    if on == "ray":
        return None
    if on.startswith("ray://") and len(on) > len("ray://"):
        return on
    raise ConfigError(f"--on {on}: write --on ray, or --on ray://HOST:PORT for a cluster")


def _amount(name: str, value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if name == "memory" else f"{value:g}"


def _check_reachable(address: str) -> None:
    """Try to connect first, because Ray itself retries for minutes.

    Raises:
        ResourceError: No server answers at the address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ResourceError:
    lines = str(error).strip().splitlines()
    is_title = len(lines) > 1 and lines[0].rstrip().endswith(":")  # the reason comes last
    why = f"{lines[0].rstrip()} {lines[-1].strip()}" if is_title else first_line(error)
    # `ray start` protects a cluster with a token if the account has one, but a client has to ask.
    has_token = "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").is_file()
    token = "set RAY_AUTH_MODE=token if the cluster requires a Ray token; otherwise "
    return ResourceError(
        f"--on {address}: cannot connect to a Ray cluster: {why}",
        hint=(token if has_token and "RAY_AUTH_MODE" not in os.environ else "")
        + "start one with `ray start --head`, or use --on ray without RAY_ADDRESS to use this "
        "machine",
    )


class _Inbox:
    """Collects the events of all running steps: the last of each step, and every note."""

    def __init__(self) -> None:
        self.last: dict[str, Progress] = {}
        self.notes: list[tuple[str, Progress]] = []

    def put(self, name: str, progress: Progress) -> None:
        """Add an event of a step."""
        if progress.note:
            self.notes.append((name, progress))
        else:
            self.last[name] = progress

    def take(self) -> list[tuple[str, Progress]]:
        """Return the events since the last call."""
        events = [*self.notes, *self.last.items()]
        self.notes, self.last = [], {}
        return events


def _perform(
    perform: Perform, step: Step, settings: Settings, folder: str, inbox: Any
) -> Done | AdaptermixError:
    """Run a step in a worker. Return errors for the user, because Ray would wrap raised ones."""
    os.chdir(folder)
    told = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal told
        if progress.note or time.monotonic() - told > _LOOK:
            told = time.monotonic()
            inbox.put.remote(step.name, progress)

    try:
        with _alone_in(step):
            return perform(step, settings, on_progress)
    except AdaptermixError as error:
        return error


@contextmanager
def _alone_in(step: Step) -> Iterator[None]:
    """Wait until no worker of a killed run performs the same step.

    If a driver of ``ray://`` is killed, Ray lets its workers go on for a while.

    Raises:
        ResourceError: Another worker is still running it after a long time.
    """
    lock = FileLock(step.out.with_name(f".{step.out.name}.lock"), timeout=_ORPHANED)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResourceError(
            f"another worker is still writing {step.out}", hint="stop it, and run the recipe again"
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
