"""A disk that is full, and one that is read-only, under a server that goes on serving."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile, ZipFile

import numpy as np

from cascade_builder import policy_file
from cascade_router import Policy
from cascade_router.errors import CascadeError

from .editions import FIRST, answers, command, spec_of, swapped
from .fault import Report, Tally, Tell
from .grounds import nowhere
from .kill import settle
from .site import Site
from .traffic import Pace

__all__ = ["Disk"]

_DISK_BYTES = 24 * 2**20
_PIECE_BYTES = 2**16
_BUILT = "built.json"
_PACE = Pace(rate=60.0, deadline_ms=None)
_OTHER = FIRST.with_variant("large").with_variant("small")
_REASONS = ("No space left on device", "Read-only file system")
"""One of these must be in what the operator reads."""

_MS_RDONLY, _MS_REMOUNT = 1, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Try every writer of the toolkit on a disk that refuses; then on one that takes again.

    Repository and server live on a small file system of their own, in a mount namespace of their
    own, so that nothing else is touched and root is refused like anybody else.

    Attributes:
        times: Rounds over all writers.
    """

    name: ClassVar[str] = "disk"
    ground = staticmethod(nowhere)
    required: ClassVar[str] = "old state intact"
    times: int = 5

    @property
    def what(self) -> str:
        """The fault in words."""
        return (
            "disk full, from the start or half-way, and read-only while building and while "
            "writing policy"
        )

    def run(self, scratch: Path, tell: Tell) -> Report:
        """Do it in a process that has the mounts to itself."""
        alone = ["unshare", "--user", "--map-root-user", "--mount"]
        if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
            return Report(skipped="this machine gives processes no mount namespace of their own")
        program = [sys.executable, "-m", __spec__.name, str(scratch.resolve()), str(self.times)]
        root = Path(__file__).parents[2]
        last = ""
        with subprocess.Popen(
            [*alone, *program], stdout=subprocess.PIPE, text=True, cwd=root
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if last:
                        tell(last)
                    last = line.strip()
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            return Report(broken=[f"it ended with status {process.returncode}: {last}"])
        return Report(**json.loads(last))


def _inside(scratch: Path, times: int, tell: Tell) -> Report:
    disk = scratch / "disk"
    disk.mkdir()
    _mount(disk, flags=0)
    tally = Tally()
    site = swapped(scratch, disk)
    shutil.copytree(site.repository, _idle(site))
    with site:
        expected = answers(np.stack(site.rows))
        with site.traffic(_PACE, expected[FIRST]) as traffic:
            settle(traffic, range(1))
            for i in range(times):
                for where, refusing, writer in _trials(np.random.default_rng([15, i])):
                    _one(site, disk, refusing, writer, tally, f"round {i + 1}, {where}")
                    tally.times += 1
                    tell(f"round {i + 1} of {times}: {where}")
            traffic.ask(expected[FIRST], or_as=expected[_OTHER])
            failed = _deploy(site)
            tally.demand(failed is None, f"with room again it is still refused: {failed}")
            traffic.ask(expected[_OTHER if failed is None else FIRST])
            back = traffic.wait_whole(time.monotonic(), tiers=range(1), within_s=15.0)
            tally.demand(back is not None, "the cascade no longer serves")
        note = "build, deploy, policy, switch: each refused, no file changed or left behind"
        return tally.report([traffic], site, note)


Writer = Callable[[Site], str | None]
"""Tries to write; gives the refusal where it comes as a text, not as an error."""


def _build_experts(site: Site) -> str | None:
    """Build other experts into a repository that nobody serves; they are kept on this disk, too."""
    return command(spec_of(site.log.parent), _idle(site), _OTHER, "build")


def _build(site: Site) -> str | None:
    """Do the same with experts that are kept elsewhere: only the repository is refused."""
    elsewhere = site.log.parent.resolve() / "kept"
    return command(spec_of(site.log.parent), _idle(site), _OTHER, "build", artifacts=elsewhere)


def _deploy(site: Site) -> str | None:
    """Swap experts in the repository that is served."""
    elsewhere = site.log.parent.resolve() / "kept"
    folder = spec_of(site.log.parent)
    url = ("--url", site.grpc_url)
    return command(folder, site.repository, _OTHER, "deploy", *url, artifacts=elsewhere)


def _place_policy(site: Site) -> None:
    """Put another policy in force, as calibrating does."""
    policy = Policy.from_json((site.router_folder / "policy.json").read_text())
    larger = replace(policy, provenance={"filler": "x" * 200_000})
    policy_file.place(larger, site.router_folder)


def _switch(site: Site) -> None:
    """Switch the default point, as an operator does."""
    with site.client() as client:
        client.set_point("only", who="x" * 90)


_WRITERS: Mapping[Writer, int] = {
    _build_experts: 12,
    _build: 12,
    _deploy: 12,
    _place_policy: 3,
    _switch: 0,
}
"""Each with the most pieces of ``_PIECE_BYTES`` that are too little for it."""

Refusing = Callable[[Path], AbstractContextManager[None]]


def _trials(rng: np.random.Generator) -> Iterator[tuple[str, Refusing, Writer]]:
    """Let every writer meet a full disk, one that becomes full while it writes, and a dead one."""
    for writer, most in _WRITERS.items():
        name = writer.__name__.strip("_")
        yield f"full, {name}", _full, writer
        if most:
            pieces = int(rng.integers(1, most + 1))
            room = pieces * _PIECE_BYTES
            yield f"room for {room:,} bytes, {name}", partial(_full, room=room), writer
        yield f"read-only, {name}", _read_only, writer


def _idle(site: Site) -> Path:
    """Say where the repository lies that nobody serves."""
    return site.repository.parent / "idle"


def _one(
    site: Site,
    disk: Path,
    refusing: Refusing,
    writer: Writer,
    tally: Tally,
    where: str,
) -> None:
    """Let one writer meet one refusal, and compare every file of the disk before and after.

    What a build had made whole before it was refused is kept for the next one, as promised; here it
    is taken away again, so that the next one has as much to do.
    """
    before = _state(disk)
    with refusing(disk):
        try:
            refusal = writer(site) or "not at all"
        except CascadeError as error:
            refusal = str(error)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is no clear error
            refusal = f"Traceback: {type(exc).__name__}: {exc}"
    clear = any(reason in refusal for reason in _REASONS)
    tally.demand(clear and "Traceback" not in refusal, f"{where}: not refused clearly: {refusal}")
    after = _state(disk)
    differing = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    made = [disk / name for name in differing if name in after and _is_whole(disk, name)]
    harmed = [name for name in differing if disk / name not in made]
    tally.demand(not harmed, f"{where}: these differ afterwards: {', '.join(harmed[:5])}")
    for folder in {path.parent for path in made if path.name == _BUILT}:
        shutil.rmtree(folder)


def _is_whole(disk: Path, name: str) -> bool:
    """Say whether a file is what a build keeps: notes and rows that can be read, parts of experts.

    An expert has a list of its files with their digests, written when all of them are there.
    """
    path = disk / name
    if Path(name).parts[0] != "build":
        return False
    try:
        if path.suffix == ".json":
            return isinstance(json.loads(path.read_bytes()), dict)
        if path.suffix == ".npz":
            return ZipFile(path).testzip() is None
        listed = json.loads((path.parent / _BUILT).read_bytes())["files"][path.name]["digest"]
    except (OSError, ValueError, KeyError, BadZipFile):
        return False
    return bool(listed == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")


@contextmanager
def _full(disk: Path, room: int = 0) -> Iterator[None]:
    """Fill the disk to the last block, or but for some bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for size in (2**16, 2**12, 1):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
            file.truncate(file.tell() - room)
            yield
        finally:
            filler.unlink()


@contextmanager
def _read_only(disk: Path) -> Iterator[None]:
    _mount(disk, flags=_MS_REMOUNT | _MS_RDONLY)
    try:
        yield
    finally:
        _mount(disk, flags=_MS_REMOUNT)


def _mount(target: Path, *, flags: int) -> None:
    """Mount a file system in memory; the command would need a table of mounts it may not write."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (
        b"tmpfs",
        os.fsencode(target),
        b"tmpfs",
        ctypes.c_ulong(flags),
        f"size={_DISK_BYTES}".encode(),
    )
    if libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))


def _state(disk: Path) -> dict[str, str]:
    """Say what every file holds."""
    return {
        str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _report = _inside(Path(sys.argv[1]), int(sys.argv[2]), lambda text: print(text, flush=True))
    print(json.dumps(asdict(_report)))
