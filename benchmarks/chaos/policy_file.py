"""``policy.json`` truncated, garbage, foreign, unreadable, and replaced all the time."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .fault import Report, Tally, Tell, often
from .grounds import pitch
from .kill import settle
from .site import Site
from .traffic import Pace

__all__ = ["PolicyFile"]

_PACE = Pace(rate=40.0, deadline_ms=None)
_LOOK_EVERY = 20
"""Replacements between two looks at what the cascade says of its policy."""

Put = Callable[[Path], None]
Spoil = Callable[[dict[str, Any], np.random.Generator], bytes | Put]
"""Bytes of a file that must not serve, or what puts something there that is no file at all."""


def _truncated(good: dict[str, Any], rng: np.random.Generator) -> bytes:
    text = json.dumps(good).encode()
    return text[: int(rng.integers(0, len(text)))]


def _garbage(_: dict[str, Any], rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 4096)))


def _nested(_: dict[str, Any], rng: np.random.Generator) -> bytes:
    return b"[" * int(rng.integers(10_000, 200_000))


def _foreign_expert(good: dict[str, Any], rng: np.random.Generator) -> bytes:
    other = copy.deepcopy(good)
    tier = int(rng.integers(len(other["tiers"])))
    other["tiers"][tier]["digest"] = "sha256:" + rng.bytes(32).hex()
    return json.dumps(other).encode()


def _foreign_cascade(good: dict[str, Any], _: np.random.Generator) -> bytes:
    return json.dumps(good | {"cascade": "another"}).encode()


def _other_classes(good: dict[str, Any], _: np.random.Generator) -> bytes:
    return json.dumps(good | {"n_classes": good["n_classes"] + 1}).encode()


def _fewer_tiers(good: dict[str, Any], _: np.random.Generator) -> bytes:
    return json.dumps(good | {"tiers": good["tiers"][:-1]}).encode()


def _wrong_type(good: dict[str, Any], rng: np.random.Generator) -> bytes:
    keys = ("schema", "cascade", "activation", "n_classes", "tiers", "points", "default")
    key = keys[int(rng.integers(len(keys)))]
    values = [None, 7, "x", [], {}, True, [[1]], 1e400]
    return json.dumps(good | {key: values[int(rng.integers(len(values)))]}).encode()


def _dangling(_good: dict[str, Any], _: np.random.Generator) -> Put:
    return lambda path: path.symlink_to("nowhere")


def _pipe(_good: dict[str, Any], _: np.random.Generator) -> Put:
    return os.mkfifo


def _endless(_good: dict[str, Any], _: np.random.Generator) -> Put:
    return lambda path: path.symlink_to("/dev/zero")


_SPOILS: tuple[Spoil, ...] = (
    _truncated,
    _garbage,
    _nested,
    _foreign_expert,
    _foreign_cascade,
    _other_classes,
    _fewer_tiers,
    _wrong_type,
    _dangling,
    _pipe,
    _endless,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """Replace the policy file of a running cascade by bad ones, and now and then by a good one.

    Attributes:
        times: Replacements in all.
        seed: Of what is written.
        between_s: From one to the next; longer than a quarter of a second, so that each is seen.
        taken_s: A good policy must answer within this time; every instance looks four times a
            second.
    """

    name: ClassVar[str] = "policy-file"
    ground = staticmethod(pitch)
    required: ClassVar[str] = "the last good policy serves, the refusal is reported"
    times: int = 1000
    seed: int = 5
    between_s: float = 0.3
    taken_s: float = 1.5

    @property
    def what(self) -> str:
        """The fault in words."""
        return (
            "policy file truncated, garbage, foreign, unreadable, a pipe, endless, "
            f"replaced {often(self.times)} while serving"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Replace, ask, look; every so often a good policy must be taken."""
        rng = np.random.default_rng(self.seed)
        tally = Tally()
        taken = 0
        path = site.router_folder / "policy.json"
        good = [_with_thresholds(site.policy, t) for t in (None, 0.5, 0.7)]
        asks = site.questions_under(good)
        now = refused = 0
        site.seen("policy refused")
        with _kept(path), site.traffic(_PACE, asks[now]) as traffic:
            settle(traffic, range(len(site.tier_models)))
            for i in range(1, self.times + 1):
                spoil = _SPOILS[i % len(_SPOILS)]
                # Of other thresholds than those in force: were it taken, the answers would tell.
                _put(path, spoil(good[now - 1], rng))
                tally.times += 1
                time.sleep(self.between_s)
                if i % _LOOK_EVERY and i != self.times:
                    continue
                said = f"replacement {i} ({spoil.__name__.strip('_')})"
                # Before the control model is asked, which reads the file, too.
                seen = self._routers_refused(site)
                refused += seen
                tally.demand(seen > 0, f"{said}: no router has refused any since the last look")
                tally.demand(_refused(site) is not None, f"{said}: no refusal is reported")
                now, before = (now + 1) % len(good), now
                traffic.ask(asks[before], or_as=asks[now])
                _put(path, json.dumps(good[now]).encode())
                time.sleep(self.taken_s)
                traffic.ask(asks[now])  # from here on no other policy may answer
                taken += (refusal := _refused(site)) is None
                tally.demand(refusal is None, f"{said}: a good one after it: {refusal}")
                tell(f"{said}: {seen} refusals logged, a good one taken")
                site.seen("policy refused")
        time.sleep(self.taken_s)
        note = (
            f"routers refused {refused:,} times; {taken} good ones between them, each in force "
            f"within {self.taken_s:g} s"
        )
        return tally.report([traffic], site, note, good=taken, refusals_logged=refused)

    def _routers_refused(self, site: Site) -> int:
        """Count the refusals that routers have logged since the last look; wait for the first."""
        end = time.monotonic() + self.taken_s
        while not (seen := site.seen("policy refused")) and time.monotonic() < end:
            time.sleep(0.05)
        return seen


def _refused(site: Site) -> str | None:
    with site.client() as client:
        return client.policy().refused


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Put a file back as it was in the end: the next fault may be done on the same ground."""
    original = path.read_bytes()
    try:
        yield
    finally:
        _put(path, original)


def _put(path: Path, what: bytes | Put) -> None:
    """Put something in the file's place, in one step."""
    draft = path.with_name("policy.draft")
    if isinstance(what, bytes):
        draft.write_bytes(what)
    else:
        what(draft)
    draft.replace(path)


def _with_thresholds(policy: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    """Make a policy of the same points with other thresholds; None: as it is."""
    values = copy.deepcopy(policy)
    if threshold is not None:
        for point in values["points"]:
            for gate in point["gates"][:-1]:
                gate["threshold"] = threshold
    return values
