"""A router's escalation without threads or Triton, by a clock of its own; what is told is kept."""

import json

import numpy as np
import oracle
import pytest

from cascade_router import Gate, OperatingPoint, Policy, Tier, TierError, Walk
from cascade_router.escalation import Escalation
from cascade_router.group import Group
from cascade_router.outcome import Outcome
from cascade_router.pace import Pace
from cascade_router.walk import TIER_FAILED

N_TIERS = 3
TIMEOUT_S = 10.0


def make_policy(gates, answer="last"):
    return Policy(
        cascade="c",
        activation="softmax",
        n_classes=3,
        answer=answer,
        tiers=tuple(Tier(name=f"t{k}", model=f"m{k}", digest="d") for k in range(N_TIERS)),
        points=(OperatingPoint(name="p", gates=tuple(gates)),),
        default="p",
    )


PLAIN = make_policy([Gate(threshold=0.7), Gate(threshold=0.7), Gate()])


class Seen:
    """What the rows of one walk were told; also what ran for them."""

    def __init__(self, n):
        self.told = [[] for _ in range(n)]
        self.ran_tiers = [[] for _ in range(n)]

    def report(self, rows, error):
        for row in rows.tolist():
            self.told[row].append(error)

    def ran(self, tier, rows, scores):
        for row in rows.tolist():
            assert not self.told[row]
            self.ran_tiers[row].append(tier)


class Health:
    def __init__(self):
        self.failures, self.open = [], set()

    def tier_failed(self, tier, reason):
        self.failures.append((tier, reason))

    def tier_open(self, tier, is_open):
        assert is_open != (tier in self.open)
        (self.open.add if is_open else self.open.remove)(tier)


class World:
    """An escalation without threads, its clock, and the calls that are under way.

    Rows are numbered through: the input of a row is its number, which says its logits.
    """

    def __init__(self, policy=PLAIN, how="escalate", *, workers=2, max_waiting=10_000, seed=0):
        self.policy, self.now = policy, 0.0
        self.health = Health()
        self.logits = np.random.default_rng(seed).normal(0, 1, (N_TIERS, 200, 3)).astype(np.float32)
        self.walks: list[tuple[Walk, Seen, np.ndarray]] = []
        self.n_rows = 0
        self.under_way = []
        self.escalation = Escalation(
            lambda tier, rows: self.logits[tier][rows[:, 0].astype(int)],
            Pace(policy.tiers, workers, lambda: self.now),
            n_tiers=N_TIERS,
            max_batch=3,
            max_waiting=max_waiting,
            workers=workers,
            timeout_s=TIMEOUT_S,
            on_failure=how,
            health=self.health,
            clock=lambda: self.now,
        )

    def arrive(self, n=1, low=0, high=N_TIERS - 1, until=None):
        numbers = np.arange(self.n_rows, self.n_rows + n)
        self.n_rows += n
        walk = Walk(self.policy, point=np.zeros(n, dtype=int), min_tier=low, max_tier=high)
        seen = Seen(n)
        self.walks.append((walk, seen, numbers))
        until = None if until is None else np.full(n, until)
        inputs = numbers[:, None].astype(np.float32)
        self.escalation.send(Group(walk, np.arange(n), inputs, seen, until))
        return walk, seen

    def begin(self, tier):
        call = self.escalation.begin(tier)
        if call is None:
            return None
        for group in call.groups:  # nobody is run after the answer
            assert not any(group.observer.told[row] for row in group.rows.tolist())
        self.under_way.append((tier, call))
        return call

    def finish(self, i, error=None):
        tier, call = self.under_way.pop(i)
        outcome = self.escalation.outcome(tier, call) if error is None else Outcome(None, error)
        self.escalation.finish(tier, call, outcome)

    def pass_time(self, seconds):
        self.now += seconds
        self.escalation.look()

    def settle(self, broken=(), *, hang=False):
        """Let everything end; calls of broken tiers fail, or hang for good."""
        quiet = 0
        for _ in range(1000):
            begun = [self.begin(tier) for tier in range(N_TIERS)]
            ending = [one for one in self.under_way if not (hang and one[0] in broken)]
            for one in ending:
                error = TierError("down") if one[0] in broken else None
                self.finish(self.under_way.index(one), error)
            quiet = 0 if any(begun) or ending else quiet + 1
            if quiet == 2:
                return
            if hang:
                self.pass_time(TIMEOUT_S)
        raise AssertionError


def check_against_oracle(world, how, broken):
    policy = json.loads(world.policy.to_json())
    for walk, seen, numbers in world.walks:
        for row, number in enumerate(numbers.tolist()):
            low, high = int(walk._min_tier[row]), int(walk._max_tier[row])
            wanted = oracle.answer_without(
                policy, world.logits[:, number], broken, how, None, low, high
            )
            (error,) = seen.told[row]
            if wanted is None:
                assert isinstance(error, TierError)
                continue
            assert error is None
            tier, label, confidence, degraded = wanted
            assert (walk.exit_tier[row], walk.label[row]) == (tier, label)
            assert walk.confidence[row] == pytest.approx(confidence, abs=1e-5)
            assert walk.degraded[row] == (TIER_FAILED if degraded else 0)
