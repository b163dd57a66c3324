"""The router as tutorials show it: for each request, one BLS call after the other.

This file is a complete ``model.py``. The config's ``parameters`` say ``tiers`` (names of models)
and ``thresholds`` (one per gate), separated by commas, and ``activation`` (``softmax`` or
``sigmoid``).
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Calls the tiers of one request in turn until one is confident."""

    def initialize(self, args):
        """Read tiers and thresholds."""
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.tiers = parameters["tiers"].split(",")
        self.thresholds = [float(t) for t in parameters["thresholds"].split(",")]
        self.sigmoid = parameters.get("activation") == "sigmoid"
        self.input = config["input"][0]["name"]

    def execute(self, requests):
        """Answer the requests one by one."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """Walk one request up the tiers; it may hold several rows."""
        rows = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
        left = np.arange(len(rows))
        scores = tier = None
        for k, model in enumerate(self.tiers):
            call = pb_utils.InferenceRequest(
                model_name=model,
                requested_output_names=["LOGITS"],
                inputs=[pb_utils.Tensor(self.input, rows[left])],
            )
            reply = call.exec()
            if reply.has_error():
                raise pb_utils.TritonModelException(reply.error().message())
            logits = pb_utils.get_output_tensor_by_name(reply, "LOGITS").as_numpy()
            probs = self.probabilities(logits)
            if scores is None:
                scores = np.empty((len(rows), probs.shape[1]), dtype=np.float32)
                tier = np.zeros(len(rows), dtype=np.int32)
            scores[left] = probs
            tier[left] = k
            if k == len(self.tiers) - 1:
                break
            left = left[~(probs.max(axis=1) >= self.thresholds[k])]
            if not len(left):
                break
        label = scores.argmax(axis=1).astype(np.int32)
        outputs = {
            "SCORES": scores,
            "LABEL": label[:, None],
            "CONFIDENCE": scores.max(axis=1)[:, None],
            "TIER": tier[:, None],
        }
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def probabilities(self, logits):
        """Turn (n, C) logits into probabilities."""
        if self.sigmoid:
            return 0.5 * (1 + np.tanh(0.5 * logits))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
