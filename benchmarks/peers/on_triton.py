"""Peers that are models of the same server: the tutorials' router, an ensemble of all experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_builder import repository, triton_config
from cascade_builder.layout import Model
from cascade_builder.runtime import OUTPUT
from cascade_client.transport import connect_load

from .peer import Loadable, Setup, server_of

__all__ = ["PerRequestBls", "RunAll"]


@dataclass(frozen=True)
class PerRequestBls:
    """A router that makes one BLS call per request and tier, one request after the other.

    Attributes:
        instances: Of the router; the tutorials' configs leave it at one.
    """

    instances: int = 1
    name: str = "per_request_bls"
    alone: bool = False

    def missing(self) -> None:
        """It needs nothing."""

    def lay_out(self, setup: Setup) -> None:
        """Add the router, configured as tutorials show it: no batcher."""
        config = _like_router(setup, self._model(setup))
        config.ClearField("dynamic_batching")
        config.instance_group[0].count = self.instances
        config.parameters["tiers"].string_value = ",".join(tier.model for tier in setup.tiers)
        _write(setup, [_model(config, "per_request_bls.py")])

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Loadable]:
        """Load it by gRPC."""
        url = server_of(setup, self.name)
        candidate = setup.candidate(self.name, self._model(setup))
        yield Loadable(candidate=candidate, connect=lambda: connect_load(url))

    def _model(self, setup: Setup) -> str:
        return f"{setup.cascade}_{self.name}"


@dataclass(frozen=True)
class RunAll:
    """An ensemble whose steps run every expert on every row, then one that selects by the gates."""

    name: str = "run_all"
    alone: bool = False

    def missing(self) -> None:
        """It needs nothing."""

    def lay_out(self, setup: Setup) -> None:
        """Add the selecting model, and the ensemble of it and the experts."""
        select = _like_router(setup, f"{setup.cascade}_select_by_gates")
        del select.input[:]
        logits = [f"{OUTPUT}_{k}" for k in range(len(setup.tiers))]
        for name in logits:
            select.input.add(name=name, data_type=select.output[0].data_type, dims=[setup.classes])
        ensemble = _like_router(setup, f"{setup.cascade}_{self.name}")
        for field in ("backend", "dynamic_batching", "instance_group", "parameters"):
            ensemble.ClearField(field)
        ensemble.platform = "ensemble"
        for tier, name in zip(setup.tiers, logits, strict=True):
            _step(ensemble, tier.model, {setup.port.name: setup.port.name}, {OUTPUT: name})
        answers = {one.name: one.name for one in select.output}
        _step(ensemble, select.name, {name: name for name in logits}, answers)
        _write(setup, [_model(select, "select_by_gates.py"), _model(ensemble)])

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Loadable]:
        """Load it by gRPC."""
        url = server_of(setup, self.name)
        candidate = setup.candidate(self.name, f"{setup.cascade}_{self.name}")
        yield Loadable(candidate=candidate, connect=lambda: connect_load(url))


def _write(setup: Setup, models: list[Model]) -> None:
    change = repository.Change(owner=models[-1].name, write=models)
    repository.apply(setup.repository, change)


def _like_router(setup: Setup, name: str) -> Any:
    """Describe a Python model with the tensors and instances of our router, and the gates."""
    config = setup.config("router")
    config.name = name
    config.ClearField("version_policy")
    config.ClearField("parameters")
    config.parameters["thresholds"].string_value = ",".join(map(str, setup.thresholds))
    config.parameters["activation"].string_value = setup.activation
    return config


def _step(ensemble: Any, model: str, inputs: dict[str, str], outputs: dict[str, str]) -> None:
    step = ensemble.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update(inputs)
    step.output_map.update(outputs)


def _model(config: Any, source: str | None = None) -> Model:
    """Say the files of a model; without a source it is an ensemble."""
    files: dict[str, bytes | Path] = {"config.pbtxt": triton_config.text(config).encode()}
    if source is None:
        files["1/.keep"] = b""  # Triton wants a version folder for an ensemble too
    else:
        files["1/model.py"] = Path(__file__).with_name(source)
    return Model(name=config.name, files=files)
