"""A served cascade as the client sees it, behind the transport seam; `fake_wire` serves it.

The cascade ``pitch`` takes rows ``FRAME`` FP32 [3] = (label, score, poison): a row exits at tier 0
when its score reaches the threshold of its point, else at tier 1. A NaN poison is refused.
"""

from __future__ import annotations

import asyncio
import json

import numpy as np

from cascade_client.calls import (
    Counts,
    Index,
    IndexEntry,
    Infer,
    ModelConfig,
    ModelReady,
    ModelSpec,
    Port,
    ServerLive,
    ServerMetadata,
    ServerName,
    ServerReady,
    Statistics,
    as_bytes,
)
from cascade_router.errors import (
    CascadeError,
    NotReadyError,
    RequestError,
)
from cascade_router.gate import Gate
from cascade_router.policy import OperatingPoint, Policy, Tier

N_CLASSES = 4

POLICY = Policy(
    cascade="pitch",
    activation="softmax",
    n_classes=N_CLASSES,
    tiers=(
        Tier(name="tiny", model="pitch_tiny", digest="sha256:0", cost_ms={1: 2.0}),
        Tier(name="full", model="pitch_full", digest="sha256:1"),
    ),
    points=(
        OperatingPoint(
            name="fast", gates=(Gate(threshold=0.25), Gate()), measured={"agreement": 0.9}
        ),
        OperatingPoint(
            name="sure",
            gates=(Gate(threshold=0.75), Gate()),
            certificate={"promise": "agreement >= 0.99", "level": 0.95},
        ),
    ),
    default="sure",
    provenance={"made_by": "a test"},
)

_ANSWERS = (
    Port("SCORES", "FP32", (N_CLASSES,)),
    Port("LABEL", "INT32", (1,)),
    Port("CONFIDENCE", "FP32", (1,)),
    Port("TIER", "INT32", (1,)),
    Port("DEGRADED", "INT32", (1,)),
)


def row(label: int, score: float, poison: float = 0.0):
    return np.array([label, score, poison], dtype=np.float32)


class FakeCascade:
    """Answers calls; remembers them.

    Attributes:
        calls: What was asked.
        down: Models that are not ready.
        fail: Raised by the next inferences, one each.
        full_failed: Tier 1 is down: its rows are answered by tier 0.
    """

    def __init__(self, port: Port | None = None, labels=("do", "re", "mi", "fa")):
        self.calls: list[object] = []
        self.down: set[str] = set()
        self.fail: list[CascadeError] = []
        self.full_failed = False
        self.labels = labels
        frame = port or Port("FRAME", "FP32", (3,))
        command, reply = (Port("COMMAND", "BYTES", (1,)),), (Port("REPLY", "BYTES", (1,)),)
        logits = (Port("LOGITS", "FP32", (N_CLASSES,)),)
        self.models = {
            "pitch": ModelSpec("pitch", 4, (frame,), _ANSWERS, ("pitch_router",)),
            "pitch_control": ModelSpec("pitch_control", 0, command, reply),
            "pitch_full": ModelSpec("pitch_full", 4, (frame,), logits),
            "pitch_router": ModelSpec("pitch_router", 4, (frame,), _ANSWERS),
            "pitch_tiny": ModelSpec("pitch_tiny", 4, (frame,), logits),
        }

    def send(self, call):
        self.calls.append(call)
        match call:
            case Infer():
                return self._infer(call)
            case ServerLive():
                return True
            case ServerReady():
                return not self.down
            case ModelReady():
                return call.model in self.models and call.model not in self.down
            case ServerMetadata():
                return ServerName("triton", "2.51.0")
            case ModelConfig():
                self._known(call.model)
                return self.models[call.model]
            case Index():
                return [self._entry(name) for name in sorted(self.models)]
            case Statistics():
                self._known(call.model)
                return [Counts("1", 7, 2, 3, 6.0, 8.0)]
        raise AssertionError(call)

    def encode(self, call):
        return call

    def close(self):
        pass

    @property
    def inferences(self) -> list[Infer]:
        return [c for c in self.calls if isinstance(c, Infer) and c.model != "pitch_control"]

    def _entry(self, name):
        state = "UNAVAILABLE" if name in self.down else "READY"
        return IndexEntry(name, "1", state, "it fell over" if name in self.down else "")

    def _known(self, model):
        if model not in self.models:
            message = f"Request for unknown model: '{model}' is not found"
            raise RequestError(message)
        if model in self.down:
            message = f"Request for unknown model: '{model}' has no available versions"
            raise NotReadyError(message)

    def _infer(self, call):
        self._known(call.model)
        if call.model == "pitch_control":
            assert json.loads(call.arrays["COMMAND"][0]) == {"do": "show"}
            reply = {
                "policy": json.loads(POLICY.to_json()),
                "manifest": {"built": "now"},
                "default_point": "sure",
                "history": [],
                "labels": list(self.labels),
            }
            return {"REPLY": as_bytes([json.dumps(reply).encode()])}
        if self.fail:
            raise self.fail.pop(0)
        (values,) = call.arrays.values()
        if values.dtype == object:  # pictures: as many bytes as the label says
            values = np.array([row(len(v[0]) % N_CLASSES, 1.0) for v in values])
        if np.isnan(values).any():
            message = "input FRAME: got NaN"
            raise RequestError(message)
        scores = np.eye(N_CLASSES, dtype=np.float32)[values[:, 0].astype(int) % N_CLASSES]
        if call.model in ("pitch_tiny", "pitch_full"):
            return {"LOGITS": scores}
        out = self._answers(values, scores, call.parameters)
        return {k: v for k, v in out.items() if not call.outputs or k in call.outputs}

    def _answers(self, values, scores, parameters):
        point = POLICY.points[POLICY.index(parameters.get("cascade_point", "sure"))]
        tier = (values[:, 1] < point.gates[0].threshold).astype(np.int32)
        low, high = parameters.get("cascade_min_tier", 0), parameters.get("cascade_max_tier", 1)
        label = scores.argmax(axis=1).astype(np.int32)
        answered = np.clip(tier, low, high)
        degraded = np.zeros(len(values), dtype=np.int32)
        if self.full_failed:
            degraded[answered == 1] = 1
            answered = np.zeros_like(answered)
        return {
            "SCORES": scores,
            "LABEL": label[:, None],
            "CONFIDENCE": scores.max(axis=1)[:, None],
            "TIER": answered[:, None].astype(np.int32),
            "DEGRADED": degraded[:, None],
        }


class AsyncFake:
    """The same behind the asynchronous seam; each answer takes some of the loop's time."""

    def __init__(self, fake: FakeCascade, service_s: float = 0.0):
        self.fake, self.service_s = fake, service_s
        self.closed = False
        self.most_at_once = self._at_once = 0

    def encode(self, call):
        return call

    async def send(self, call):
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.service_s)
            return self.fake.send(call)
        finally:
            self._at_once -= 1

    async def close(self):
        self.closed = True
