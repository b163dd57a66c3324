"""What has been recorded so far, in a folder beside the file it becomes.

    records-parts/key.json                      what it is a recording of
    records-parts/0000000000-0000000256.npz     rows 0 to 255 of those wanted
    records-parts/....npy                       while the shards are put together

A shard appears whole or not at all, so an interrupted recording goes on after its last one.
Shapes: n rows of one shard, N of all, C classes, K tiers, T kept logits.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError
from cascade_router.scores import Floats

from .records import Top

__all__ = ["Shard", "Shards", "changes"]

_TOP = tuple(part.name for part in fields(Top))
_FORMAT: Any = np.lib.format  # not typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A part of the records.

    Attributes:
        numbers: (n,) int64, which rows of the data set.
        ids: (n,) int64, digests of the canonical rows.
        tiers: K of (n, C) float32, or the ``Top`` of them.
        bad: Rows that were left out: name and reason.
    """

    numbers: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    tiers: Sequence[Floats | Top]
    bad: Sequence[tuple[str, str]] = ()

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Lay out as arrays that grow with the rows."""
        arrays: dict[str, npt.NDArray[Any]] = {"numbers": self.numbers, "ids": self.ids}
        for k, tier in enumerate(self.tiers):
            if isinstance(tier, Top):
                arrays |= {f"tier{k}_{part}": getattr(tier, part) for part in _TOP}
            else:
                arrays[f"tier{k}_logits"] = tier
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]], bad: Sequence[tuple[str, str]]) -> Shard:
        """Read what ``arrays`` laid out."""
        tiers: list[Floats | Top] = []
        while (whole := f"tier{len(tiers)}_logits") in arrays:
            names = {part: f"tier{len(tiers)}_{part}" for part in _TOP}
            if all(name in arrays for name in names.values()):
                tiers.append(Top(**{part: arrays[name] for part, name in names.items()}))
            else:
                tiers.append(arrays[whole])
        return cls(numbers=arrays["numbers"], ids=arrays["ids"], tiers=tiers, bad=bad)


class Shards:
    """The folder; held by one recording at a time.

    Args:
        out: The file that the shards become.
        key: What is recorded, as JSON; another one makes the shards useless.
    """

    def __init__(self, out: Path, key: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.stem}-parts")
        self._key = json.loads(json.dumps(key))
        self._found: list[Path] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep others out of it.

        Raises:
            RecordsError: If another recording holds it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The lock lies beside the folder, which is removed when all is done.
            lock = self.folder.with_suffix(".lock").open("w")
        except OSError as exc:
            message = f"{self.folder}: cannot be written: {exc}"
            raise RecordsError(message, hint="check free space and rights, or give --out") from exc
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                message = f"{self.folder}: another recording writes there"
                raise RecordsError(message, hint="wait for it, or give another --out") from exc
            yield

    def resume(self, *, fresh: bool = False) -> tuple[int, str | None]:
        """Find what is there; what does not belong to this recording is removed.

        Args:
            fresh: Remove everything.

        Returns:
            How many of the wanted rows are done, and why earlier shards were removed; None: none
            were.
        """
        stamp, reason = self.folder / "key.json", None
        if not stamp.is_file() and any(self.folder.iterdir()):
            message = f"{self.folder}: holds files that no recording wrote"
            raise RecordsError(message, hint="give another --out, or remove that folder")
        if stamp.is_file():
            try:
                reason = changes(json.loads(stamp.read_bytes()), self._key)
            except ValueError:
                reason = "key.json is broken"
            if fresh:
                reason = "asked for"
        if reason is not None or not stamp.is_file():
            for path in self.folder.iterdir():
                path.unlink()
            _write(stamp, json.dumps(self._key, indent=2).encode())
        done = 0
        self._found = []
        for path in sorted(self.folder.glob("*.npz")):
            start, stop = map(int, path.stem.split("-"))
            if start != done or not zipfile.is_zipfile(path):
                path.unlink()
                continue
            self._found.append(path)
            done = stop
        return done, reason

    def write(self, start: int, stop: int, shard: Shard) -> None:
        """Keep a shard.

        Args:
            start: First of the wanted rows that it covers; the last shard's ``stop``.
            stop: One past the last.
            shard: What was recorded, without the rows left out.
        """
        path = self.folder / f"{start:010d}-{stop:010d}.npz"
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                np.savez(file, bad=np.array(json.dumps(shard.bad)), **shard.arrays())
            temporary.replace(path)
        except OSError as exc:
            message = f"{path}: cannot be written: {exc}"
            raise RecordsError(message, hint="check free space and rights") from exc
        self._found.append(path)

    def merged(self) -> Shard:
        """Put all shards together; arrays lie in files, so that any number fits in memory."""
        total = sum(len(shard.numbers) for shard in self._read())
        arrays: dict[str, npt.NDArray[Any]] = {}
        bad: list[tuple[str, str]] = []
        filled = 0
        for shard in self._read():
            n = len(shard.numbers)
            for name, values in shard.arrays().items():
                if name not in arrays:
                    arrays[name] = self._array(name, (total, *values.shape[1:]), values.dtype)
                arrays[name][filled : filled + n] = values
            filled += n
            bad += shard.bad
        return Shard.of(arrays, bad)

    def remove(self) -> None:
        """Remove the folder: the file it became is there."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".lock").unlink(missing_ok=True)

    def _read(self) -> Iterator[Shard]:
        for path in self._found:
            try:
                with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
                message = f"{path}: cannot be read: {exc}"
                raise RecordsError(message, hint="record with --fresh") from exc
            bad = [(str(name), str(why)) for name, why in json.loads(str(arrays.pop("bad")))]
            yield Shard.of(arrays, bad)

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        if 0 in shape:
            return np.empty(shape, dtype)  # an empty file cannot be mapped
        path = self.folder / f"{name}.npy"
        array: npt.NDArray[Any] = _FORMAT.open_memmap(path, "w+", dtype, shape)
        return array


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Say what differs between two keys; None: nothing."""
    names = []
    for name in new:
        before, after = old.get(name), new[name]
        if isinstance(before, dict) and isinstance(after, dict) and list(before) == list(after):
            names += [f"{name} {part}" for part in after if before[part] != after[part]]
        elif before != after:
            names.append(name)
    if not names and dict(old) != dict(new):
        names = ["another release"]
    return f"{', '.join(names)} changed" if names else None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(data)
    temporary.replace(path)
