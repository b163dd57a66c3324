"""The folder of a sweep: what was measured is kept, so that the same command goes on.

``levels-<digest>.json`` holds every level measured of one setting: server, configurations, policy
and rows. Where any of them changes another file begins, and the older one stays as it is.
``sweep.csv`` is written anew from it after every level, one line a level.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_router.errors import ServerError

from .calls import digest_of
from .levels import Level
from .measured import Measured, in_order
from .sweep_columns import COLUMNS, TIER_COLUMNS

__all__ = ["Store"]


class Store:
    """The levels measured so far of one setting.

    Args:
        folder: Where they are kept; made if it is not there.
        setting: What a level depends on besides candidate and load.
        order: Candidates that come first, in this order.
        again: What was kept when this run began counts as not measured.

    Raises:
        ServerError: If the folder cannot be written, or what is kept in it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        setting: Mapping[str, Any],
        order: Sequence[str] = (),
        *,
        again: bool = False,
    ) -> None:
        self.folder = folder
        self.setting = dict(setting)
        self._order = order
        text = json.dumps(self.setting, sort_keys=True)
        self._path = folder / f"levels-{digest_of(text.encode()).removeprefix('sha256:')[:12]}.json"
        self._levels: dict[tuple[str, Level], Measured] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._levels = {_key(one): one for one in _read(self._path)}
        except (OSError, ValueError, KeyError, TypeError) as exc:
            message = f"{self._path}: cannot be used: {exc}"
            raise ServerError(message, hint="remove it, or give another --out") from exc
        self._stale = set(self._levels) if again else set()
        # It may have been written for another setting last.
        self._write_csv()

    def get(self, candidate: str, level: Level) -> Measured | None:
        """Give what was measured; what failed is worth another try."""
        one = self._levels.get((candidate, level))
        stale = (candidate, level) in self._stale
        return None if one is None or one.state == "failed" or stale else one

    def add(self, one: Measured) -> None:
        """Keep a level and write both files.

        Raises:
            ServerError: If the folder cannot be written.
        """
        self._levels[_key(one)] = one
        self._stale.discard(_key(one))
        kept = [level.as_json() for level in self.all()]
        self._write(self._path, json.dumps({"setting": self.setting, "levels": kept}, indent=1))
        self._write_csv()

    def all(self) -> list[Measured]:
        """Give everything measured of this setting."""
        return in_order(self._levels.values(), self._order)

    @property
    def csv(self) -> Path:
        """Where the CSV is."""
        return self.folder / "sweep.csv"

    def _write_csv(self) -> None:
        """Write the CSV of this setting."""
        out = io.StringIO()
        tiers = [str(name) for name in self.setting["tiers"]]
        names = [f"{key}_{tier}" for tier in tiers for key in TIER_COLUMNS]
        writer = csv.DictWriter(out, [*COLUMNS, *names], lineterminator="\n")
        writer.writeheader()
        for one in self.all():
            line = one.as_json()
            for tier in line.pop("tiers"):
                line |= {f"{key}_{tier['tier']}": tier[key] for key in TIER_COLUMNS}
            writer.writerow(line)
        self._write(self.csv, out.getvalue())

    def _write(self, path: Path, text: str) -> None:
        new = path.with_name(path.name + ".new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        except OSError as exc:
            message = f"{path}: cannot be written: {exc.strerror}"
            raise ServerError(message, hint="give another --out") from exc


def _key(one: Measured) -> tuple[str, Level]:
    return one.candidate, one.level


def _read(path: Path) -> list[Measured]:
    return [Measured.from_json(values) for values in json.loads(path.read_text())["levels"]]
