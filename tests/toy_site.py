"""A toy cascade in a repository of its own, and the stand-in for the server that serves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_running import FakeServer
from onnx_files import INPUTS, linear, save, two_layers

from cascade_builder.build import build
from cascade_builder.deploy import deploy, rollback
from cascade_builder.deployment import Deployment
from cascade_builder.editions import Edition
from cascade_builder.running import READY
from cascade_builder.spec import Spec
from cascade_builder.triton_config import parse

__all__ = ["MEDIUM", "Killed", "Site"]

MEDIUM = """
[[expert]]
name = "medium"
onnx = "medium.onnx"

[[expert]]
name = "large"
"""


class Killed(BaseException):
    """Stands for SIGKILL: nothing is undone."""


@dataclass
class Site:
    """A built toy and the server that serves it."""

    folder: Path
    server: FakeServer

    @property
    def root(self) -> Path:
        return self.folder / "repository"

    @property
    def spec(self) -> Spec:
        return Spec.read(self.folder / "cascade.toml")

    def deploy(self, **options: object) -> Deployment:
        return deploy(
            self.spec, self.root, self.server, artifacts_folder=self.folder / "build", **options
        )

    def rollback(self, tell: Callable[[str], None] = lambda _: None) -> Deployment:
        return rollback("toy", self.root, self.server, tell=tell)

    def build(self, **options: object) -> object:
        return build(self.spec, self.root, artifacts_folder=self.folder / "build", **options)

    def replace(self, seed: int = 1) -> None:
        """Give the small expert other weights."""
        weights = np.random.default_rng(seed).standard_normal((INPUTS, 3))
        save(linear(weights=weights), self.folder / "small.onnx")

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "cascade.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def add(self) -> None:
        """Put an expert between the two that there are."""
        save(two_layers(hidden=1024), self.folder / "medium.onnx")
        self.edit('[[expert]]\nname = "large"\n', MEDIUM)

    def kill(self, run: Callable[[], object], at: int | str, *, restart: bool = True) -> None:
        """Kill a command at a load, by its number or its name, and start the server anew."""
        left = self.folder / "as_it_was"

        def kill(n: int) -> None:
            if at in (n, self.server.calls[-1]) and not left.exists():
                shutil.copytree(self.root, left)  # the dead do not clean up
                raise Killed

        self.server.fail = kill
        with pytest.raises(Killed):
            run()
        shutil.rmtree(self.root)
        left.rename(self.root)
        self.server.fail = lambda n: None
        if restart:
            self.server.start()

    def loaded(self) -> dict[str, list[int]]:
        """Say which versions answer."""
        found = self.server.states().items()
        out = {m: [v for v, state in versions.items() if state == READY] for m, versions in found}
        return {model: versions for model, versions in out.items() if versions}

    def whole(self) -> None:
        """Every config names versions that are there, and the edition in force is served whole."""
        for path in self.root.glob("*/config.pbtxt"):
            for version in parse(path.read_text()).version_policy.specific.versions:
                assert (path.parent / str(version)).is_dir(), path
        self.served()

    def present(self) -> None:
        """Whatever is loaded lies in the repository."""
        for model, versions in self.loaded().items():
            for version in versions:
                assert (self.root / model / str(version)).is_dir(), (model, version)

    def served(self) -> None:
        """The edition in force is loaded, and the ensemble calls it."""
        edition = Edition.in_force(self.root, "toy")
        loaded = self.loaded()
        for model, version in edition.models.items():
            assert version in loaded[model], model
        assert self.server.step_version("toy", "toy_router") == edition.router
