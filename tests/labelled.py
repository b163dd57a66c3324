"""Labelled data that is not part of the product, and the experts run on it the dull way."""

import os
from concurrent.futures import ThreadPoolExecutor
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
    """Run every expert with ONNX Runtime, one row at a time: the dull way, on all processors.

    Returns:
        (K, N, C) float32.
    """
    import onnxruntime

    one_thread = onnxruntime.SessionOptions()
    one_thread.intra_op_num_threads = 1

    def logits_by(model):
        path = repository / model / "1" / "model.onnx"
        session = onnxruntime.InferenceSession(path, one_thread)
        return list(pool.map(lambda row: session.run(None, {input_name: row[None]})[0][0], rows))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array([logits_by(tier.model) for tier in policy.tiers])
