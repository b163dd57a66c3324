"""The policy in force: ``policy.json``, and the default point an operator has switched to.

Both lie in the router's version folder and may change while the server runs. Each router instance
looks at them a few times a second and swaps one reference; what cannot be used is refused and the
last good policy stays. ``switch.json`` is written by the control model alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from .errors import PolicyError
from .files import read_text
from .manifest import check_policy, read_manifest
from .policy import Policy
from .strict import Table

__all__ = ["PERIOD_S", "ServedPolicy", "Switch"]

PERIOD_S = 0.25
"""How often a running router looks for a change, in seconds."""

_KEPT_CHANGES = 100
_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, ...], ...]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The operator's choice of the default point, and who made it.

    Attributes:
        default: Name of the point; None: the policy's own default.
        changes: Newest last: ``when``, ``who``, ``was``, ``point``; at most 100.
    """

    default: str | None = None
    changes: tuple[dict[str, str], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Switch:
        """Read ``switch.json``; without one nothing was switched.

        Raises:
            PolicyError: If it is there and broken.
        """
        path = folder / "switch.json"
        try:
            values = json.loads(read_text(path))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, RecursionError) as exc:
            message = f"switch.json: cannot be read: {exc}"
            raise PolicyError(message, hint="delete it, or `cascade-client policy set`") from exc
        table = Table(values, "switch.json", PolicyError)
        switch = cls(default=table.text("default"), changes=tuple(table.items("changes", [])))
        table.done()
        return switch

    def to(self, point: str, *, was: str, who: str, when: str) -> Switch:
        """Choose another point and record it."""
        change = {"when": when, "who": who, "was": was, "point": point}
        return Switch(default=point, changes=(*self.changes, change)[-_KEPT_CHANGES:])

    def write(self, folder: Path) -> None:
        """Replace ``switch.json`` in one step, safely on disk before it is seen."""
        path, draft = folder / "switch.json", folder / "switch.json.tmp"
        text = json.dumps({"default": self.default, "changes": list(self.changes)}, indent=1)
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # what a full disk took half of


class ServedPolicy:
    """Holds the policy in force and follows the files.

    Attributes:
        policy: Immutable; a new one is another object.
        switch: The operator's choice.
        refused: Why the files as they are now are not in force; None: they are.

    Args:
        folder: The router's version folder.
        clock: Says the time for records of changes.

    Raises:
        PolicyError: If there is no usable policy to begin with.
    """

    def __init__(self, folder: Path, clock: Callable[[], str] = _now) -> None:
        self._folder = folder
        self._clock = clock
        self._stamp = self._stamps()
        self.refused: str | None = None
        self.policy, self.switch = self._read(None)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)

    def follow(self) -> None:
        """Look for changes from now on, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def refresh(self) -> None:
        """Take what the files say now, or keep the last good policy and say why."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.policy, self.switch = self._read(self.policy)
        except PolicyError as error:
            self._refuse(str(error))
            if isinstance(error.__cause__, OSError):
                self._stamp = ()  # looked at again: it may be the disk's fault, or a full table
        except Exception as exc:  # noqa: BLE001  # whatever a broken file makes of its reader
            self._refuse(f"the policy's files cannot be used: {type(exc).__name__}: {exc}")
        else:
            self.refused = None

    def _refuse(self, why: str) -> None:
        if why != self.refused:
            _log.error("policy refused, the last good one stays: %s", why)
        self.refused = why

    def set_default(self, point: str, who: str) -> None:
        """Switch every router of this cascade to another default point, and record it.

        Raises:
            RequestError: If there is no such point.
            PolicyError: If the policy is refused, so that nothing would come of it.
            OSError: If it cannot be written.
        """
        self.refresh()
        if self.refused is not None:
            self._usable(self.policy)  # a broken switch.json is what this replaces
        self.policy.index(point)
        switch = self.switch.to(point, was=self.policy.default, who=who, when=self._clock())
        switch.write(self._folder)
        self.refresh()

    def _usable(self, before: Policy | None) -> Policy:
        """Read the policy and hold it against what runs."""
        policy = Policy.read(self._folder / "policy.json")
        check_policy(policy, read_manifest(self._folder))
        if before is not None and _tiers(policy) != _tiers(before):
            message = f"policy.json: has tiers {_shown(policy)}, the router runs {_shown(before)}"
            raise PolicyError(message, hint="load experts and router anew")
        if before is not None and policy.n_classes != before.n_classes:
            n = f"{policy.n_classes} classes, the router's experts have {before.n_classes}"
            message = f"policy.json: is for {n}"
            raise PolicyError(message, hint="run `cascade-builder calibrate`")
        return policy

    def _read(self, before: Policy | None) -> tuple[Policy, Switch]:
        policy = self._usable(before)
        switch = Switch.read(self._folder)
        if switch.default in policy.point_names:
            policy = dataclasses.replace(policy, default=switch.default)
        return policy, switch

    def _stamps(self) -> Stamp:
        """Tell the files' state apart: a replaced file has another inode, an edited one a time.

        The time of the last change, of rights and names too: a file that could not be read may have
        become readable, and a copy may bring an old time of its own along.
        """
        stamps: list[tuple[int, ...]] = []
        for name in ("policy.json", "switch.json", "manifest.json"):
            try:
                stat = (self._folder / name).stat()
            except OSError:
                stamps.append(())
            else:
                times = (stat.st_mtime_ns, stat.st_ctime_ns)
                stamps.append((stat.st_ino, *times, stat.st_size))
        return tuple(stamps)

    def _work(self) -> None:
        while not self._closed.wait(PERIOD_S):
            try:
                self.refresh()
            except Exception:  # noqa: BLE001  # a watcher that dies would never switch again
                _log.exception("the policy files could not be looked at")


def _tiers(policy: Policy) -> list[tuple[str, str]]:
    """Say what a policy was made for: an expert that was built anew runs only once it is loaded."""
    return [(tier.name, tier.digest) for tier in policy.tiers]


def _shown(policy: Policy) -> str:
    return ", ".join(f"{tier.name} {tier.digest[:19]}" for tier in policy.tiers)
