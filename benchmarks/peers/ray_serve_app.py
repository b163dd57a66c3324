"""A cascade under Ray Serve, run by `alone`: model composition as its guide shows it.

Each expert is a deployment of its own that batches (`@serve.batch`) and has as many replicas as
Triton would run instances. The ingress deployment holds their handles and walks each request up.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from cascade_client.calls import Array
from cascade_router import probabilities
from cascade_router.onnx_expert import session

from .climb import Climb
from .peer import Setup
from .program import Program
from .raw_rows import body_of, rows_of

_HOST = "127.0.0.1"
_WAITING = 4096
"""Most requests that the ingress holds: more than any load that it is put under."""


@serve.deployment
class Expert:
    """One ONNX file: rows of one request in, their probabilities out.

    Args:
        onnx: The file.
        threads: Threads within a run.
        activation: How logits become probabilities.
        max_batch: Most requests in a run.
    """

    def __init__(self, onnx: str, threads: int, activation: str, max_batch: int) -> None:
        self._session = session(onnx, threads)
        self._input = self._session.get_inputs()[0].name
        self._activation = activation
        self._run_batch.set_max_batch_size(max_batch)

    async def __call__(self, rows: Array) -> Array:
        """Answer (n, ...) rows."""
        return await self._run_batch(rows)

    @serve.batch(batch_wait_timeout_s=0.0)
    async def _run_batch(self, requests: list[Array]) -> list[Array]:
        # In a thread: the replica's loop takes requests in while the session, outside the
        # interpreter's lock, computes.
        return await asyncio.to_thread(self._run, requests)

    def _run(self, requests: list[Array]) -> list[Array]:
        rows = requests[0] if len(requests) == 1 else np.concatenate(requests)
        logits = self._session.run(["LOGITS"], {self._input: rows})[0]
        probs = probabilities(logits, self._activation)
        return np.split(probs, np.cumsum([len(one) for one in requests[:-1]]))


@serve.deployment
class Cascade:
    """The ingress: walks each request up the experts.

    Args:
        setup: The cascade, as JSON.
        experts: Their deployments, cheapest first.
    """

    def __init__(self, setup: str, *experts: DeploymentHandle) -> None:
        self._setup = Setup.from_json(setup)
        self._experts = experts

    async def __call__(self, request: Request) -> Response:
        """Answer the rows in the request's body."""
        setup = self._setup
        rows = rows_of(await request.body(), setup)
        climb = Climb(len(rows), setup.classes, setup.thresholds)
        for expert in self._experts:
            climb.take(await expert.remote(rows[climb.left]))
            if not len(climb.left):
                break
        return Response(body_of(climb.answers()), media_type="application/octet-stream")


def stay_on_loopback() -> None:
    """Bind to loopback, in every worker, what Ray 2.60 binds to all addresses whatever it is told.

    A replica's server for other deployments, which unpickles what comes, and HAProxy's pages of
    figures.
    """
    from ray.serve._private import haproxy, replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: bind(server, f"{_HOST}:0")
    template = haproxy.HAPROXY_CONFIG_TEMPLATE
    haproxy.HAPROXY_CONFIG_TEMPLATE = re.sub(r"\bbind \*?:", f"bind {_HOST}:", template)


def application(setup: Setup) -> Any:
    """Compose the deployments; none reserves cores, all share those there are."""
    experts = [
        Expert.options(
            name=tier.model,
            num_replicas=tier.instances,
            max_ongoing_requests=2 * setup.max_batch,
            ray_actor_options={"num_cpus": 0},
        ).bind(str(tier.onnx), tier.threads, setup.activation, setup.max_batch)
        for tier in setup.tiers
    ]
    return Cascade.options(max_ongoing_requests=_WAITING, ray_actor_options={"num_cpus": 0}).bind(
        setup.to_json(), *experts
    )


def main() -> None:
    """Serve until told to end."""
    program = Program.called()
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": stay_on_loopback},
        _temp_dir=str(program.folder),
    )
    serve.start(http_options={"host": _HOST, "port": program.port})
    serve.run(application(program.setup))
    program.wait()
    ray.shutdown()  # ends the deployments too; serve.shutdown() would wait half a minute for them


if __name__ == "__main__":
    main()
