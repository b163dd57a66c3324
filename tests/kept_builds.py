"""Experts that tests build are kept in build/, as the demo's are, so that each is built once."""

import fcntl
from contextlib import contextmanager
from pathlib import Path

from cascade_builder.build import build

__all__ = ["FOLDER", "build_kept", "builder"]

FOLDER = Path(__file__).parents[1] / "build"


@contextmanager
def builder():
    """Be the only one of the test processes that builds there: a second build would be refused."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / ".tests.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_kept(spec, repository):
    """Lay a cascade out; its experts are taken from where they were built before."""
    with builder():
        build(spec, repository, artifacts_folder=FOLDER)
