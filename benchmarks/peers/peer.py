"""What a peer is: a cascade as users build one today, behind one door for harness and tests.

All peers of a `Setup` answer by the same ONNX files and gates as the cascade that the repository
serves: max probability against a threshold per tier, the last tier takes what is left. They take
the canonical rows, as `<cascade>_router` does, and return all four outputs, as it does::

    setup = Setup.read(folder, "imagenet", point="balanced")
    for peer in PEERS:
        peer.lay_out(setup)                       # before the server starts on this folder
    with Server(repository=folder, ...) as server:
        setup = replace(setup, url=server.grpc_url)
        with peer.open(setup) as loadable:        # may stay open, idle, while others are measured
            transport = loadable.connect()        # inside the event loop
            records = await generate(transport, loadable.candidate, rows, load)
            await transport.close()
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cascade_builder import triton_config
from cascade_client.bench import Candidate
from cascade_client.calls import AsyncTransport, Port
from cascade_router import Policy, Score
from cascade_router.errors import PolicyError, ServerError
from cascade_router.manifest import read_manifest, versions_in
from cascade_router.versions import FIRST, folder_in_force

__all__ = ["Loadable", "Peer", "Setup", "Tier", "server_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One expert: how the repository serves it, and thus how a peer without Triton must.

    Attributes:
        model: The Triton model that serves it.
        onnx: Its file: canonical rows in, ``LOGITS`` out.
        instances: Copies that run at once.
        threads: Threads within one copy.
    """

    model: str
    onnx: Path
    instances: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The one operating point at which all are compared, and where it is served.

    Attributes:
        repository: Model folder; peers that need Triton models lay them out beside the cascade's.
        cascade: Its name.
        tiers: K experts, cheapest first.
        thresholds: K - 1 of them; a row exits at tier k when its highest probability is not below
            the k-th. The last tier answers whatever reaches it.
        activation: How logits become probabilities, ``softmax`` or ``sigmoid``.
        classes: C.
        port: The canonical input.
        max_batch: Most rows in one call of an expert.
        url: gRPC address of the server that serves ``repository``; None: none runs, which is
            enough for peers that bring a process of their own.
    """

    repository: Path
    cascade: str
    tiers: tuple[Tier, ...]
    thresholds: tuple[float, ...]
    activation: str
    classes: int
    port: Port
    max_batch: int
    url: str | None = None

    def __post_init__(self) -> None:
        """Refuse gates that do not fit the tiers."""
        if len(self.thresholds) != len(self.tiers) - 1:
            n = len(self.thresholds)
            message = f"{self.cascade}: got {n} thresholds for {len(self.tiers)} tiers"
            raise ValueError(message)

    @classmethod
    def read(
        cls, repository: Path, cascade: str, point: str | None = None, url: str | None = None
    ) -> Setup:
        """Read what a repository serves.

        Args:
            repository: As the builder laid it out.
            cascade: Its name.
            point: Operating point; None: the default.
            url: gRPC address of the server, if one runs.

        Raises:
            PolicyError: If the policy cannot be read, or the point's gates are not those of a
                plain cascade, which is all that the peers know.
            RequestError: If there is no such point.
        """
        from tritonclient.grpc import model_config_pb2

        folder = folder_in_force(repository, cascade)
        policy, versions = Policy.read(folder / "policy.json"), versions_in(read_manifest(folder))
        router = _config(repository, f"{cascade}_router")
        taken = router.input[0]
        datatype = model_config_pb2.DataType.Name(taken.data_type).removeprefix("TYPE_")
        return cls(
            repository=repository,
            cascade=cascade,
            tiers=tuple(
                _tier(repository, tier.model, versions.get(tier.name, FIRST))
                for tier in policy.tiers
            ),
            thresholds=_thresholds(policy, policy.default if point is None else point),
            activation=policy.activation,
            classes=policy.n_classes,
            port=Port(taken.name, datatype, tuple(taken.dims)),
            max_batch=router.max_batch_size,
            url=url,
        )

    def candidate(self, name: str, model: str) -> Candidate:
        """Say what to load: a model that takes canonical rows and answers as a cascade does."""
        return Candidate(name=name, model=model, port=self.port)

    def config(self, part: str) -> Any:
        """Read the Triton config of the cascade's ``router`` or of another part."""
        return _config(self.repository, f"{self.cascade}_{part}")

    def to_json(self) -> str:
        """Write what ``from_json`` reads, for a process of its own."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """Read what ``to_json`` wrote."""
        values = json.loads(text)
        port = values["port"]
        return cls(
            **values
            | {
                "repository": Path(values["repository"]),
                "tiers": tuple(Tier(**t | {"onnx": Path(t["onnx"])}) for t in values["tiers"]),
                "thresholds": tuple(values["thresholds"]),
                "port": Port(port["name"], port["datatype"], tuple(port["shape"])),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A peer that is ready for load.

    Attributes:
        candidate: What `cascade_client.bench.generate` is to load.
        connect: Makes the transport to load it by; called inside the event loop, closed by the
            caller. Its ``send`` of the candidate's calls returns ``SCORES`` FP32 (B, C), ``LABEL``
            INT32, ``CONFIDENCE`` FP32 and ``TIER`` INT32, (B, 1) each, and fails with a
            ``CascadeError``.
    """

    candidate: Candidate
    connect: Callable[[], AsyncTransport]


class Peer(Protocol):
    """A way to run a cascade.

    Attributes:
        name: What tables and tests call it.
        alone: It brings a process of its own; False: ``open`` needs ``Setup.url``.
    """

    name: str
    alone: bool

    def missing(self) -> str | None:
        """Say which package it needs that is not installed; None: it can run."""

    def lay_out(self, setup: Setup) -> None:
        """Write its Triton models, if any, into the repository; again, if they are there."""

    def open(self, setup: Setup) -> AbstractContextManager[Loadable]:
        """Start what it needs, wait until it answers, and stop it in the end.

        Raises:
            ServerError: If it cannot be started, or needs a server and ``setup.url`` is None.
        """


def server_of(setup: Setup, name: str) -> str:
    """Take the address of the server that a peer is served by.

    Raises:
        ServerError: If none runs.
    """
    if setup.url is None:
        message = f"{name}: it is served from the repository, and no server runs"
        raise ServerError(message, hint="start one and put its address into Setup.url")
    return setup.url


def _config(repository: Path, model: str) -> Any:
    return triton_config.parse((repository / model / "config.pbtxt").read_text())


def _tier(repository: Path, model: str, version: int) -> Tier:
    config = _config(repository, model)
    # The embedded target and Triton's onnxruntime backend name it differently.
    threads = {
        key: int(value.string_value)
        for key, value in config.parameters.items()
        if key in ("intra_op_threads", "intra_op_thread_count")
    }
    return Tier(
        model=model,
        onnx=(repository / model / str(version) / "model.onnx").resolve(),
        instances=config.instance_group[0].count,
        threads=next(iter(threads.values()), 1),
    )


def _thresholds(policy: Policy, name: str) -> tuple[float, ...]:
    gates = policy.points[policy.index(name)].gates
    plain = all(tier.score == Score() for tier in policy.tiers) and policy.answer == "last"
    if not plain or any(gate.off or gate.skip_to is not None for gate in gates):
        message = f"policy.json: point {name!r} of {policy.cascade!r} is no plain cascade"
        raise PolicyError(message, hint="peers know max probability and one threshold per tier")
    return tuple(gate.threshold for gate in gates[:-1])
