"""The router as a Triton model: requests in, the walk decides, BLS runs the tiers.

The requests of one ``execute`` are stacked. The first tier runs there and then, once, and what it
decides is answered by the returned list, the cheapest way out. Requests with rows that escalate get
``None`` there; their rows go up through ``Escalation``, merge with survivors of other batches, and
are answered by their response sender. So no easy row waits for a hard one, and no escalated row
holds an instance. (A non-decoupled model may answer later since Triton 24.06.) A call by BLS may
hang and cannot be cancelled, so none is made in ``execute`` itself: a worker makes it, and where it
is slow ``execute`` returns without it.

The first tier sees every row, so its call is what a cascade pays most often. Where the builder laid
its ONNX file beside the router, it runs in this process: no BLS call, no second copy of the rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .answers import Answers
from .errors import BusyError, CascadeError, RequestError, ServerError, TierError
from .escalation import Escalation
from .gate import DECIDED, Ints
from .group import Array, Group, stack
from .manifest import options_in, read_manifest, versions_in
from .metrics import Meters
from .onnx_expert import runner
from .options import Options
from .pace import Pace
from .policy import Policy
from .scores import Floats
from .served import ServedPolicy
from .triton_io import call, config_of, input_of, parameter, zeros_for
from .walk import Step, Walk

__all__ = ["SENDER_MS", "TritonPythonModel"]

_KNOWN_OPTIONS = 256
_log = logging.getLogger(__name__)

SENDER_MS = 0.25
"""What answering one request by its sender costs over the list, in ms (measured: 0.25 to 0.3)."""


class TritonPythonModel:
    """Sends each row to the smallest expert that is confident enough."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the policy, open the expert that runs here, and start the workers."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = read_manifest(folder)
        config = options_in(manifest, config_of(args))
        self._versions = versions_in(manifest)
        self._served = ServedPolicy(folder)
        # A policy may be replaced while serving, its tiers may not.
        self._tiers = self._served.policy.tiers
        self._here = _expert_here(config, folder, [tier.name for tier in self._tiers])
        self._served.follow()
        self._meters = Meters(self._served.policy.cascade, [tier.name for tier in self._tiers])
        self._input = config["input"][0]["name"]
        self._abstain_below = float(parameter(config, "abstain_below", "-inf"))
        self._read: dict[str, Options] = {}
        self._read_under = self._served.policy
        workers = int(parameter(config, "calls_per_tier", "2"))
        self._pace = Pace(self._tiers, workers)
        self._escalation = Escalation(
            self._run,
            self._pace,
            n_tiers=len(self._tiers),
            max_batch=int(config["max_batch_size"]),
            max_waiting=int(parameter(config, "max_waiting_rows", "256")),
            workers=workers,
            timeout_s=float(parameter(config, "tier_timeout_ms", "10000")) / 1e3,
            on_failure=parameter(config, "on_tier_failure", "escalate"),
            health=self._meters,
        )
        self._escalation.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what the first tier decides; None for what is answered later."""
        answers = Answers(requests)
        try:
            self._take(requests, answers)
        except Exception:  # noqa: BLE001  # Triton would show our traceback to every client
            _log.exception("fault in the router")
            answers.fail(ServerError("fault in the router, see the server's log"))
        return answers.by_list

    def finalize(self) -> None:
        """Finish what is under way and end the workers."""
        self._served.close()
        self._escalation.close()
        self._meters.close()

    def _take(self, requests: list[Any], answers: Answers) -> None:
        """Read the requests, and start the rows of those that can be read."""
        policy = self._served.policy
        self._pace.tiers = policy.tiers
        inputs: list[Array] = []
        options: list[Options] = []
        for place, request in enumerate(requests):
            try:
                asked = self._asked(request.parameters(), policy)
            except CascadeError as error:
                answers.refuse(place, error)
                continue
            except ValueError:  # Triton hands over what HTTP brought, UTF-8 or not
                answers.refuse(place, RequestError("parameters: no text", hint="send UTF-8"))
                continue
            rows = input_of(request, self._input)
            answers.expect(place, len(rows))
            inputs.append(rows)
            options += [asked] * len(rows)
        if options:
            walk = self._walk(policy, options)
            answers.follow(walk)
            observer = _Observer(walk, answers, self._meters)
            rows = np.arange(len(options))
            self._start(Group(walk, rows, stack(inputs), observer, _until(options)), answers)

    def _asked(self, parameters: str, policy: Policy) -> Options:
        """Read a request's parameters; what was read lately under this policy is known."""
        if policy is not self._read_under or len(self._read) >= _KNOWN_OPTIONS:
            self._read, self._read_under = {}, policy
        asked = self._read.get(parameters)
        if asked is None:
            asked = self._read[parameters] = Options.of(parameters, policy)
        return asked

    def _walk(self, policy: Policy, options: list[Options]) -> Walk:
        return Walk(
            policy,
            point=np.array([asked.point for asked in options]),
            min_tier=np.array([asked.min_tier for asked in options]),
            max_tier=np.array([asked.max_tier for asked in options]),
            abstain_below=self._abstain_below,
        )

    def _start(self, group: Group, answers: Answers) -> None:
        """Run here what is quickest here; send the rest on its way up."""
        walk, escalation = group.walk, self._escalation
        left = np.ones(len(group.rows), dtype=bool)
        while left.any() and not answers.deferred and (step := walk.next()):
            if not self._belongs_here(step, walk.policy):
                break
            # No copy of the inputs in the common case that all rows start at the same tier.
            whole = len(step.rows) == len(left)
            part = group if whole else group.part(step.rows)
            left[step.rows] = False
            late = escalation.late(step.tier, part)
            if late is not None:
                left[step.rows[~late]] = True
                rest = escalation.let_go(step.tier, part.part(late))
            elif step.tier in self._here:
                rest = escalation.run(step.tier, part)
            else:
                rest = escalation.lend(step.tier, part, answers.defer)
            for some in rest:
                decided = walk.tier[some.rows] == DECIDED
                left[some.rows] = ~decided
                if decided.any():
                    group.observer.report(some.rows[decided], None)
        answers.defer()
        if left.any():
            escalation.send(group.part(left))

    def _belongs_here(self, step: Step, policy: Policy) -> bool:
        """Say whether a tier runs in ``execute``: the first does, and one quicker than a sender.

        Rows that are sent up cost their request a sender; a tier whose measured cost is below
        that is not worth it, and holds the instance for less time than the senders would.
        """
        if step.tier in self._here or step.tier == policy.gates.start[policy.index(policy.default)]:
            return True
        expert = policy.tiers[step.tier]
        return bool(expert.cost_ms) and expert.cost_per_row_ms(len(step.rows)) < SENDER_MS

    def _run(self, tier: int, rows: Array) -> Floats:
        """Run a tier: here, or its model by BLS."""
        expert = self._tiers[tier]
        try:
            if tier in self._here:
                return self._here[tier](rows)
            version = self._versions.get(expert.name, -1)
            return call(expert.model, {self._input: rows}, "LOGITS", version)
        except BusyError as error:
            message = f"tier {expert.name!r} (model {expert.model}) is busy: {error.message}"
            raise BusyError(message, hint="try again later, or send less") from error
        except TierError as error:
            message = f"tier {expert.name!r} (model {expert.model}) failed: {error.message}"
            hint = "`cascade-client status` shows which model is down"
            raise type(error)(message, hint=hint) from error


