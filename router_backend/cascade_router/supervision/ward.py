"""The models of a server: looked at by canaries, told of, and revived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from .canary import Shown, ask_model, ask_tier, cascades_of, shown
from .health import Health, Patience, State
from .news import News
from .processes import Stub
from .stub_watch import StubWatch
from .triton import Ask, Known, Outcome, Reply, Triton, Version

__all__ = ["Ward"]

CANARY_S = 3.0
"""Longest wait for a canary, in seconds."""

LOAD_S = 120.0
"""Longest wait for a model to load, in seconds."""

_ALONE = -1  # instead of a tier
_EXPERT, _ROUTER, _ENSEMBLE = range(3)  # who calls whom: the higher the lower


class Ward:
    """Looks after the models of one server.

    Args:
        triton: The server.
        tell: Takes a line for each change.
        stubs: Looks at the processes of its models; None: they cannot be seen.
        patience: How long is waited for what.
        clock: Seconds, monotonic.

    Attributes:
        fault: Why the server tells nothing; None: it does.
    """

    def __init__(
        self,
        triton: Triton,
        tell: Callable[[str], None],
        *,
        stubs: StubWatch | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._triton = triton
        self._tell = tell
        self._stubs = stubs
        self._patience = patience or Patience()
        self._clock = clock
        self._health: dict[str, Health] = {}
        self._known: dict[str, Known] = {}
        self._versions: dict[str, tuple[str, ...]] = {}
        self._shown: dict[str, Shown] = {}
        self._chains: dict[str, list[str | None]] = {}
        self._work: dict[str, int] = {}
        self._doubted: set[str] = set()
        self._news = News(tell)
        self.fault: str | None = "not looked at yet"

    @property
    def ready(self) -> bool:
        """Whether the last look found every model and every tier of every cascade serving."""
        return (
            self.fault is None
            and bool(self._health)
            and all(h.well or h.state is State.UNLOADED for h in self._health.values())
            and all(why is None for chain in self._chains.values() for why in chain)
        )

    def report(self) -> dict[str, Any]:
        """Tell what was found, for machines."""
        return {
            "fault": self.fault,
            "models": {
                name: {"state": h.state.value, "why": h.why, "revivals": h.revivals}
                for name, h in sorted(self._health.items())
            },
            "cascades": {
                cascade: [
                    {"tier": k, "model": model, "serves": why is None, "why": why or ""}
                    for k, (model, why) in enumerate(
                        zip(self._shown.get(cascade, Shown()).tiers, chain, strict=False)
                    )
                ]
                for cascade, chain in sorted(self._chains.items())
            },
        }

    def glance(self) -> bool:
        """Look for dead processes only, which costs next to nothing; say whether there are new."""
        self._tidy()
        dead = self._stubs.dead() if self._stubs is not None else []
        found = [stub for stub in dead if not self._on_trial(stub)]
        for stub in found:
            health = self._health.get(stub.model)
            if health is not None and health.state is not State.UNLOADED:
                why = f"its process {stub.process.pid} is dead or was stopped"
                health.lost(why, self._clock())
                self._announce()
        return bool(found)

    def layers(self) -> list[list[str]]:
        """Name what is loaded, those first that call others: the order to take it away in."""
        layers: list[list[str]] = [[], [], []]
        for name in sorted(self._known):
            layers[_ENSEMBLE - self._rank(name)].append(name)
        return [layer for layer in layers if layer]

    def look(self) -> None:
        """Send canaries through every model and every tier, and take in how they fared."""
        index = self._triton.index()
        if isinstance(index, str):
            self.fault = index
            self._announce()
            return
        self.fault = None
        ready = self._take_in(index)
        chains = self._chain_asks(ready)
        asks = self._model_asks(ready) | chains
        replies = dict(zip(asks, self._triton.ask(list(asks.values()), CANARY_S), strict=True))
        # Loaded anew in place, it may want other rows by now.
        self._doubted = {asks[k].model for k, r in replies.items() if r.outcome is Outcome.FAILED}
        worked = self._worked()
        now = self._clock()
        for name in ready:
            reply = replies.get((name, _ALONE))
            health = self._health[name]
            if reply is None:
                health.loaded(now)
            else:
                health.observe(reply, own=self._is_own(name, reply), works=name in worked, now=now)
        self._name_culprits(replies, now)
        self._judge({key: replies[key] for key in chains}, worked)
        for cascade in self._shown:
            told = shown(cascade, replies.get((f"{cascade}_control", _ALONE), _NOTHING))
            if told.tiers:
                self._shown[cascade] = told
        self._announce()

    def revive(self) -> bool:
        """Load anew what is due: experts before routers before ensembles; say whether any was."""
        due = [h for h in self._health.values() if h.due(self._clock()) and not self._waits(h)]
        if not due:
            return False
        lowest = min(self._rank(h.model) for h in due)
        self._load_anew([h for h in due if self._rank(h.model) == lowest])
        return True

    def _waits(self, health: Health) -> bool:
        """Say whether a router may be silent only for a tier of its own, which is sick."""
        told = self._shown.get(health.model.removesuffix("_router"), Shown())
        below = (self._health.get(model) for model in told.tiers)
        return not health.certain and any(h is not None and h.state is State.SICK for h in below)

    def _load_anew(self, group: list[Health]) -> None:
        names = [h.model for h in group]
        before = self._loaded(set())
        for health in group:
            health.begin(self._clock())
        self._announce()
        if self._stubs is not None:
            self._stubs.part(names)
        # An unload that fails may be of one that is not loaded; what counts is the load.
        self._triton.unload(names)
        faults = self._triton.load(names, LOAD_S)
        # An ensemble mostly comes back by itself with what it is made of; ours to repair if not.
        fallen = before - self._loaded(before) - set(names)
        above = sorted(name for name in fallen if self._rank(name) == _ENSEMBLE)
        for name, fault in self._triton.load(above, LOAD_S).items() if above else ():
            if name in self._health:
                self._health[name].begin(self._clock())
                self._health[name].end(fault, self._clock())
        self._tidy()
        for health in group:
            health.end(faults.get(health.model), self._clock())
        self._announce()

    def _tidy(self) -> None:
        for stub in self._stubs.tidy() if self._stubs is not None else ():
            pid = stub.process.pid
            self._tell(f"{stub.model}: ended its former process {pid}, which its server had kept")

    def _up(self, model: str) -> bool:
        return model in self._versions

    def _in_force(self, model: str) -> str | None:
        """Say which version of a model answers clients, if it is loaded and its cascade tells."""
        told = (one.in_force.get(model) for one in self._shown.values())
        return next((v for v in told if v in self._versions.get(model, ())), None)

    def _on_trial(self, stub: Stub) -> bool:
        """Say whether a process is of a version beside the one in force.

        A deployment tries it, and takes it away if it fails; loading the model anew would take
        both away from clients.
        """
        return self._in_force(stub.model) not in (None, stub.version)

    def _loaded(self, untold: set[str]) -> set[str]:
        """Name what is loaded; ``untold`` where the server does not tell."""
        index = self._triton.index()
        return untold if isinstance(index, str) else {v.model for v in index if v.ready}

    def _take_in(self, index: Iterable[Version]) -> dict[str, Known]:
        """Learn what is loaded; returns the models that can be asked."""
        now = self._clock()
        versions: dict[str, list[Version]] = {}
        for version in index:
            versions.setdefault(version.model, []).append(version)
        ready: dict[str, Known] = {}
        for name, found in versions.items():
            loaded = tuple(sorted(v.version for v in found if v.ready))
            if not loaded:
                if name in self._health:  # what was never loaded is nobody's loss
                    self._known.pop(name, None)
                    self._versions.pop(name, None)
                    # One of its versions may be on its way, up or down, and have no reason yet.
                    why = "; ".join(sorted({v.reason for v in found} - {"", "unloaded"}))
                    loading = any(v.state == "LOADING" for v in found)
                    self._health[name].gone(why, now, loading=loading)
                continue
            health = self._health.get(name) or Health(name, self._patience, since=now)
            before = self._versions.get(name)
            known = self._known.get(name) if before == loaded else None
            if known is None or name in self._doubted:
                known = self._triton.known(name) or known
            if known is None:
                continue
            if before not in (None, loaded) or known != self._known.get(name, known):
                health.renewed()
            self._known[name], self._versions[name], self._health[name] = known, loaded, health
            ready[name] = known
        for name in set(self._health) - set(versions):
            del self._health[name]
            self._known.pop(name, None)
            self._versions.pop(name, None)
        return ready

    def _chain_asks(self, ready: Mapping[str, Known]) -> dict[tuple[str, int], Ask]:
        asks: dict[tuple[str, int], Ask] = {}
        cascades = cascades_of(ready)
        # One of which a part is gone is not served; it is forgotten when all of it is gone.
        left = {name: one for name, one in self._shown.items() if _parts(name) & set(ready)}
        self._shown = left
        for cascade, entry in cascades.items():
            if cascade not in left or not left[cascade].tiers:
                left[cascade] = self._ask_shown(cascade)
            for tier in range(len(left[cascade].tiers)):
                ask = ask_tier(entry, tier)
                if ask is not None:
                    asks[cascade, tier] = ask
        return asks

    def _model_asks(self, ready: Mapping[str, Known]) -> dict[tuple[str, int], Ask]:
        """Ask each model alone, but for ensembles that a cascade's tiers are asked through."""
        entries = cascades_of(ready)
        asks: dict[tuple[str, int], Ask] = {}
        for name, known in ready.items():
            if name in entries and known.steps:
                continue
            # A router is asked for what it answers with the least help of others.
            ask = ask_tier(known, 0) if self._rank(name) == _ROUTER else ask_model(known)
            if ask is not None:
                asks[name, _ALONE] = replace(ask, version=self._in_force(name) or "")
        return asks

    def _ask_shown(self, cascade: str) -> Shown:
        ask = ask_model(self._known[f"{cascade}_control"])
        return Shown() if ask is None else shown(cascade, self._triton.ask([ask], CANARY_S)[0])

    def _is_own(self, model: str, reply: Reply) -> bool:
        """Say whether a failure speaks of this model, not of one that it calls."""
        rank = self._rank(model)
        if rank == _ENSEMBLE or reply.culprit not in ("", model):
            return False
        return rank != _ROUTER or reply.outcome is not Outcome.FAILED

    def _name_culprits(self, replies: Mapping[tuple[str, int], Reply], now: float) -> None:
        """Take in, once a look, what canaries say of other models than the one that was asked."""
        for name, reply in {one.culprit: one for one in replies.values()}.items():
            health = self._health.get(name)
            said_so = replies.get((name, _ALONE), _NOTHING).culprit == name
            if health is not None and health.state is not State.UNLOADED and not said_so:
                health.observe(reply, own=True, works=False, now=now)

    def _judge(self, replies: Mapping[tuple[str, int], Reply], worked: set[str]) -> None:
        chains: dict[str, list[str | None]] = {name: [] for name in self._shown}
        for (cascade, _), reply in replies.items():
            busy = reply.outcome is Outcome.LATE and f"{cascade}_router" in worked
            serves = busy or reply.outcome in (Outcome.ANSWERED, Outcome.BUSY)
            chains[cascade].append(None if serves else reply.why)
        now = self._clock()
        for cascade, chain in chains.items():
            gone = sorted(n for n in _parts(cascade) & set(self._health) if not self._up(n))
            if gone or not chain:
                missing = f"{', '.join(gone)} not loaded" if gone else "its tiers are not known"
                chain[:] = [missing] * max(len(self._shown[cascade].tiers), 1)
            entry = self._health.get(cascade)
            if entry is not None and self._up(cascade):
                # An ensemble has no process: it is well if any of its tiers answers through it.
                why = None if None in chain else chain[0]
                outcome = Outcome.ANSWERED if why is None else Outcome.FAILED
                reply = Reply(outcome=outcome, why=why or "")
                entry.observe(reply, own=False, works=False, now=now)
        self._chains = chains

    def _worked(self) -> set[str]:
        """Name the models that ran something since the last look."""
        work = self._triton.work_done()
        before, self._work = self._work, work
        return {name for name, count in work.items() if count > before.get(name, 0)}

    def _rank(self, model: str) -> int:
        known = self._known.get(model)
        if known is not None and known.steps:
            return _ENSEMBLE
        cascade = model.removesuffix("_router")
        is_router = cascade != model and f"{cascade}_control" in self._health
        return _ROUTER if is_router else _EXPERT

    def _announce(self) -> None:
        now: dict[str, tuple[str, str]] = {}
        if self.fault is None:
            now["server"] = ("answers", "")
        else:
            now["server"] = ("does not answer", self.fault)
        now |= {name: (h.state.value, h.why) for name, h in self._health.items()}
        for cascade, chain in self._chains.items():
            for tier, why in enumerate(chain):
                now[f"{cascade} tier {tier}"] = ("serves", "") if why is None else ("fails", why)
        tiers = ", ".join(f"{c} by {len(t)} tiers" for c, t in sorted(self._chains.items()))
        serving = f"serving {len(self._health)} models" + (f": {tiers}" if tiers else "")
        self._news.announce(now, serving if self.ready else None)


def _parts(cascade: str) -> set[str]:
    return {cascade, f"{cascade}_router", f"{cascade}_control"}


_NOTHING = Reply(outcome=Outcome.FAILED)
