"""`cascade-serve` as a process of its own, as an operator has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from cascade_router.serve import free_ports
from cascade_router.supervision.processes import Process, stubs_of

SERVE = str(Path(sys.executable).parent / "cascade-serve")


class Served:
    """A running `cascade-serve`."""

    def __init__(self, folder, repository, *flags, ports=None):
        self.ports = ports or free_ports()
        self.log = folder / f"log-{time.monotonic_ns()}"
        self.repository = repository
        self._flags = (
            f"--model-repository={repository}",
            f"--http-port={self.ports.http}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-port={self.ports.metrics}",
            "--health-port=0",
            "--look-s=1",
            *flags,
        )

    def __enter__(self):
        with self.log.open("wb") as out:
            self.process = subprocess.Popen([SERVE, *self._flags], stderr=out)
        try:
            self.until(lambda: self.state()["ready"], 90)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    @property
    def url(self):
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def told(self):
        return self.log.read_text(errors="replace")

    @property
    def server(self):
        """Process number of tritonserver."""
        for entry in Path("/proc").glob("[0-9]*"):
            found = Process.read(int(entry.name))
            if found and found.parent == self.process.pid and found.program == "tritonserver":
                return found.pid
        return 0

    @property
    def mark(self):
        line = Path(f"/proc/{self.server}/cmdline").read_text()
        return re.search(r"shm-region-prefix-name=(cascade_serve_\w+)", line)[1]

    def state(self):
        found = re.search(r"readiness at (\S+)", self.told)
        if found is None:
            return {"ready": False}
        try:
            with urllib.request.urlopen(found[1], timeout=5) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)
        except OSError:
            return {"ready": False}

    def until(self, holds, seconds):
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.told
            assert time.monotonic() < end, f"{self.state()}\n{self.told}"
            threading.Event().wait(0.1)

    def kill_stubs(self, model, most=9):
        found = [one for one in stubs_of(self.server) if one.model == model and not one.dead]
        assert found
        for one in found[:most]:
            os.kill(one.process.pid, signal.SIGKILL)
