"""Makes cascades: from the experts that ``cascade.toml`` names to a repository that Triton serves.

    spec <- sources <- rows <- export <- targets <- making <- build -> repository <- triton_config

Heavy libraries (torch, onnx, onnxruntime) are imported where they are needed, so that a build with
nothing to do, and ``--help``, answer at once.
"""

from __future__ import annotations
