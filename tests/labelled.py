"""Labelled data that is not part of the product, and the experts run on it the dull way."""

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"


def needs(folder):
    """Skip where the labelled data is absent."""
    return pytest.mark.skipif(
        not (DATA / folder).exists(), reason=f"labelled data {folder}/ is not on this machine"
    )


def expert_logits(repository, policy, rows, input_name):
    """Run every expert with ONNX Runtime, one row at a time: the dull way.

    Returns:
        (K, N, C) float32.
    """
    import onnxruntime

    logits = []
    for tier in policy.tiers:
        session = onnxruntime.InferenceSession(repository / tier.model / "1" / "model.onnx")
        logits.append([session.run(None, {input_name: row[None]})[0][0] for row in rows])
    return np.array(logits)
