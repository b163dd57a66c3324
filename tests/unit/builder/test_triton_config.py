from pathlib import Path
from typing import Any

import pytest

from cascade_builder import triton_config
from cascade_builder.spec import Spec


def configs(spec: Spec) -> dict[str, Any]:
    return {
        "embedded": triton_config.expert_config(spec, spec.experts[1], "embedded"),
        "onnxruntime": triton_config.expert_config(spec, spec.experts[1], "onnxruntime"),
        "router": triton_config.router_config(spec, "embedded"),
        "control": triton_config.control_config(spec),
        "ensemble": triton_config.ensemble_config(spec),
    }


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
