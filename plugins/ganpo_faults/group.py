"""One run in one process, or in several that talk over gloo: started, killed and awaited together."""

from __future__ import annotations

import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ganpo_faults.site import Process, Site


@dataclass(frozen=True)
class Group:
    """The processes of one run, by rank."""

    processes: tuple[Process, ...]

    def kill(self, rank: int) -> bool:
        """kill -9 one of them, and the rest as a launcher would that has lost one; whether it was there to be killed."""
        self.processes[rank].kill()
        for process in self.processes:
            if process.wait(0) is None:
                process.kill()
        return self.processes[rank].wait(0) == -signal.SIGKILL

    def stop(self, rank: int) -> None:
        """Hold one of them where it is."""
        self.processes[rank].send(signal.SIGSTOP)

    def go_on(self, rank: int) -> None:
        """Let it go on."""
        self.processes[rank].send(signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether none has ended."""
        return all(process.wait(0) is None for process in self.processes)

    def wait(self, timeout: float = 180.0) -> int | None:
        """The first exit code that is not 0, or 0; None, and all killed, where one does not end."""
        deadline = time.monotonic() + timeout
        codes = [process.wait(max(0.0, deadline - time.monotonic())) for process in self.processes]
        if None in codes:
            for process, code in zip(self.processes, codes, strict=True):
                if code is None:
                    process.kill()
            return None
        return next((code for code in codes if code), 0)


def start_group(site: Site, run_file: Path, size: int) -> Group:
    """`ganpo train RUN_FILE --resume` in `size` processes."""
    if size == 1:
        return Group((site.start("train", run_file, "--resume", log=f"{run_file.stem}.log"),))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    return Group(
        tuple(
            site.start(
                "train",
                run_file,
                "--resume",
                log=f"{run_file.stem}.{rank}.log",
                environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(size)
        )
    )
