"""One executor process as its agent sees it: started, watched, killed, reaped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

from stageline.keyring import Keyring
from stageline.messages import Beat, ExecutorHello, ExecutorInfo, Passage, Progress
from stageline.plan import StageKey
from stageline_stage import keypipe
from stageline_stage.blackbox import BlackBox
from stageline_stage.resources import process_state


@dataclass(frozen=True)
class Launch:
    """What every executor of this agent is started with."""

    agent: str
    node: str
    host: str
    transport: str
    device: str
    threads: int
    log_level: str
    log_format: str
    data_port: int = 0
    data_address: str = ""
    checksum: str = "auto"
    advertised: str = ""
    backend: str = "eager"
    backend_retry: bool = False
    compiled_dir: str = ""
    compiled_bytes: int = 0
    keyring: Keyring | None = field(default=None, repr=False)

    def command(self, executor: str, blackbox: int, crashed: int = 0) -> list[str]:
        """The command line of executor `executor`; `crashed`: pid of the one before if that crashed."""
        flags = {
            "agent": self.agent,
            "executor": executor,
            "node": self.node,
            "host": self.host,
            "transport": self.transport,
            "device": self.device,
            "threads": self.threads,
            "log-level": self.log_level,
            "log-format": self.log_format,
            "data-port": self.data_port,
            "data-address": self.data_address,
            "checksum": self.checksum,
            "advertised": self.advertised,
            "backend": self.backend,
            "backend-retry": int(self.backend_retry),
            "compiled-dir": self.compiled_dir,
            "compiled-bytes": self.compiled_bytes,
            "crashed": crashed,
            "keyed": int(self.keyring is not None),
            "parent": os.getpid(),
            "blackbox": blackbox,
        }
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        return [sys.executable, "-m", "stageline_stage.executor", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Our own, with the thread pools of the numeric libraries as large as torch's."""
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        fixed = {name: str(max(1, self.threads)) for name in pools}
        return {**os.environ, **fixed, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


class ExecutorProcess:
    """A running child. Must be made in the agent's main thread: the kernel kills it when that thread ends."""

    def __init__(self, launch: Launch, executor: str, crashed: int = 0) -> None:
        self.executor = executor
        self.hello: ExecutorHello | None = None
        self.progress: Progress | None = None
        self.passage: Passage | None = None
        self.io_s = 0.0
        """Processor time of its I/O thread."""
        self._blackbox = BlackBox.create()
        self._child = subprocess.Popen(
            launch.command(executor, self._blackbox.descriptor, crashed),
            stdin=subprocess.PIPE if launch.keyring is not None else subprocess.DEVNULL,
            env=launch.environment,
            pass_fds=(self._blackbox.descriptor,),
        )
        if launch.keyring is not None and self._child.stdin is not None:
            keypipe.write(self._child.stdin, launch.keyring)
        self.pid = self._child.pid
        self._pidfd = os.pidfd_open(self.pid)

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._pidfd

    @property
    def state(self) -> str:
        """The letter of proc(5)."""
        return process_state(self.pid)

    def heard(self, message: object) -> None:
        """Remember what a message of the executor says about it."""
        if isinstance(message, ExecutorHello):
            self.hello = message
        elif isinstance(message, Beat):
            self.progress, self.io_s = message.progress, message.io_s
            self.passage = message.passage

    def info(self, loaded: set[StageKey]) -> ExecutorInfo | None:
        """As the coordinator gets to know it, once it has said hello."""
        if self.hello is None:
            return None
        return ExecutorInfo(
            executor=self.executor, pid=self.pid, endpoint=self.hello.endpoint, loaded=tuple(sorted(loaded))
        )

    def kill(self) -> None:
        """SIGKILL, which a stopped process obeys too."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGKILL)

    def ended(self) -> int | None:
        """The exit code (negative: a signal), None while it runs."""
        return self._child.poll()

    def computing(self) -> tuple[int, ...]:
        """The requests that it was computing; true also after its death."""
        return self._blackbox.read()

    def close(self) -> None:
        """Free what belongs to it; it must have ended, or be killed now."""
        self.kill()
        self._child.wait()
        os.close(self._pidfd)
        self._blackbox.close()
