"""What `check` calls refused, the real server refuses; what it only warns of, it loads."""

import shutil

import numpy as np
import pytest
from fleet import CONFIG, lay_out
from tritonclient.grpc import InferenceServerClient

from cascade_builder.checks import check
from cascade_router.serve import Server, free_ports

PLAIN = CONFIG.replace('name: "fleet"\n', "")
ALONE = PLAIN.replace("dynamic_batching { }", "")
ZEROS = "data_type: TYPE_FP32 zero_data: true"


def warmup(batch, tensor):
    return f'{PLAIN} model_warmup {{ name: "w" batch_size: {batch} {tensor} }}'


def given(inner, outer="x"):
    return f'input_map {{ key: "{inner}" value: "{outer}" }}'


def made(inner, outer="scores"):
    return f'output_map {{ key: "{inner}" value: "{outer}" }}'


STEP = f"{given('x')} {made('scores')}"


def ensemble(*, more="", step=STEP, model="good", rows=16, dims=3):
    return f"""
platform: "ensemble"
max_batch_size: {rows}
input [ {{ name: "x", data_type: TYPE_FP32, dims: [ 8 ] }} ]
output [ {{ name: "scores", data_type: TYPE_FP32, dims: [ {dims} ] }} ]
ensemble_scheduling {{ step {{ model_name: "{model}" model_version: -1 {step} }} }}
{more}
"""


REFUSED = {
    "readable": f"{PLAIN} no_such_field: 3",
    "name": f'{PLAIN} name: "other"',
    "version-folder": PLAIN,
    "cpu-gpus": PLAIN.replace("KIND_CPU", "KIND_CPU gpus: [ 0 ]"),
    "preferred-batches": f"{ALONE} dynamic_batching {{ preferred_batch_size: [ 32 ] }}",
    "priority": f"{ALONE} dynamic_batching {{ priority_levels: 2 }}",
    "cpu-tensors": PLAIN
    + 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "maybe" } }',
    "profiles": PLAIN.replace("KIND_CPU", 'KIND_CPU profile: [ "0" ]'),
    "warmup-fits": warmup(1, f'inputs {{ key: "x" value {{ {ZEROS} dims: [ 9 ] }} }}'),
    "warmup-fits-2": warmup(1, ""),
    "ensemble-plain": ensemble(more="instance_group [ { kind: KIND_CPU } ]"),
    "ensemble-models": ensemble(model="nowhere"),
    "ensemble-batch": ensemble(rows=32),
    "ensemble-tensors": ensemble(dims=4),
    "ensemble-tensors-2": ensemble(step=f"{given('y')} {made('scores')}"),
    "ensemble-tensors-3": ensemble(step=f"{given('x')} {made('q')}"),
    "ensemble-tensors-4": ensemble(step=f"{given('x', 'nothing')} {made('scores')}"),
}
LOADED = {
    "good": PLAIN,
    "batcher": ALONE,
    "batcher-without-batch": PLAIN.replace("max_batch_size: 16", "max_batch_size: 0"),
    "ordering": f"{ALONE} dynamic_batching {{ preserve_ordering: true }}",
    "sound": ensemble(),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """One model per fault, all in one repository."""
    root = tmp_path_factory.mktemp("faults")
    for name, config in (REFUSED | LOADED).items():
        lay_out(root, np.zeros((8, 3)), config).rename(root / name)
        if "ensemble_scheduling" in config:
            shutil.rmtree(root / name / "1")
            (root / name / "1").mkdir()
    shutil.rmtree(root / "version-folder" / "1")
    (root / "stray").mkdir()
    return root


@pytest.fixture(scope="module")
def served(planted):
    """Names of the models that the real server loads of it."""
    flags = ["--exit-on-error=false", "--strict-readiness=false"]
    log = planted.parent / "faults.log"
    with Server(repository=planted, ports=free_ports(), flags=flags, log=log) as server:
        client = InferenceServerClient(server.grpc_url)
        index = client.get_model_repository_index().models
        client.close()
    return {one.name for one in index if one.state == "READY"}


def test_what_is_called_an_error_does_not_load(planted, served):
    """Each fault is found by its rule, as an error, and Triton refuses the model."""
    _, found = check([planted])
    errors = {one.model: one.rule for one in found if one.level == "error"}
    faults = {name: name.rstrip("-234") for name in REFUSED}
    assert errors == {**faults, "stray": "readable"}
    assert served == set(LOADED)


def test_what_is_called_a_warning_loads(planted, served):
    """It costs something, no more."""
    _, found = check([planted])
    warnings = {one.model: one.rule for one in found if one.level == "warning"}
    assert warnings == {name: name for name in ("batcher", "batcher-without-batch", "ordering")}
    assert set(warnings) <= served
