"""What a router is loaded with: an expert of its own, versions and options by its manifest."""

import json

import numpy as np
import onnx
import pytest
from fake_triton import Request
from onnx import TensorProto, helper
from toy_router import final, start

from cascade_router import PolicyError


def onnx_that_repeats(path):
    """Write an expert whose logits are its input."""
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("X", "LOGITS")
    ]
    node = helper.make_node("Identity", ["X"], ["LOGITS"])
    graph = helper.make_graph([node], "same", tensors[:1], tensors[1:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_the_first_expert_runs_in_the_router_where_it_lies_there(server, folder):
    """No call of its model; what it decides and what it sends up is as before."""
    (folder / "1/experts").mkdir()
    onnx_that_repeats(folder / "1/experts/small.onnx")
    model = start(folder, expert_here="small")
    rows = [[9, 0, 0], [0.4, 0, 0]]
    requests = [Request({"X": np.array([r], dtype=np.float32)}) for r in rows]

    answers = [final(q, r) for q, r in zip(requests, model.execute(requests), strict=True)]
    model.finalize()

    assert [a.output("TIER").tolist() for a in answers] == [[[0]], [[1]]]
    assert server.calls == [("c_middle", 1)]


def test_a_missing_expert_beside_the_router_is_named(server, folder):
    """The router does not load without the file that the config promises."""
    with pytest.raises(PolicyError, match=r"small\.onnx: cannot be opened"):
        start(folder, expert_here="small")


def test_a_policy_for_other_experts_is_refused(server, folder):
    """The router does not load when an expert was rebuilt after calibration."""
    manifest = json.loads((folder / "1/manifest.json").read_text())
    manifest["experts"][1]["digest"] = "sha256:rebuilt"
    (folder / "1/manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(PolicyError, match="tier 'middle' was calibrated as sha256:middle"):
        start(folder)


def pinned(folder, **options):
    """Have the manifest name a version of every expert, and options of the router."""
    path = folder / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    for version, expert in enumerate(manifest["experts"], start=4):
        expert["version"] = version
    path.write_text(json.dumps(manifest | {"router": options}))


def test_each_expert_is_called_in_the_version_that_the_manifest_names(server, folder):
    """While one version takes over from another, no row sees experts of both."""
    pinned(folder)
    router = start(folder)
    unsure = Request({"X": np.array([[0.1, 0.0, 0.0]], dtype=np.float32)})

    (reply,) = router.execute([unsure])
    final(unsure, reply)
    router.finalize()

    called = {
        (model, version) for (model, _), version in zip(server.calls, server.versions, strict=True)
    }
    assert called == {("c_small", 4), ("c_middle", 5), ("c_large", 6)}


def test_options_beside_a_version_are_its_own(server, folder):
    """What the config says is for versions whose manifest says nothing."""
    pinned(folder, abstain_below="0.99")
    router = start(folder, abstain_below="0.0")
    unsure = Request({"X": np.array([[0.1, 0.0, 0.0]], dtype=np.float32)})

    (reply,) = router.execute([unsure])
    answer = final(unsure, reply)
    router.finalize()

    assert answer.output("LABEL").tolist() == [[-1]]
