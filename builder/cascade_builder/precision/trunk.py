"""Which part of a graph computes at the lower precision."""

from __future__ import annotations

from typing import Any

__all__ = ["MATRIX", "RESIZED", "is_layer", "trunk"]

MATRIX = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators that may be layers with weights."""

RESIZED = "_resized_by_a_matrix"
"""Ends the names of products that stand for a resize: their matrices are no weights."""


def is_layer(node: Any) -> bool:
    """Say whether a node multiplies as a layer does."""
    return node.op_type in MATRIX and not node.name.endswith(RESIZED)


def trunk(graph: Any) -> list[Any]:
    """List the nodes that depend on a layer with weights, such layers included, in their order.

    A weight is a constant of two dimensions or more, or what is computed from one alone.
    """
    constant = {tensor.name for tensor in graph.initializer}
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    reached: set[str] = set()
    nodes = []
    for node in graph.node:
        names = {name for name in node.input if name}
        if names <= constant:
            constant.update(node.output)
            if _is_matrix(node) or not weights.isdisjoint(names):
                weights.update(node.output)
            continue
        first = is_layer(node) and not weights.isdisjoint(names)
        if first or not reached.isdisjoint(names):
            nodes.append(node)
            reached.update(node.output)
    return nodes


def _is_matrix(node: Any) -> bool:
    """Say whether a node is itself a constant of two dimensions or more."""
    if node.op_type != "Constant":
        return False
    return any(len(attribute.t.dims) > 1 for attribute in node.attribute)
