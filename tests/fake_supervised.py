"""A server as its supervisor sees it, without a server: at the seams `Triton` and `Running`."""

from __future__ import annotations

import json
import struct

from cascade_router.supervision.triton import Known, Outcome, Port, Reply, Version

FRAME = Port(name="FRAME", datatype="FP32", shape=(4,))
COMMAND = Port(name="COMMAND", datatype="STRING", shape=(1,))
ANSWERED = Reply(outcome=Outcome.ANSWERED)


def dead(model):
    why = f"Stub process '{model}_0_0' is not healthy."
    return Reply(outcome=Outcome.DEAD, why=why, culprit=model)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakeTriton:
    """A cascade `pitch` of two tiers; a model is in one state until it is loaded anew.

    Attributes:
        faults: What a model's canary gets instead of an answer; loading it anew cures it.
        incurable: Models that a load does not cure.
        unloaded: Models that are not loaded, and why.
        work: What models have run.
        down: Whether nothing answers.
        log: Loads and unloads, in order.
    """

    def __init__(self):
        self.faults = {}
        self.incurable = set()
        self.unloaded = {}
        self.work = {}
        self.down = False
        self.log = []
        self.asked = []
        self.models = {
            "pitch": Known(name="pitch", batches=True, inputs=(FRAME,), steps=("pitch_router",)),
            "pitch_control": Known(name="pitch_control", batches=False, inputs=(COMMAND,)),
            "pitch_router": Known(name="pitch_router", batches=True, inputs=(FRAME,)),
            "pitch_small": Known(name="pitch_small", batches=True, inputs=(FRAME,)),
            "pitch_large": Known(name="pitch_large", batches=True, inputs=(FRAME,)),
        }
        self.tiers = ["pitch_small", "pitch_large"]

    def live(self):
        return not self.down

    def index(self):
        if self.down:
            return "Socket closed"
        return [
            Version(
                model=name,
                version="1",
                state="UNAVAILABLE" if name in self.unloaded else "READY",
                reason=self.unloaded.get(name, ""),
            )
            for name in self.models
        ]

    def known(self, model):
        return self.models[model]

    def work_done(self):
        return dict(self.work)

    def ask(self, asks, timeout_s):
        self.asked += asks
        return [self._reply(ask) for ask in asks]

    def unload(self, models):
        self.log.append(("unload", *models))
        self.unloaded |= dict.fromkeys(models, "unloaded")
        return {}

    def load(self, models, timeout_s):
        self.log.append(("load", *models))
        failed = {name: "no such file" for name in models if name in self.incurable}
        for name in set(models) - set(failed):
            self.unloaded.pop(name, None)
            self.faults.pop(name, None)
        self.unloaded |= failed
        return failed

    def close(self):
        self.log.append(("close",))

    def _reply(self, ask):
        model = ask.model
        if model == "pitch_control" and model not in self.faults:
            text = json.dumps({"policy": {"tiers": [{"model": m} for m in self.tiers]}}).encode()
            outputs = {"REPLY": struct.pack("<I", len(text)) + text}
            return Reply(outcome=Outcome.ANSWERED, outputs=outputs)
        chain = [model]
        if model in ("pitch", "pitch_router"):
            tier = ask.parameters.get("cascade_min_tier", 0)
            chain = ["pitch_router", self.tiers[tier]]
        for part in chain:
            if part in self.unloaded:
                return Reply(outcome=Outcome.FAILED, why=f"Model '{part}' is not ready.")
            if part in self.faults:
                return self.faults[part]
        return ANSWERED


class FakeServer:
    """A process that lives until told otherwise."""

    def __init__(self, mark, status=None, refuses=None):
        self.mark, self.status, self.refuses = mark, status, refuses
        self.stopped = False

    @property
    def pid(self):
        return 2**22 + 1  # no process has this number

    @property
    def ended(self):
        return self.status

    def start(self):
        if self.refuses is not None:
            raise self.refuses

    def stop(self, timeout_s):
        self.stopped = True
        return 0
