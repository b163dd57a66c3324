"""A cascade under PyTriton, run by `alone`: one bound callable per copy of the experts.

As PyTriton's guide has it: the callable takes whole batches (`@batch`), Triton's dynamic batcher
makes them, and several callables in the list serve at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from cascade_client.tensors import DTYPES
from cascade_router import probabilities
from cascade_router.onnx_expert import session
from cascade_router.serve import free_ports

from .climb import Climb
from .peer import Setup
from .program import Program

_HOST = "127.0.0.1"


class Cascade:
    """Walks one batch up the tiers.

    Args:
        setup: The cascade.
        sessions: An ONNX Runtime session per tier.
    """

    def __init__(self, setup: Setup, sessions: list[Any]) -> None:
        self._setup = setup
        self._sessions = sessions

    @batch
    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Answer (n, ...) rows."""
        setup = self._setup
        rows = inputs[setup.port.name]
        climb = Climb(len(rows), setup.classes, setup.thresholds)
        for one in self._sessions:
            logits = one.run(["LOGITS"], {setup.port.name: rows[climb.left]})[0]
            climb.take(probabilities(logits, setup.activation))
            if not len(climb.left):
                break
        return climb.answers()


def copies(setup: Setup) -> list[Cascade]:
    """Make as many cascades as the expert with most instances has; others' sessions are shared."""
    opened = [
        [session(str(tier.onnx), tier.threads) for _ in range(tier.instances)]
        for tier in setup.tiers
    ]
    n = max(tier.instances for tier in setup.tiers)
    return [Cascade(setup, [own[i % len(own)] for own in opened]) for i in range(n)]


def main() -> None:
    """Serve until told to end."""
    program = Program.called()
    setup = program.setup
    config = TritonConfig(
        http_address=_HOST,
        http_port=free_ports().http,
        grpc_address=_HOST,
        grpc_port=program.port,
        allow_metrics=False,
    )
    with Triton(config=config, workspace=program.folder / "triton") as triton:
        triton.bind(
            model_name=setup.cascade,
            infer_func=copies(setup),
            inputs=[
                Tensor(
                    name=setup.port.name,
                    dtype=DTYPES[setup.port.datatype].type,
                    shape=setup.port.shape,
                )
            ],
            outputs=[
                Tensor(name="SCORES", dtype=np.float32, shape=(setup.classes,)),
                Tensor(name="LABEL", dtype=np.int32, shape=(1,)),
                Tensor(name="CONFIDENCE", dtype=np.float32, shape=(1,)),
                Tensor(name="TIER", dtype=np.int32, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=setup.max_batch, batcher=DynamicBatcher()),
        )
        triton.run()
        program.wait()


if __name__ == "__main__":
    main()
