import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_builder import triton_config
from cascade_builder.checks import check_staged
from cascade_builder.spec import Input, Router, Spec
from cascade_builder.targets.options import TARGETS, Engine, Program, Serving


def configs(spec: Spec) -> dict[str, Any]:
    return {
        "embedded": triton_config.expert_config(spec, spec.experts[1], "embedded"),
        "onnxruntime": triton_config.expert_config(spec, spec.experts[1], "onnxruntime"),
        "router": triton_config.router_config(spec),
        "control": triton_config.control_config(spec),
        "ensemble": triton_config.ensemble_config(spec),
    }


def _preprocess(spec: Spec) -> Any:
    pixels = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(8, 8, 3))
    return triton_config.preprocess_config(dataclasses.replace(spec, input=pixels))


@pytest.fixture
def spec(spec_text: str, tmp_path: Path) -> Spec:
    return Spec.parse(spec_text, tmp_path)


def test_what_is_written_is_read_back_as_it_was(spec: Spec) -> None:
    """Triton's own schema reads every config, and nothing is lost."""
    for config in configs(spec).values():
        text = triton_config.text(config)
        assert triton_config.parse(text) == config
        assert text.startswith(triton_config.HEADER)
        assert text.endswith("\n")


def test_a_model_without_batches_says_so(spec: Spec) -> None:
    """Protobuf leaves a zero out, and Triton would then complete the config by itself."""
    assert "\nmax_batch_size: 0\n" in triton_config.text(triton_config.control_config(spec))


def test_every_model_that_answers_rows_batches_them(spec: Spec) -> None:
    """Router and experts have dynamic batchers; the ensemble and the control model must not."""
    batched = {name: c.HasField("dynamic_batching") for name, c in configs(spec).items()}
    assert batched == {
        "embedded": True,
        "onnxruntime": True,
        "router": True,
        "control": False,
        "ensemble": False,
    }


def test_no_more_requests_wait_than_the_spec_says(spec: Spec) -> None:
    """Before the router, and before the model that prepares its rows."""
    bounded = dataclasses.replace(spec, router=Router(max_waiting_requests=7))
    for config in (triton_config.router_config(bounded), _preprocess(bounded)):
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 7


def test_no_model_has_a_response_cache(spec: Spec) -> None:
    """Its key leaves request parameters out: points would get each other's answers."""
    assert not any(config.response_cache.enable for config in configs(spec).values())


def test_python_models_stay_off_the_gpu(spec: Spec) -> None:
    """Each instance there would own a GPU context."""
    for name in ("embedded", "router", "control"):
        (group,) = configs(spec)[name].instance_group
        assert group.kind == group.KIND_CPU


def test_each_backend_gets_the_threads_by_its_own_name(spec: Spec) -> None:
    """The spec says 2 threads for this expert."""
    both = configs(spec)
    assert both["embedded"].parameters["intra_op_threads"].string_value == "2"
    assert both["onnxruntime"].parameters["intra_op_thread_count"].string_value == "2"
    assert both["onnxruntime"].default_model_filename == "model.onnx"


def test_experts_are_warm_at_the_smallest_and_the_largest_batch(spec: Spec) -> None:
    """The first client does not wait for what a runtime does once."""
    warmups = configs(spec)["embedded"].model_warmup
    assert [one.batch_size for one in warmups] == [1, 8]
    assert [list(one.inputs["FRAME"].dims) for one in warmups] == [[8], [8]]


