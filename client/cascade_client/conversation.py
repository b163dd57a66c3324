"""What is said to a server, without saying how it is carried.

Every function here is a conversation (`calls.Flow`): it yields calls and takes replies, and both
clients run it. A failed call is raised at the place that yielded it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cascade_router.errors import (
    AccessError,
    CascadeError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
)

from .answer import Answer, Names, answers_from_arrays
from .calls import (
    Array,
    Call,
    Flow,
    Index,
    IndexEntry,
    Infer,
    ModelConfig,
    ModelReady,
    ModelSpec,
    Parameters,
    Port,
    ServerMetadata,
    Statistics,
    as_bytes,
    ask,
)
from .roles import fixed_roles, roles_in, unknown
from .rows import Row, canary, rows_from, stack
from .status import Part, ServedPolicy, Status, TierStatus

__all__ = ["Pause", "Talk", "infer_parameters"]

_OUTPUTS = ("LABEL", "CONFIDENCE", "TIER")
_MAYBE = "DEGRADED"
"""An output that cascades built before it was there lack."""

_POLL_S = 0.2


@dataclass(frozen=True)
class Pause(Call[None]):
    """Not for the server: the driver waits this long."""

    seconds: float


def infer_parameters(
    point: str | None = None,
    min_tier: int | None = None,
    max_tier: int | None = None,
    efficiency: float | None = None,
    deadline_ms: float | None = None,
) -> Parameters:
    """Name the request parameters of a choice; None leaves the choice to the server."""
    values = {
        "cascade_point": point,
        # As text: tools on the way may carry no floating-point parameters.
        "cascade_efficiency": None if efficiency is None else repr(float(efficiency)),
        "cascade_min_tier": min_tier,
        "cascade_max_tier": max_tier,
        "cascade_deadline_ms": None if deadline_ms is None else repr(float(deadline_ms)),
    }
    return {name: value for name, value in values.items() if value is not None}


class Talk:
    """The conversations about one cascade; remembers what does not change while it is served.

    Args:
        url: Only for messages.
        cascade: Name of the cascade.
        clock: Seconds, monotonic.
        policy_key: For a guarded server: to switch its point.
    """

    def __init__(
        self,
        url: str,
        cascade: str,
        clock: Callable[[], float] = time.perf_counter,
        *,
        policy_key: str | None = None,
    ) -> None:
        self._url = url
        self.cascade = cascade
        self._clock = clock
        self._policy_key = {} if policy_key is None else {"key": policy_key}
        self._spec: ModelSpec | None = None
        self._names: Names | None = None

    def spec(self) -> Flow[ModelSpec]:
        """What the cascade takes.

        Raises:
            RequestError: If the server has no such cascade; those it has are listed.
        """
        if self._spec is None:
            self._spec = yield from self.spec_of(self.cascade)
        return self._spec

    def spec_of(self, model: str) -> Flow[ModelSpec]:
        """What any model takes.

        Raises:
            RequestError: If the server has no such model; those it has are listed.
            NotReadyError: If it has the model but has not loaded it.
        """
        try:
            return (yield from ask(ModelConfig(model)))
        except (RequestError, NotReadyError) as exc:
            raise (yield from self._missing(model, exc)) from exc

    def infer(
        self,
        given: Sequence[Row] | Array,
        parameters: Parameters,
        *,
        scores: bool,
        rows_per_request: int | None,
        timeout_s: float | None,
    ) -> Flow[list[Answer]]:
        """Answer rows, in their order."""
        spec = yield from self.spec()
        port = _only_input(spec)
        names = yield from self._known_names()
        rows = rows_from(given, port)
        most = max(spec.max_batch_size, 1)
        step = min(rows_per_request or most, most)
        outputs = (*_OUTPUTS, "SCORES") if scores else _OUTPUTS
        if any(port.name == _MAYBE for port in spec.outputs):
            outputs = (*outputs, _MAYBE)
        answers: list[Answer] = []
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            call = Infer(self.cascade, {port.name: stack(part)}, parameters, outputs, timeout_s)
            try:
                answers += yield from self._answers(call, len(part), names)
            except RequestError as exc:
                raise (yield from self._blame(call, part, at, exc)) from exc
        return answers

    def policy(self) -> Flow[ServedPolicy]:
        """What the control model tells of the policy in force."""
        return ServedPolicy.from_json((yield from self._command(do="show")))

    def set_point(self, point: str, who: str) -> Flow[dict[str, str]]:
        """Switch the default point of the running cascade; the server records and returns it.

        Raises:
            RequestError: If there is no such point; those there are are listed.
        """
        reply = yield from self._command(do="set", point=point, who=who, **self._policy_key)
        change: dict[str, str] = json.loads(reply)
        return change

    def _command(self, **command: str) -> Flow[bytes]:
        model = f"{self.cascade}_control"
        tensor = as_bytes([json.dumps(command).encode()])
        try:
            reply = yield from ask(Infer(model, {"COMMAND": tensor}))
        except RequestError as exc:
            raise (yield from self._missing(self.cascade, exc)) from exc
        return bytes(reply["REPLY"].ravel()[0])

    def status(self) -> Flow[Status]:
        """Look at the server and every part of the cascade; parts that are down are reported.

        Raises:
            RequestError: If the server has nothing of such a cascade.
        """
        server = yield from ask(ServerMetadata())
        entries = yield from self._entries()
        own = roles_in(self.cascade, entries)
        if not own:
            raise unknown(self.cascade, entries)
        served: ServedPolicy | None = None
        if (yield from ask(ModelReady(f"{self.cascade}_control"))):
            served = yield from self.policy()
            experts = [tier.model for tier in served.policy.tiers]
            own = roles_in(self.cascade, entries, experts)
        parts = []
        for model, role in own.items():
            parts.append((yield from self._part(model, role, entries)))
        return Status(
            url=self._url,
            server=f"{server.name} {server.version}",
            cascade=self.cascade,
            ready=all(part.ready for part in parts) and served is not None,
            parts=tuple(parts),
            tiers=_tiers(served),
            served=served,
        )

    def wait_ready(self, timeout_s: float) -> Flow[None]:
        """Wait until every part serves and a row was answered by every tier.

        That a model counts as ready does not mean that its process lives (server 2.51), so each
        tier is made to answer once.

        Raises:
            NoAnswerError: If that does not come about in time; says what was missing last.
            RequestError: If the server is up and has nothing of such a cascade.
        """
        start = self._clock()
        while True:
            try:
                yield from self._prove()
            except RequestError:
                raise
            except CascadeError as exc:
                if self._clock() - start >= timeout_s:
                    waited = f"{self._url}: {self.cascade} is not ready after {timeout_s:g} s"
                    message = f"{waited}: {exc.message}"
                    raise NoAnswerError(message, hint=exc.hint) from exc
            else:
                return
            yield from ask(Pause(_POLL_S))

    def _prove(self) -> Flow[None]:
        status = yield from self.status()
        for part in status.parts:
            if not part.ready:
                message = f"{part.role} {part.model} is not ready{part.why and ': '}{part.why}"
                raise NotReadyError(message, hint="see the server's log")
        if not status.ready:
            message = f"control model {self.cascade}_control is not ready"
            raise NotReadyError(message, hint="see the server's log")
        port = _only_input((yield from self.spec()))
        for tier in range(len(status.tiers)):
            only = infer_parameters(min_tier=tier, max_tier=tier)
            call = Infer(self.cascade, {port.name: stack([canary(port)])}, only, _OUTPUTS)
            yield from self._answers(call, 1, Names())

    def _answers(self, call: Infer, n_rows: int, names: Names) -> Flow[list[Answer]]:
        start = self._clock()
        arrays = yield from ask(call)
        ms = 1e3 * (self._clock() - start)
        try:
            return answers_from_arrays(arrays, n_rows, ms=ms, names=names)
        except ValueError as exc:
            message = f"{call.model}: the reply is no cascade's: {exc}"
            raise ServerError(message, hint="is this model the ensemble of a cascade?") from exc

    def _known_names(self) -> Flow[Names]:
        if self._names is None:
            try:
                self._names = (yield from self.policy()).names
            except (RequestError, ServerError):
                return Names()  # answers without names; asked again next time
        return self._names

    def _blame(
        self, call: Infer, rows: Sequence[Array], at: int, exc: RequestError
    ) -> Flow[RequestError]:
        """Find the row that the server refused by sending each alone."""
        if len(rows) == 1:
            return RequestError(f"rows[{at}]: {exc.message}", hint=exc.hint) if at else exc
        (name,) = call.arrays
        for i, row in enumerate(rows):
            alone = Infer(
                call.model, {name: stack([row])}, call.parameters, _OUTPUTS, call.timeout_s
            )
            try:
                yield from ask(alone)
            except RequestError as found:
                return RequestError(f"rows[{at + i}]: {found.message}", hint=found.hint)
        return exc

    def _entries(self) -> Flow[list[IndexEntry]]:
        """List the server's models; a guarded one lists none, so ask for those of this cascade."""
        try:
            return (yield from ask(Index()))
        except AccessError:
            names = fixed_roles(self.cascade)
            states = {}
            for name in names:
                states[name] = "READY" if (yield from ask(ModelReady(name))) else "UNAVAILABLE"
            if "READY" not in states.values():
                raise
            # A tensor's cascade has no preprocessing: it is not missed.
            left_out = f"{self.cascade}_preprocess"
            return [
                IndexEntry(name, "", state, "")
                for name, state in states.items()
                if state == "READY" or name != left_out
            ]

    def _missing(self, model: str, exc: CascadeError) -> Flow[CascadeError]:
        """Say better than the server why a model cannot be asked."""
        entries = yield from self._entries()
        if all(entry.name != model for entry in entries):
            return unknown(model, entries)
        if (yield from ask(ModelReady(model))):
            return exc
        reason = next((e.reason for e in entries if e.name == model and e.reason), exc.message)
        return NotReadyError(f"{model}: not ready: {reason}", hint="see the server's log")

    def _part(self, model: str, role: str, entries: Sequence[IndexEntry]) -> Flow[Part]:
        mine = [entry for entry in entries if entry.name == model]
        ready = yield from ask(ModelReady(model))
        rows: int | None = None
        if ready:
            counts = yield from ask(Statistics(model))
            rows = sum(count.rows for count in counts)
        return Part(
            model=model,
            role=role,
            versions=tuple(e.version for e in mine if e.state == "READY" and e.version),
            ready=ready,
            why="" if ready else "; ".join(filter(None, (e.reason or e.state for e in mine))),
            rows=rows,
        )


def _only_input(spec: ModelSpec) -> Port:
    if len(spec.inputs) != 1:
        names = ", ".join(port.name for port in spec.inputs) or "none"
        message = f"{spec.name}: has inputs {names}, expected one"
        raise RequestError(message, hint="is this model the ensemble of a cascade?")
    return spec.inputs[0]


def _tiers(served: ServedPolicy | None) -> tuple[TierStatus, ...]:
    if served is None:
        return ()
    return tuple(
        TierStatus(
            tier=k,
            name=tier.name,
            model=tier.model,
            digest=tier.digest,
            cost_ms=tier.cost_per_row_ms(1) if tier.cost_ms else None,
        )
        for k, tier in enumerate(served.policy.tiers)
    )