@dataclass(frozen=True, slots=True)
class _Observer:
    """Passes on what becomes of the rows of one ``execute``."""

    walk: Walk
    answers: Answers
    meters: Meters

    def ran(self, tier: int, rows: Ints, scores: Floats) -> None:
        self.meters.ran(self.walk, tier, rows, scores)

    def report(self, rows: Ints, error: CascadeError | None) -> None:
        if error is None:
            self.meters.answered(self.walk, rows)
        self.answers.report(rows, error)


def _expert_here(
    config: dict[str, Any], folder: Path, names: list[str]
) -> dict[int, Callable[[Array], Floats]]:
    """Open the expert that runs in the router's process, if there is one, by its tier."""
    name = parameter(config, "expert_here", "")
    if not name:
        return {}
    threads = int(parameter(config, "intra_op_threads", "1"))
    run = runner(folder / "experts" / f"{name}.onnx", threads)
    for n_rows in sorted({1, int(config["max_batch_size"])}):
        run(zeros_for(config["input"][0], n_rows))  # memory is found at the first run of a size
    return {names.index(name): run}


def _until(options: list[Options]) -> Floats | None:
    """Say when each row's time is over, by the monotonic clock; None: no row has a deadline."""
    ms = np.array([asked.deadline_ms for asked in options])
    return time.monotonic() + ms / 1e3 if np.isfinite(ms).any() else None
