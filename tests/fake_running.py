"""A stand-in for a running tritonserver as a deployment sees it; it reads a real repository.

What it does on a load was seen on Triton 2.51 (``cascade_builder.swap`` says what). Experts answer
by their ONNX files, the router by the dull oracle. Integration tests deploy to the real server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import oracle

from cascade_builder.running import FAILED, READY, UNLOADED, NoServerError
from cascade_builder.triton_config import parse
from cascade_router.errors import ServerError, TierError

__all__ = ["FakeServer"]


class FakeServer:
    """Serves a repository.

    Attributes:
        calls: What was asked to load or unload, in order.
        fail: Called with the number of each load or unload before it is done; may raise.
        broken: Versions that answer wrongly.
        loading: Models whose load was begun and has not ended.
        dead: It answers nothing any more.
    """

    url = "fake:8001"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.fail: Callable[[int], None] = lambda n: None
        self.broken: set[tuple[str, int]] = set()
        self.loading: set[str] = set()
        self.dead = False
        self._states: dict[str, dict[int, str]] = {}
        self._steps: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        """Load all that lies in the repository, as at a start."""
        self._states, self._steps, self.dead = {}, {}, False
        folders = [folder for folder in self.root.iterdir() if folder.is_dir()]
        for folder in sorted(folders, key=lambda one: "step {" in _config_of(one)):
            self._load(folder.name)

    def let_pass(self) -> None:
        """Have nothing under way."""

    def states(self) -> dict[str, dict[int, str]]:
        self._alive()
        begun = {model: {1: "LOADING"} for model in self.loading}
        return {model: dict(versions) for model, versions in (self._states | begun).items()}

    def load(self, model: str) -> None:
        self._count(f"load {model}")
        self._load(model)

    def unload(self, model: str) -> None:
        self._count(f"unload {model}")
        self.loading.discard(model)
        self._states[model] = dict.fromkeys(self._states.get(model, ()), UNLOADED)

    def ready(self) -> bool:
        self._alive()
        return all(FAILED not in versions.values() for versions in self._states.values())

    def step_version(self, ensemble: str, model: str) -> int:
        self._alive()
        return self._steps[model]

    def ask(self, model, version, inputs, outputs, parameters=None):
        self._alive()
        if model.endswith("_control"):
            return {"REPLY": np.array([json.dumps(self._shown()).encode()], dtype=np.object_)}
        if self._states.get(model, {}).get(version) != READY:
            message = f"{model} version {version} is not ready"
            raise TierError(message)
        ((_, rows),) = inputs.values()
        folder = self.root / model / str(version)
        if not model.endswith("_router"):
            return {"LOGITS": self._logits(model, version, rows)}
        manifest = json.loads((folder / "manifest.json").read_text())
        policy = json.loads((folder / "policy.json").read_text())
        tiers = [self._logits(one["model"], one["version"], rows) for one in manifest["experts"]]
        if (model, version) in self.broken:
            tiers = [-one for one in tiers]
        found = [
            oracle.answer(policy, [tier[i] for tier in tiers], parameters["cascade_point"])
            for i in range(len(rows))
        ]
        return {
            "TIER": np.array([[tier] for tier, _, _ in found]),
            "LABEL": np.array([[label] for _, label, _ in found]),
            "CONFIDENCE": np.array([[confidence] for _, _, confidence in found]),
        }

    def _shown(self):
        router = f"{self._cascade()}_router"
        folder = self.root / router / str(self._steps[router])
        return {"manifest": json.loads((folder / "manifest.json").read_text()), "refused": None}

    def _cascade(self) -> str:
        return next(m for m in self._states if f"{m}_router" in self._states)

    def _logits(self, model: str, version: int, rows):
        if self._states.get(model, {}).get(version) != READY:
            message = f"{model} version {version} is not ready"
            raise TierError(message)
        path = self.root / model / str(version) / "model.onnx"
        session = onnxruntime.InferenceSession(path)
        logits = session.run(["LOGITS"], {session.get_inputs()[0].name: rows})[0]
        return logits + 1.0 if (model, version) in self.broken else logits

    def _load(self, model: str) -> None:
        config = parse((self.root / model / "config.pbtxt").read_text())
        named = list(config.version_policy.specific.versions) or [1]
        versions = [v for v in named if (self.root / model / str(v)).is_dir()]  # others: ignored
        before = self._states.setdefault(model, {})
        for version in versions:
            folder = self.root / model / str(version)
            sound = b"unloadable" not in self._file(folder)
            before[version] = READY if sound else FAILED
        if not versions or any(before[version] == FAILED for version in versions):
            message = f"load failed for model {model!r}"
            raise ServerError(message)
        for version in before:
            if version not in versions and before[version] == READY:
                before[version] = UNLOADED
        for step in config.ensemble_scheduling.step:
            there = self._states.get(step.model_name, {})
            called = step.model_version if step.model_version > 0 else max(there, default=1)
            if there.get(called) != READY:
                message = f"ensemble {model!r} needs {step.model_name}:{step.model_version}"
                raise ServerError(message)
            self._steps[step.model_name] = step.model_version

    def _file(self, folder: Path) -> bytes:
        path = folder / "model.onnx"
        return path.read_bytes() if path.is_file() else b""

    def _count(self, call: str) -> None:
        self._alive()
        self.calls.append(call)
        self.fail(len(self.calls))

    def _alive(self) -> None:
        if self.dead:
            message = f"no server answers at {self.url}"
            raise NoServerError(message)


def _config_of(folder: Path) -> str:
    return (folder / "config.pbtxt").read_text()
