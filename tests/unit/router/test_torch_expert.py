"""The runner of torch programs: what it opens, what it refuses, how it answers Triton."""

import contextlib
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_triton import Request, Server
from torch import nn

from cascade_router import triton_io
from cascade_router.errors import PolicyError, TierError
from cascade_router.torch_expert import TritonPythonModel, runner

ROWS = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program of one matrix, for batches of 1 to 8."""
    torch.manual_seed(0)
    module = nn.Linear(8, 3).eval()
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(module, (torch.zeros(2, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    with torch.inference_mode():
        return path, module(torch.from_numpy(ROWS)).numpy()


def changed(path: Path, folder: Path, change) -> Path:
    """Write a package anew; ``change`` gets each entry's name and bytes and gives entries."""
    out = folder / "model.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            for entry, data in change(name, old.read(name)):
                new.writestr(entry, data)
    return out


class Evil:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self):
        return (_run, ())


def _run():
    Evil.ran = True
    return {}


def evil() -> bytes:
    buffer = io.BytesIO()
    torch.save(((Evil(),), {}), buffer)
    return buffer.getvalue()


def test_a_program_answers_any_batch(program):
    """Also rows that may not be written to, which requests hold."""
    path, expected = program
    run = runner(path, 1)
    frozen = ROWS.copy()
    frozen.flags.writeable = False
    for n in (1, 3, 5):
        np.testing.assert_allclose(run(frozen[:n]), expected[:n], atol=1e-6)
    assert torch.get_num_threads() == 1


def test_a_batch_that_it_does_not_take_fails_alone(program):
    """The next call is answered."""
    run = runner(program[0], 1)
    with pytest.raises(TierError, match="PyTorch: "):
        run(np.zeros((2, 9), np.float32))
    assert run(ROWS).shape == (5, 3)


def pickled_inputs(name, data):
    yield name, evil() if name.endswith(".pt") else data


def pickled_weights(name, data):
    if name.endswith("weights_config.json"):
        values = json.loads(data)
        for entry in values["config"].values():
            entry["use_pickle"] = True
        data = json.dumps(values).encode()
    yield name, data


def opaque_constants(name, data):
    if name.endswith("constants_config.json"):
        entry = {"path_name": "opaque_obj_0", "use_pickle": False, "is_param": False}
        data = json.dumps({"config": {"x": entry | {"tensor_meta": None}}}).encode()
        yield name.replace("model_constants_config.json", "opaque_obj_0"), pickle.dumps(Evil())
    yield name, data


def old_format(name, data):
    if name.endswith("archive_format"):
        yield "version", b"8.0"
    yield name, data


def legacy_constants(name, data):
    if name.endswith("constants_config.json"):
        yield name.replace("model_constants_config.json", "model.pt"), evil()
    yield name, data


@pytest.mark.parametrize(
    "change", [pickled_inputs, pickled_weights, opaque_constants, old_format, legacy_constants]
)
def test_what_would_be_unpickled_is_refused_unread(change, program, tmp_path):
    """Torch itself falls back to loading anything where a careful load fails."""
    path = changed(program[0], tmp_path, change)
    Evil.ran = False
    with pytest.raises(PolicyError, match=r"model\.pt2: holds pickled objects in "):
        runner(path, 1)
    assert not Evil.ran


def test_the_planted_pickle_would_have_run(program, tmp_path):
    """Without the check torch runs it: the test above is not idle."""
    path = changed(program[0], tmp_path, pickled_inputs)
    Evil.ran = False
    with contextlib.suppress(Exception):  # whatever comes of the spoiled inputs
        torch.export.load(path)
    assert Evil.ran


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_entry_that_is_there_twice_is_refused(program, tmp_path):
    """Two readers may each see another one."""

    def twice(name, data):
        yield name, data
        if name.endswith("model.json"):
            yield name, data

    with pytest.raises(PolicyError, match="holds pickled objects"):
        runner(changed(program[0], tmp_path, twice), 1)


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_broken_package_is_named(data, tmp_path):
    """With what to do."""
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    with pytest.raises(PolicyError, match=r"model\.pt2: cannot be opened: ") as caught:
        runner(path, 1)
    assert caught.value.hint == "run `cascade-builder build` with this torch"


def test_triton_gets_an_answer_for_each_request(program, monkeypatch):
    """Requests of several rows in one run, on the processor where the instance has no GPU."""
    path, expected = program
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", Server().module())
    triton_io._pb.cache_clear()
    (path.parent / "1").mkdir(exist_ok=True)
    (path.parent / "1" / "model.pt2").write_bytes(path.read_bytes())
    config = {
        "input": [{"name": "FRAME"}],
        "output": [{"name": "LOGITS"}],
        "parameters": {
            "intra_op_threads": {"string_value": "1"},
            "precision": {"string_value": "fp32"},
        },
    }
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(path.parent),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    requests = [Request({"FRAME": ROWS[:2]}, outputs=["LOGITS"]), Request({"FRAME": ROWS[2:]})]
    first, second = model.execute(requests)
    np.testing.assert_allclose(first.output("LOGITS"), expected[:2], atol=1e-6)
    np.testing.assert_allclose(second.output("LOGITS"), expected[2:], atol=1e-6)
