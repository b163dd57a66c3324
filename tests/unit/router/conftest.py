"""A router of three experts, as every test of the Triton model may use it."""

import json
import sys

import pytest
from fake_triton import Server
from toy_router import NAMES, policy, start

from cascade_router import triton_io


@pytest.fixture
def server(monkeypatch):
    """Experts whose logits are the input times 1, 2 and 3."""
    made = Server()
    for k, name in enumerate(NAMES):
        made.models[f"c_{name}"] = lambda inputs, k=k: {"LOGITS": inputs["X"] * (k + 1)}
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", made.module())
    triton_io._pb.cache_clear()
    return made


@pytest.fixture
def folder(tmp_path):
    version = tmp_path / "c_router" / "1"
    version.mkdir(parents=True)
    (version / "policy.json").write_text(policy().to_json())
    experts = [{"name": n, "digest": f"sha256:{n}"} for n in NAMES]
    (version / "manifest.json").write_text(json.dumps({"cascade": "c", "experts": experts}))
    return tmp_path / "c_router"


@pytest.fixture
def router(server, folder):
    model = start(folder)
    yield model
    model.finalize()
