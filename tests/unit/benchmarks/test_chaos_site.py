"""The ground of a chaos run: what its log and its processes tell, and that nothing of it stays."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.chaos.site import Site


@pytest.fixture
def site(tmp_path):
    return Site(repository=tmp_path / "models", cascade="x", rows=[], log=tmp_path / "server.log")


def ended(status):
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
    process.wait()
    return process


def test_an_end_of_what_looks_after_the_server_is_an_alarm(site):
    """The server serves on without it, so no request would tell."""
    site.log.touch()
    site.process = ended(3)

    assert site.alarms() == ["cascade-serve ended by itself, status 3"]


def test_what_outlives_its_supervisor_is_found_and_ended(site, tmp_path):
    """A server whose supervisor is no more is nobody's child; another site's is left alone."""
    program = tmp_path / "tritonserver"
    program.symlink_to(sys.executable)
    site.process = ended(1)
    with running(program, site.repository) as orphan, running(program, "/elsewhere") as other:
        troubles = site.stop()
        orphan.wait(10)

        assert troubles == [
            "cascade-serve ended by itself, status 1",
            "it left 1 processes, 0 regions",
        ]
        assert other.poll() is None
        other.kill()


def running(program: Path, repository):
    wait = "import time; time.sleep(60)"
    return subprocess.Popen([program, "-c", wait, f"--model-repository={repository}"])
