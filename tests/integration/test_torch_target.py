"""Target torch on the real server, on the processor: a program, and a package compiled ahead."""

import dataclasses
import shutil
import zipfile

import numpy as np
import pytest
from kept_builds import FOLDER
from tritonclient import grpc

from cascade_builder import export, rows, targets
from cascade_builder.build import build
from cascade_builder.comparison import compare
from cascade_builder.runtime import OUTPUT, OnnxExpert
from cascade_builder.spec import Program, Spec
from cascade_client import CascadeClient
from cascade_router.serve import Server, free_ports

SPEC = """
[cascade]
name = "pitch"
activation = "sigmoid"
classes = 360
label_tolerance = 2
max_batch = 8

[input]
kind = "tensor"
name = "FRAME"
dtype = "FP32"
shape = [1024]

[rows]
factory = "cascade_builder.demo.notes:rows"

[[expert]]
name = "tiny"
engine = "tiny.pt2"

[[expert]]
name = "medium"
factory = "cascade_builder.demo.crepe:expert"
arguments = { size = "medium" }
precision = "bf16"

[[point]]
name = "half"
threshold = THRESHOLD
"""

TOO_CLOSE = 0.01
"""A score this near to its threshold may fall either way."""


@pytest.fixture(scope="module")
def frames():
    """The demo's notes, (n, 1024)."""
    spec = Spec.find("pitch")
    return rows.canonical(rows.raw(spec.rows, spec.input.kind), spec.input)


@pytest.fixture(scope="module")
def expected(frames, repository):
    """Logits by the ONNX files that the embedded target serves."""
    files = {name: repository / f"pitch_{name}" / "1" / "model.onnx" for name in ("tiny", "medium")}
    return {name: OnnxExpert(file)(frames) for name, file in files.items()}


@pytest.fixture(scope="module")
def threshold(expected):
    """One that half of the rows pass."""
    return float(np.median(scores(expected["tiny"])))


@pytest.fixture(scope="module")
def served(tmp_path_factory, repository, frames, threshold):
    """The smallest expert compiled ahead and brought as an engine, the next one as a program."""
    folder = tmp_path_factory.mktemp("torch")
    demo = dataclasses.replace(Spec.find("pitch"), program=Program(compile=True))
    tiny = demo.experts[0]
    onnx = repository / "pitch_tiny" / "1" / "model.onnx"
    module = export.make(tiny, demo.input)
    targets.convert(onnx, tiny, demo, "torch", frames, folder, module=module)
    (folder / "model.pt2").rename(folder / "tiny.pt2")
    # Its graph is there already: the embedded target's.
    shutil.copytree(FOLDER / "pitch" / "graphs", folder / "build" / "pitch" / "graphs")
    spec = Spec.parse(SPEC.replace("THRESHOLD", repr(threshold)), folder)
    build(spec, folder / "models", target="torch", artifacts_folder=folder / "build")
    log = folder / "server.log"
    with Server(repository=folder / "models", ports=free_ports(), log=log) as server:
        yield server


def scores(logits):
    return 1 / (1 + np.exp(-logits.max(axis=1)))


@pytest.mark.parametrize(("name", "precision"), [("tiny", "fp32"), ("medium", "bf16")])
def test_a_served_program_answers_as_the_onnx_file(name, precision, served, frames, expected):
    """Alone and in batches, within the tolerance of its precision."""
    for size in (1, 8):
        found = []
        with grpc.InferenceServerClient(served.grpc_url) as client:
            for i in range(0, len(frames), size):
                batch = frames[i : i + size]
                tensor = grpc.InferInput("FRAME", list(batch.shape), "FP32")
                tensor.set_data_from_numpy(batch)
                found.append(client.infer(f"pitch_{name}", [tensor]).as_numpy(OUTPUT))
        compared = compare(
            expected[name],
            np.concatenate(found),
            precision,
            activation="sigmoid",
            label_tolerance=2,
        )
        assert compared.failures == []


def test_the_cascade_escalates_by_their_scores(served, frames, expected, threshold):
    """A row that the first expert is not sure of is answered by the second."""
    with CascadeClient(served.grpc_url, "pitch") as client:
        client.wait_ready(60)
        answers = client.infer(list(frames), point="half")
    assert {answer.tier for answer in answers} == {0, 1}
    firsts = scores(expected["tiny"])
    for i, answer in enumerate(answers):
        if abs(firsts[i] - threshold) > TOO_CLOSE:
            assert answer.tier == int(firsts[i] < threshold)
        wanted = expected["medium" if answer.tier else "tiny"][i].argmax()
        assert abs(answer.label - wanted) <= 2


def test_one_is_machine_code_and_the_other_a_graph(served):
    """The runner opens either, by what it finds in the file."""
    found = {}
    for name in ("tiny", "medium"):
        with zipfile.ZipFile(served.repository / f"pitch_{name}" / "1" / "model.pt2") as package:
            found[name] = {entry.rpartition(".")[2] for entry in package.namelist()}
    assert "so" in found["tiny"]
    assert "so" not in found["medium"]
