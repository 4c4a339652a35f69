"""A standalone Spark cluster for the tests: real daemons, on loopback, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyspark

SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
_DEPLOY = "org.apache.spark.deploy"
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class StandaloneCluster:
    """A Master and some Workers, stopped with the executors they started.

    Args:
        folder: Takes logs and the Workers' folders.
        workers: How many Workers.
        cores: Task slots of each.
        memory: Memory of each.
        env: Environment of the daemons, and so of executors, beside this process's.
        own_hosts: Give each Worker an address of its own (127.0.0.2 and so on), because Spark
            starts no speculative task on the host where the first attempt runs.

    Example:
        >>> with StandaloneCluster(tmp_path) as cluster:  # doctest: +SKIP
        ...     print(cluster.url)
        spark://127.0.0.1:25000
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        cores: int = 1,
        memory: str = "1g",
        env: Mapping[str, str] | None = None,
        own_hosts: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self._env = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m"}
        # The launchers' settings of the driver are none of the daemons' business.
        for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "PYSPARK_SUBMIT_ARGS"):
            self._env.pop(name, None)
        self._env.update(env or {})
        self._wanted, self._cores, self._memory = workers, cores, memory
        self._own_hosts = own_hosts
        self._port, self._web_port = _free_port(), _free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started = 0  # Workers, those that are gone included

    @property
    def url(self) -> str:
        """What SPARK_MASTER takes."""
        return f"spark://127.0.0.1:{self._port}"

    @property
    def master_pid(self) -> int:
        """Process id of the Master."""
        return self._processes[0].pid

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the Workers."""
        return [process.pid for process in self._processes[1:]]

    def executor_pids(self) -> list[int]:
        """Process ids of the executors that the Workers started, those since killed included."""
        return [
            pid
            for pid, _, command in _all_processes()
            if "CoarseGrainedExecutorBackend" in command and self._works_here(pid)
        ]

    def add_worker(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cores: int | None = None,
        wrapper: Sequence[str] = (),
    ) -> int:
        """Start one more Worker, as after the loss of another, and wait until it is registered.

        Args:
            env: Environment of this Worker, beside that of all daemons.
            cores: Its task slots, if not as many as the others have.
            wrapper: A command, with its arguments, that runs the command behind it.

        Returns:
            Its process id.
        """
        process = self._start_worker(env=env, cores=cores, wrapper=wrapper)
        self._wait_for_workers(len(self.worker_pids))
        return process.pid

    def kill_worker(self, pid: int) -> None:
        """Kill a Worker (SIGKILL), and know of it no more; its executor ends by itself or not."""
        process = next(each for each in self._processes[1:] if each.pid == pid)
        before = self._alive_workers() or 0
        process.kill()
        process.wait()
        self._processes.remove(process)
        deadline = time.monotonic() + _START_SECONDS
        while (self._alive_workers() or 0) >= before:
            if time.monotonic() > deadline:
                raise RuntimeError("the Master does not notice that a Worker is gone")
            time.sleep(0.05)

    def restore(self) -> None:
        """Have as many Workers again as at the beginning, and none that was added."""
        for pid in self.worker_pids[self._wanted :]:
            self.kill_worker(pid)
        while len(self.worker_pids) < self._wanted:
            self.add_worker()

    def __enter__(self) -> StandaloneCluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            ports = ["--port", str(self._port), "--webui-port", str(self._web_port)]
            self._start("master.Master", "--host", "127.0.0.1", *ports)
            self._wait_for_workers(0)
            for _ in range(self._wanted):
                self._start_worker()
            self._wait_for_workers(self._wanted)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the daemons and what they started."""
        for process in reversed(self._processes):
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.executor_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start_worker(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cores: int | None = None,
        wrapper: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        number = self._started
        self._started += 1
        host = f"127.0.0.{number % 250 + 2}" if self._own_hosts else "127.0.0.1"
        folder = str(self.folder / f"worker-{number}")
        size = ["--cores", str(cores or self._cores), "--memory", self._memory]
        place = ["--host", host, "--webui-port", "0", "--work-dir", folder]
        own = {**(env or {}), "SPARK_LOCAL_IP": host}
        return self._start(
            "worker.Worker", *place, *size, self.url, env=own, wrapper=wrapper, number=number
        )

    def _start(
        self,
        name: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        number: int = 0,
    ) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}-{number}.log"
        with log.open("wb") as file:
            command = [*wrapper, str(SPARK_CLASS), f"{_DEPLOY}.{name}", *arguments]
            process = subprocess.Popen(
                command, env={**self._env, **(env or {})}, stdout=file, stderr=file
            )
        self._processes.append(process)
        return process

    def _works_here(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(self.folder)
        except OSError:  # it has ended meanwhile, or is another user's
            return False

    def _wait_for_workers(self, number: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while (alive := self._alive_workers()) is None or alive < number:
            dead = [process.args for process in self._processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster did not start, see {self.folder}/*.log")
            time.sleep(0.1)

    def _alive_workers(self) -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._web_port}/json/") as page:
                state: dict[str, Any] = json.load(page)
        except (OSError, ValueError):  # a Master that is starting answers with its page
            return None
        return int(state["aliveworkers"])


def parent_of(pid: int) -> int:
    """The process that started another, which has not ended yet."""
    return next(parent for each, parent, _ in _all_processes() if each == pid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _all_processes() -> list[tuple[int, int, str]]:
    """Process id, parent and command line of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            found.append((int(entry.name), int(status[1]), _command(int(entry.name))))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