def test_a_tensor_cascade_has_no_preprocessing_step(spec: Spec) -> None:
    """The ensemble is the router under the cascade's name."""
    steps = configs(spec)["ensemble"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["toy_router"]


def test_a_picture_cascade_decodes_first() -> None:
    """What the first step gives is what the second takes."""
    config = triton_config.ensemble_config(Spec.find("imagenet"))
    first, second = config.ensemble_scheduling.step
    assert [first.model_name, second.model_name] == ["imagenet_preprocess", "imagenet_router"]
    assert dict(first.output_map) == dict(second.input_map) == {"PIXELS": "PIXELS"}
    assert [tensor.name for tensor in config.input] == ["IMAGE"]


def served(target: str, capability: str | None = None, **changed: Any) -> Any:
    """Config of the first demo expert with other options, written and read back."""
    spec = Spec.find("pitch")
    serving = {f.name for f in dataclasses.fields(Serving)}
    engine = {f.name for f in dataclasses.fields(Engine)}
    spec = dataclasses.replace(
        spec,
        engine=Engine(**{k: v for k, v in changed.items() if k in engine}),
        program=Program(compile=changed.get("compile", False)),
    )
    expert = dataclasses.replace(
        spec.experts[0], serving=Serving(**{k: v for k, v in changed.items() if k in serving})
    )
    config = triton_config.expert_config(spec, expert, target, capability)
    assert triton_config.parse(triton_config.text(config)) == config
    return config


def test_a_plan_for_one_kind_of_gpu_is_named_by_it() -> None:
    """On others Triton falls back to a file that is not there, whose name says what is missing."""
    config = served("tensorrt", "9.0")
    assert dict(config.cc_model_filenames) == {"9.0": "model.plan"}
    assert config.default_model_filename == "built_for_9.0_only.plan"
    compatible = served("tensorrt", None)
    assert dict(compatible.cc_model_filenames) == {}
    assert compatible.default_model_filename == "model.plan"
    assert (config.backend, config.instance_group[0].kind) == (
        "tensorrt",
        config.instance_group[0].KIND_GPU,
    )


def test_several_profiles_are_given_to_every_instance() -> None:
    """Triton then picks one by the batch; a single one needs no word."""
    assert list(served("tensorrt").instance_group[0].profile) == []
    profiles = ((1, 1, 1), (1, 8, 32))
    for target, expected in {"tensorrt": ["0", "1"], "tensorrt-rtx": []}.items():
        assert list(served(target, profiles=profiles).instance_group[0].profile) == expected


def test_a_cuda_graph_stands_for_the_batches_up_to_its_own() -> None:
    """From just above the next smaller one, so that no batch runs without."""
    cuda = served("tensorrt", cuda_graphs=(1, 4, 32)).optimization.cuda
    assert cuda.graphs
    bounds = [(one.graph_lower_bound.batch_size, one.batch_size) for one in cuda.graph_spec]
    assert bounds == [(1, 1), (2, 4), (5, 32)]
    for one in cuda.graph_spec:
        assert list(one.input["FRAME"].dim) == [1024]
        assert list(one.graph_lower_bound.input["FRAME"].dim) == [1024]
    assert not served("tensorrt").optimization.HasField("cuda")


def test_a_queue_is_bounded_where_the_spec_says_so() -> None:
    """A policy costs the batch that Triton fetches ahead, so there is none without need."""
    batching = served("embedded").dynamic_batching
    assert not batching.HasField("default_queue_policy")
    batching = served(
        "embedded", max_queue_requests=5, queue_timeout_ms=20, preferred_batches=(4, 8)
    ).dynamic_batching
    policy = batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (5, 20_000)
    assert policy.allow_timeout_override
    assert policy.timeout_action == policy.REJECT
    assert list(batching.preferred_batch_size) == [4, 8]
    unhurried = served("embedded", max_queue_requests=5).dynamic_batching.default_queue_policy
    assert not unhurried.allow_timeout_override


def test_warm_up_runs_the_sizes_that_are_asked_for() -> None:
    """Else the smallest and the largest."""
    assert [one.batch_size for one in served("torch").model_warmup] == [1, 32]
    asked = served("torch", warmup_batches=(1, 8, 16)).model_warmup
    assert [one.batch_size for one in asked] == [1, 8, 16]
    assert {one.inputs["FRAME"].zero_data for one in asked} == {True}


@pytest.mark.parametrize(
    ("target", "capability", "options", "kind", "gpus"),
    [
        ("embedded", None, {}, "KIND_CPU", []),
        ("onnxruntime", None, {}, "KIND_AUTO", [0, 2]),
        ("tensorrt", "9.0", {}, "KIND_GPU", [0, 2]),
        ("tensorrt-rtx", None, {}, "KIND_GPU", [0, 2]),
        ("torch", None, {}, "KIND_AUTO", [0, 2]),
        ("torch", None, {"compile": True}, "KIND_CPU", []),
        ("torch", "9.0", {"compile": True}, "KIND_GPU", [0, 2]),
    ],
)
def test_instances_are_where_their_files_run(
    target: str, capability: str | None, options: dict[str, Any], kind: str, gpus: list[int]
) -> None:
    """A program moves to the GPU that is there; a compiled one is for one kind of machine."""
    (group,) = served(target, capability, gpus=(0, 2), **options).instance_group
    assert type(group).Kind.Name(group.kind) == kind
    assert list(group.gpus) == gpus


SIZES = st.sets(st.integers(1, 32), max_size=4).map(lambda found: tuple(sorted(found)))


@given(
    target=st.sampled_from(TARGETS[1:]),
    capability=st.sampled_from([None, "8.9", "9.0"]),
    options=st.fixed_dictionaries(
        {
            "cuda_graphs": SIZES,
            "preferred_batches": SIZES,
            "warmup_batches": SIZES.map(lambda sizes: sizes and tuple(sorted({1, 32, *sizes}))),
            "gpus": st.sets(st.integers(0, 7), max_size=3).map(lambda found: tuple(sorted(found))),
            "max_queue_requests": st.integers(0, 100),
            "queue_timeout_ms": st.integers(0, 1000),
            "profiles": st.sampled_from([(), ((1, 4, 32),), ((1, 1, 4), (5, 16, 32))]),
            "compile": st.booleans(),
        }
    ),
)
def test_whatever_is_asked_for_is_read_back_and_breaks_no_rule(
    target: str,
    capability: str | None,
    options: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Triton's schema loses nothing, and the linter that users run finds no error."""
    config = served(target, capability, **options)
    root = tmp_path_factory.mktemp("models")
    folder = root / "staging" / config.name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(triton_config.text(config))
    for name in ("model.plan", "model.onnx", "model.pt2", "model.py"):
        (folder / "1" / name).touch()
    found = check_staged(root, root / "staging", [])
    assert [one for one in found if one.level == "error"] == []
