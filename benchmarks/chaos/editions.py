"""A cascade of small ONNX experts in many editions, built by the command and served."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cascade_client.calls import Array

from .expected import Question, clear_of_edges, questions
from .site import Site

__all__ = ["FIRST", "Edition", "answers", "command", "spec_of", "swapped"]

_INPUTS, _CLASSES = 8, 5
_THRESHOLD = 0.6
_HIDDEN = {"small": 0, "middle": 256, "large": 2048}
"""Width of each expert: the larger, the slower."""

_COMMAND_S = 120.0


@dataclass(frozen=True)
class Edition:
    """One cascade out of those that take turns.

    Attributes:
        experts: (name, variant) of each tier.
    """

    experts: tuple[tuple[str, int], ...]

    @cached_property
    def policy(self) -> dict[str, Any]:
        """What its spec says by hand, as the oracle reads it."""
        n = len(self.experts)
        gates = [{"threshold": _THRESHOLD}] * (n - 1) + [{}]
        tiers = [{"name": name, "score": {"kind": "max_prob"}} for name, _ in self.experts]
        points = [{"name": "only", "gates": gates}]
        return {"activation": "softmax", "tiers": tiers, "points": points, "default": "only"}

    def logits(self, rows: Array) -> Array:
        """(K, N, C), by NumPy."""
        return np.stack([_run(name, variant, rows) for name, variant in self.experts])

    def spec(self) -> str:
        """Write its ``cascade.toml``."""
        experts = "".join(
            f'\n[[expert]]\nname = "{name}"\nonnx = "{name}-{variant}.onnx"\ninstances = 2\n'
            for name, variant in self.experts
        )
        return (
            f'[cascade]\nname = "swapped"\nclasses = {_CLASSES}\nmax_batch = 32\n'
            f'\n[input]\nkind = "tensor"\nname = "X"\ndtype = "FP32"\nshape = [{_INPUTS}]\n'
            f'\n[rows]\nfolder = "rows"\n{experts}'
            f'\n[[point]]\nname = "only"\nthreshold = {_THRESHOLD}\n'
        )

    def with_variant(self, name: str) -> Edition:
        """Replace an expert by its other variant."""
        return Edition(tuple((n, 1 - v if n == name else v) for n, v in self.experts))

    def with_middle(self) -> Edition:
        """Add an expert between the two, or take it out again."""
        first, *rest, last = self.experts
        return Edition((first, last) if rest else (first, ("middle", 0), last))


FIRST = Edition((("small", 0), ("large", 0)))


def swapped(scratch: Path, disk: Path | None = None) -> Site:
    """Serve the first edition.

    Args:
        scratch: Gets spec, ONNX files and log.
        disk: Gets the repository and what is built; None: ``scratch``.
    """
    folder = _spec_folder(scratch)
    repository = (disk or scratch) / "models"
    failed = command(folder, repository, FIRST, "build")
    if failed is not None:
        raise RuntimeError(failed)
    rows = np.random.default_rng(12).normal(0, 1, (300, _INPUTS)).astype(np.float32)
    return Site(
        repository=repository, cascade="swapped", rows=list(rows), log=scratch / "server.log"
    )


def spec_of(scratch: Path) -> Path:
    """Say where the spec lies."""
    return scratch / "spec"


def answers(rows: Array) -> dict[Edition, list[Question]]:
    """Ask for every row plainly under each edition; rows on the edge of any are left out."""
    pairs = itertools.product((0, 1), repeat=2)
    two = [Edition((("small", i), ("large", j))) for i, j in pairs]
    editions = [*two, *(one.with_middle() for one in two)]
    asked = [questions([one.policy], rows, one.logits(rows), [{}])[0] for one in editions]
    return dict(zip(editions, clear_of_edges(asked), strict=True))


def command(
    folder: Path,
    repository: Path,
    edition: Edition,
    action: str,
    *more: str,
    artifacts: Path | None = None,
) -> str | None:
    """Run ``cascade-builder`` as an operator does.

    Args:
        folder: Gets the edition's spec.
        repository: What is built into.
        edition: What is asked for.
        action: ``build``, ``deploy`` or ``rollback``.
        more: Further arguments.
        artifacts: Keeps built experts; None: a folder beside the repository.

    Returns:
        What went wrong; None: nothing.
    """
    (folder / "cascade.toml").write_text(edition.spec())
    words = [action, "swapped" if action == "rollback" else "cascade.toml"]
    words += ["--repository", str(repository.resolve())]
    if action != "rollback":
        kept = repository.resolve().parent / "build" if artifacts is None else artifacts
        words += ["--artifacts", str(kept)]
    program = str(Path(sys.executable).parent / "cascade-builder")
    done = subprocess.run(
        [program, *words, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=_COMMAND_S,
    )
    return None if done.returncode == 0 else done.stderr.strip()[-500:]


def _spec_folder(scratch: Path) -> Path:
    """Write the experts' ONNX files and real rows beside where the spec will be."""
    folder = spec_of(scratch)
    (folder / "rows").mkdir(parents=True)
    rows = np.random.default_rng(13).normal(0, 1, (32, _INPUTS)).astype(np.float32)
    for i, row in enumerate(rows):
        np.save(folder / "rows" / f"{i:02}.npy", row)
    for name in _HIDDEN:
        for variant in (0, 1):
            _save(folder / f"{name}-{variant}.onnx", name, variant)
    return folder


def _weights(name: str, variant: int) -> list[Array]:
    """One matrix, or two with a ReLU between them; another variant has other numbers."""
    rng = np.random.default_rng([list(_HIDDEN).index(name), variant])
    hidden = _HIDDEN[name]
    shapes = [(_INPUTS, hidden), (hidden, _CLASSES)] if hidden else [(_INPUTS, _CLASSES)]
    scale = 1.2 if len(shapes) == 1 else 1.5 / hidden**0.5
    made = [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    return [*made[:-1], made[-1] * np.float32(scale)]


def _run(name: str, variant: int, rows: Array) -> Array:
    *first, last = _weights(name, variant)
    for matrix in first:
        rows = np.maximum(rows @ matrix, 0)
    return rows @ last


def _save(path: Path, name: str, variant: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, values, at = [], [], "x"
    weights = _weights(name, variant)
    for i, matrix in enumerate(weights):
        values.append(numpy_helper.from_array(matrix, f"w{i}"))
        last = i == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [at, f"w{i}"], ["y" if last else f"m{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"h{i}"]))
            at = f"h{i}"
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", _CLASSES])],
        values,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
