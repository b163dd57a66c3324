"""The last step of an ensemble that has run all experts: take the first that is confident.

This file is a complete ``model.py``: inputs ``LOGITS_0``, ``LOGITS_1`` and so on, cheapest expert
first. The config's ``parameters`` say ``thresholds`` (one per gate, separated by commas) and
``activation`` (``softmax`` or ``sigmoid``).
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Selects, for all rows of a batch at once."""

    def initialize(self, args):
        """Read the gates."""
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        thresholds = [float(t) for t in parameters["thresholds"].split(",")]
        self.thresholds = np.array(thresholds)[:, None]
        self.sigmoid = parameters["activation"] == "sigmoid"
        self.inputs = [one["name"] for one in config["input"]]

    def execute(self, requests):
        """Answer all requests with one pass over their stacked rows."""
        logits = [
            [pb_utils.get_input_tensor_by_name(r, name).as_numpy() for r in requests]
            for name in self.inputs
        ]
        sizes = [len(rows) for rows in logits[0]]
        outputs = self.select([np.concatenate(tier) for tier in logits])
        ends = np.cumsum(sizes)
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(name, array[end - size : end])
                    for name, array in outputs.items()
                ]
            )
            for size, end in zip(sizes, ends, strict=True)
        ]

    def select(self, logits):
        """Choose from K arrays of (N, C) logits."""
        probs = np.stack([self.probabilities(tier) for tier in logits])
        passes = probs[:-1].max(axis=2) >= self.thresholds
        tier = np.where(passes.any(axis=0), passes.argmax(axis=0), len(logits) - 1)
        scores = probs[tier, np.arange(len(tier))]
        return {
            "SCORES": scores,
            "LABEL": scores.argmax(axis=1).astype(np.int32)[:, None],
            "CONFIDENCE": scores.max(axis=1)[:, None],
            "TIER": tier.astype(np.int32)[:, None],
        }

    def probabilities(self, logits):
        """Turn (N, C) logits into probabilities."""
        if self.sigmoid:
            return 0.5 * (1 + np.tanh(0.5 * logits))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
