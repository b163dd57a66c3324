"""A server as its supervisor sees it, without a server: at the seams `Triton` and `Running`."""

from __future__ import annotations

import json
import struct

from cascade_router.supervision.processes import Process, Stub
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
        through: What a tier's model gets when it is asked through its cascade, but not alone.
        incurable: Models that a load does not cure.
        refused: Models whose load is refused before it begins; the index keeps the reason it had.
        slow: Models whose load goes on when nobody waits for it any longer.
        unloaded: Models that are not loaded, and why; no reason: one is being loaded.
        versions: Of models that have more than one.
        in_force: Which versions the control model tells; a model that is not here is not told.
        work: What models have run.
        down: Whether nothing answers.
        log: Loads and unloads, in order.
    """

    def __init__(self):
        self.faults = {}
        self.through = {}
        self.incurable = set()
        self.refused = set()
        self.slow = set()
        self.unloaded = {}
        self.versions = {}
        self.in_force = {}
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
        states = {None: "READY", "": "LOADING"}
        return [
            Version(
                model=name,
                version=version,
                state=states.get(self.unloaded.get(name), "UNAVAILABLE"),
                reason=self.unloaded.get(name, ""),
            )
            for name in self.models
            for version in self.versions.get(name, ["1"])
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
        refused = {name: "failed to poll" for name in models if name in self.refused}
        late = {name: "Deadline Exceeded" for name in models if name in self.slow}
        for name in set(models) - set(failed) - set(refused):
            self.unloaded.pop(name, None)
            self.faults.pop(name, None)
            self.through.pop(name, None)
        self.unloaded |= failed | dict.fromkeys(late, "")
        return failed | refused | late

    def close(self):
        self.log.append(("close",))

    def _reply(self, ask):
        model = ask.model
        given = {name: array.shape[-1:] for name, array in ask.arrays.items()}
        if any(given.get(port.name) != port.shape for port in self.models[model].inputs):
            return Reply(outcome=Outcome.FAILED, why="unexpected shape for input")
        if model == "pitch_control" and model not in self.faults:
            text = json.dumps(self._shown()).encode()
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
            if part in self.through and part != model:
                return self.through[part]
        return ANSWERED

    def _shown(self):
        experts = [
            {"model": name, "version": int(self.in_force[name])}
            for name in self.tiers
            if name in self.in_force
        ]
        told = {"policy": {"tiers": [{"model": m} for m in self.tiers]}}
        told["manifest"] = {"experts": experts}
        if "pitch_router" in self.in_force:
            told["router_version"] = int(self.in_force["pitch_router"])
        return told


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


def rounds(ward, clock, n, seconds=3.0):
    """Look n times; stops at the first revival."""
    for _ in range(n):
        clock.sleep(seconds)
        ward.look()
        if ward.revive():
            ward.look()
            return True
    return False


def stub(pid, state, model="pitch_large", version="1"):
    """A process of a model; one that has ended no longer tells of which."""
    process = Process(pid=pid, parent=1, state=state, started=7, user=0, program="", arguments=())
    if state == "Z":
        return Stub(process=process)
    return Stub(process=process, model=model, version=version, region=f"cascade_serve_{pid}_x")
