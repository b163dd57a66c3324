"""The router as a Triton model: requests in, the walk decides, BLS runs the tiers.

The requests of one ``execute`` are stacked. The first tier runs there and then, once, and what it
decides is answered by the returned list, the cheapest way out. Requests with rows that escalate get
``None`` there; their rows go up through ``Escalation``, merge with survivors of other batches, and
are answered by their response sender. So no easy row waits for a hard one, and no escalated row
holds an instance. (A non-decoupled model may answer later since Triton 24.06.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .answers import Answers
from .errors import CascadeError, TierError
from .escalation import Escalation, Group, stack
from .gate import DECIDED, Ints
from .metrics import ExitCounter
from .options import Options
from .policy import Policy
from .scores import Floats
from .served import ServedPolicy
from .triton_io import Array, call, config_of, input_of, parameter
from .walk import Step, Walk

__all__ = ["SENDER_MS", "TritonPythonModel"]

_KNOWN_OPTIONS = 256

SENDER_MS = 0.25
"""What answering one request by its sender costs over the list, in ms (measured: 0.25 to 0.3)."""


class TritonPythonModel:
    """Sends each row to the smallest expert that is confident enough."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the policy and start the workers."""
        config = config_of(args)
        self._served = ServedPolicy(Path(args["model_repository"]) / args["model_version"])
        self._served.follow()
        # A policy may be replaced while serving, its tiers may not.
        self._tiers = self._served.policy.tiers
        self._exits = ExitCounter(self._served.policy.cascade)
        self._input = config["input"][0]["name"]
        self._read: dict[str, Options] = {}
        self._read_under = self._served.policy
        self._escalation = Escalation(
            self._run,
            n_tiers=len(self._tiers),
            max_batch=int(config["max_batch_size"]),
            max_waiting=int(parameter(config, "max_waiting_rows", "256")),
            workers=int(parameter(config, "calls_per_tier", "2")),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer what the first tier decides; None for what is answered later."""
        policy = self._served.policy
        answers = Answers(requests)
        inputs: list[Array] = []
        options: list[Options] = []
        for place, request in enumerate(requests):
            try:
                asked = self._asked(request.parameters(), policy)
            except CascadeError as error:
                answers.refuse(place, error)
                continue
            rows = input_of(request, self._input)
            answers.expect(place, len(rows))
            inputs.append(rows)
            options += [asked] * len(rows)
        if options:
            walk = _walk(policy, options)
            answers.follow(walk)

            def report(rows: Ints, error: CascadeError | None) -> None:
                if error is None:
                    self._exits.count(policy, walk, rows)
                answers.report(rows, error)

            group = Group(walk, np.arange(len(options)), stack(inputs), report)
            self._start(policy, group, answers)
        return answers.by_list

    def finalize(self) -> None:
        """Finish what is under way and end the workers."""
        self._served.close()
        self._escalation.close()
        self._exits.close()

    def _asked(self, parameters: str, policy: Policy) -> Options:
        """Read a request's parameters; what was read lately under this policy is known."""
        if policy is not self._read_under or len(self._read) >= _KNOWN_OPTIONS:
            self._read, self._read_under = {}, policy
        asked = self._read.get(parameters)
        if asked is None:
            asked = self._read[parameters] = Options.of(parameters, policy)
        return asked

    def _start(self, policy: Policy, group: Group, answers: Answers) -> None:
        """Run here what is quickest here; send the rest on its way up."""
        walk = group.walk
        first = int(policy.gates.start[policy.index(policy.default)])
        left = np.ones(len(group.rows), dtype=bool)
        while left.any() and (step := walk.next()) and self._belongs_here(step, first):
            # No copy of the inputs in the common case that all rows start at the same tier.
            whole = len(step.rows) == len(left)
            error = self._escalation.run(step.tier, [group if whole else group.part(step.rows)])
            if error is not None:
                walk.stop(step.rows)
            ended = step.rows[walk.tier[step.rows] == DECIDED]
            if len(ended):
                left[ended] = False
                group.report(ended, error)
        answers.defer()
        if left.any():
            self._escalation.send(group.part(left))

    def _belongs_here(self, step: Step, first: int) -> bool:
        """Say whether a tier runs in ``execute``: the first does, and one quicker than a sender.

        Rows that are sent up cost their request a sender; a tier whose measured cost is below
        that is not worth it, and holds the instance for less time than the senders would.
        """
        costs = self._tiers[step.tier].cost_ms
        if step.tier == first or not costs:
            return step.tier == first
        return self._tiers[step.tier].cost_per_row_ms(len(step.rows)) < SENDER_MS

    def _run(self, tier: int, rows: Array) -> Floats:
        """Call a tier's model by BLS."""
        expert = self._tiers[tier]
        try:
            return call(expert.model, {self._input: rows}, "LOGITS")
        except TierError as error:
            message = f"tier {expert.name!r} (model {expert.model}) failed: {error.message}"
            raise TierError(
                message, hint="`cascade-client status` shows which model is down"
            ) from error


def _walk(policy: Policy, options: list[Options]) -> Walk:
    return Walk(
        policy,
        point=np.array([asked.point for asked in options]),
        min_tier=np.array([asked.min_tier for asked in options]),
        max_tier=np.array([asked.max_tier for asked in options]),
    )
