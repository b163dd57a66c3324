"""A stand-in for ``triton_python_backend_utils``, at the seam where the server begins.

Only what the models of this project use. The integration tests run the same models for real.
"""

from __future__ import annotations

import json
import queue
import types
from collections import Counter
from typing import Any

import numpy as np


class TritonModelException(Exception):  # noqa: N818  # Triton's name
    pass


class TritonError(Exception):  # Triton's name
    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message, code="INTERNAL"):
        super().__init__(message)
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def output(self, name):
        return {t.name(): t.as_numpy() for t in self._tensors}[name]

    def names(self):
        return {t.name() for t in self._tensors}


class Sender:
    """Used up by its first ``send``, as Triton's, even where that fails."""

    def __init__(self):
        self.replies = queue.Queue()
        self.used = False

    def send(self, response, flags):
        assert flags == 1
        if self.used:
            raise TritonModelException("Response sender has been closed.")
        self.used = True
        if response.has_error():
            response.error().message().encode()  # as the binding does
        self.replies.put(response)


class Request:
    """One client request; ``reply`` waits for the answer, by list or by sender."""

    def __init__(self, inputs, parameters=None, outputs=None):
        self.inputs = inputs
        self._parameters = parameters or {}
        self._outputs = outputs or ["SCORES", "LABEL", "CONFIDENCE", "TIER"]
        self.sender = None

    def parameters(self):
        return json.dumps(self._parameters) if self._parameters else ""

    def requested_output_names(self):
        return list(self._outputs)

    def get_response_sender(self):
        self.sender = Sender()
        return self.sender


class Server:
    """Models by name: functions from named arrays to named arrays, or to an error text."""

    def __init__(self):
        self.models: dict[str, Any] = {}
        self.calls: list[tuple[str, int]] = []
        self.versions: list[int] = []
        self.counted: Counter = Counter()

    def module(self) -> types.ModuleType:
        server = self
        module = types.ModuleType("triton_python_backend_utils")

        class InferenceRequest:
            def __init__(
                self,
                model_name,
                requested_output_names,
                inputs,
                preferred_memory=None,
                model_version=-1,
            ):
                self._model, self._wanted = model_name, requested_output_names
                server.versions.append(model_version)
                self._inputs = {t.name(): t.as_numpy() for t in inputs}

            def exec(self):
                server.calls.append((self._model, len(next(iter(self._inputs.values())))))
                outputs = server.models[self._model](self._inputs)
                if isinstance(outputs, str):
                    return InferenceResponse(error=TritonError(outputs))
                return InferenceResponse([Tensor(n, outputs[n]) for n in self._wanted])

        class Metric:
            def __init__(self, family, labels):
                self._key = (family, *sorted(labels.items()))

            def increment(self, n):
                server.counted[self._key] += n

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name, description, kind):
                self._name = name

            def Metric(self, labels):  # noqa: N802  # Triton's name
                return Metric(self._name, labels)

        module.TritonError, module.Tensor = TritonError, Tensor
        module.TritonModelException = TritonModelException
        module.InferenceResponse, module.InferenceRequest = InferenceResponse, InferenceRequest
        module.MetricFamily = MetricFamily
        module.PreferredMemory = lambda kind, device: (kind, device)
        module.TRITONSERVER_MEMORY_CPU = 0
        module.triton_string_to_numpy = {"TYPE_FP32": np.float32}.__getitem__
        module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
        module.get_input_tensor_by_name = lambda request, name: Tensor(
            name, np.asarray(request.inputs[name])
        )
        module.get_output_tensor_by_name = lambda response, name: Tensor(
            name, response.output(name)
        )
        return module
