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
from .walk import Walk

__all__ = ["TritonPythonModel"]


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
                asked = Options.of(request.parameters(), policy)
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

    def _start(self, policy: Policy, group: Group, answers: Answers) -> None:
        """Run the first tier here; send what it does not decide on its way up."""
        walk = group.walk
        first = int(policy.gates.start[policy.index(policy.default)])
        here = walk.tier == first
        if here.any():
            # No copy of the inputs in the common case that all rows start here.
            now = group if here.all() else group.part(here)
            error = self._escalation.run(first, [now])
            ended = now.rows if error else now.rows[walk.tier[now.rows] == DECIDED]
            if len(ended):
                group.report(ended, error)
            here[:] = False
            here[ended] = True
        answers.defer()
        if not here.all():
            self._escalation.send(group.part(~here))

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
