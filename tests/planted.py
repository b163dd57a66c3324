"""Faults to plant in the toy's repository, each with the rule of `checks` that it breaks."""

import json
import shutil

from onnx_files import linear, save

from cascade_builder import triton_config

__all__ = ["ELSEWHERE_FAULTS", "FAULTS", "batching", "config", "group", "step", "stray"]

FOREIGN = """
backend: "onnxruntime"
max_batch_size: 0
input [ { name: "x", data_type: TYPE_FP32, dims: [ -1, 8 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ -1, 3 ] } ]
instance_group [ { kind: KIND_CPU } ]
model_warmup [ { name: "one", batch_size: 1, inputs {
  key: "x" value { data_type: TYPE_FP32, dims: [ 1, 8 ], zero_data: true } } } ]
"""


def config(model, change):
    """Plant a fault in a model's config."""

    def plant(root):
        path = root / model / "config.pbtxt"
        read = triton_config.parse(path.read_text())
        change(read)
        path.write_text(triton_config.text(read))

    return plant


def without(name):
    return lambda root: shutil.rmtree(root / name)


def missing(name):
    return lambda root: (root / name).unlink()


def added(name, text):
    def plant(root):
        with (root / name).open("a") as file:
            file.write(text)

    return plant


def moved(old, new):
    return lambda root: (root / old).rename(root / new)


def foreign(root):
    (root / "foreign" / "1").mkdir(parents=True)
    (root / "foreign" / "config.pbtxt").write_text(FOREIGN)
    save(linear(), root / "foreign" / "1" / "model.onnx")


def bounded_step(root):
    """An ensemble around a model that is not ours and refuses what its queue cannot hold."""
    tensors = FOREIGN.replace("-1, ", "").partition("instance_group")[0]
    sizes = (
        f'{{ name: "{n}", batch_size: {n}, inputs {{ key: "x" value '
        "{ data_type: TYPE_FP32, dims: [ 8 ], zero_data: true } } }"
        for n in (1, 8)
    )
    bounded = tensors.replace("max_batch_size: 0", "max_batch_size: 8") + (
        f"model_warmup [ {', '.join(sizes)} ]\n"
        "instance_group [ { kind: KIND_CPU } ]\n"
        "dynamic_batching { default_queue_policy { max_queue_size: 4 } }\n"
    )
    step = '{ model_name: "bounded", model_version: -1, input_map { key: "x" value: "x" }'
    around = tensors.replace("max_batch_size: 0", "max_batch_size: 8").replace(
        'backend: "onnxruntime"', 'platform: "ensemble"'
    ) + (f'ensemble_scheduling {{ step [ {step}, output_map {{ key: "y" value: "y" }} }} ] }}\n')
    for name, text in {"bounded": bounded, "around": around}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(text)
    save(linear(), root / "bounded" / "1" / "model.onnx")


def stray(root):
    (root / "notes").mkdir()


def unknown_backend(root):
    for name in ("model.py", "model.onnx"):
        (root / "toy_large" / "1" / name).unlink()
    config("toy_large", lambda c: c.ClearField("backend"))(root)


def other_policy(root):
    path = root / "toy_router" / "1" / "policy.json"
    values = json.loads(path.read_text())
    values["tiers"][1]["digest"] = f"sha256:{'1' * 64}"
    path.write_text(json.dumps(values))


def small_batch(c):
    c.max_batch_size = 4
    c.model_warmup[1].batch_size = 4


def optional(c):
    c.input[0].optional = True


def other_warmup(c):
    c.model_warmup[0].inputs["FRAME"].dims[:] = [9]


def graph(size, least):
    def change(c):
        c.optimization.cuda.graphs = True
        spec = c.optimization.cuda.graph_spec.add(batch_size=size)
        spec.graph_lower_bound.batch_size = least

    return change


def router_of_another(root):
    path = root / "toy_large" / "1" / "cascade_router" / "walk.py"
    path.write_text(path.read_text() + "\n")


def plans(**names):
    return lambda c: c.cc_model_filenames.update({k.replace("_", "."): v for k, v in names.items()})


def group(**fields):
    """Change the first instance group."""

    def change(c):
        c.instance_group[0].MergeFrom(type(c.instance_group[0])(**fields))

    return change


def batching(**fields):
    def change(c):
        c.dynamic_batching.MergeFrom(type(c.dynamic_batching)(**fields))

    return change


def queue(**fields):
    return batching(default_queue_policy=fields)


def field(name, value):
    return lambda c: setattr(c, name, value)


def cleared(name):
    return lambda c: c.ClearField(name)


def step(change):
    return lambda c: change(c.ensemble_scheduling.step[0])


CPU, GPU = 2, 1
FAULTS = [
    ("readable", "toy_large", added("toy_large/config.pbtxt", "no_such_field: 3\n")),
    ("readable", "notes", stray),
    ("name", "toy_large", config("toy_large", field("name", "other"))),
    ("version-folder", "toy_control", moved("toy_control/1", "toy_control/one")),
    ("version-folder", "toy", without("toy/1")),
    ("model-file", "toy_large", missing("toy_large/1/model.onnx")),
    ("model-file", "toy_large", without("toy_large/1/cascade_router")),
    ("model-file", "toy_router", missing("toy_router/1/policy.json")),
    ("model-file", "toy_router", missing("toy_router/1/experts/small.onnx")),
    ("backend", "toy_large", unknown_backend),
    ("policy", "toy_router", other_policy),
    (
        "response-cache",
        "toy_router",
        config(
            "toy_router", lambda c: c.response_cache.MergeFrom(type(c.response_cache)(enable=True))
        ),
    ),
    (
        "response-cache",
        "toy",
        config("toy", lambda c: c.response_cache.MergeFrom(type(c.response_cache)(enable=True))),
    ),
    (
        "decoupled",
        "toy_router",
        config(
            "toy_router",
            lambda c: c.model_transaction_policy.MergeFrom(
                type(c.model_transaction_policy)(decoupled=True)
            ),
        ),
    ),
    (
        "cpu-kind",
        "toy_router",
        config("toy_router", lambda c: c.instance_group[0].ClearField("kind")),
    ),
    ("cpu-gpus", "toy_large", config("toy_large", group(gpus=[0]))),
    ("batcher", "toy_large", config("toy_large", cleared("dynamic_batching"))),
    (
        "batcher-without-batch",
        "toy_control",
        config("toy_control", lambda c: c.dynamic_batching.SetInParent()),
    ),
    ("onnx-batch", "foreign", foreign),
    ("preferred-batches", "toy_large", config("toy_large", batching(preferred_batch_size=[4, 64]))),
    ("priority", "toy_large", config("toy_large", batching(priority_levels=2))),
    ("timeout-override", "toy_large", config("toy_large", queue(allow_timeout_override=True))),
    ("ordering", "toy_large", config("toy_large", batching(preserve_ordering=True))),
    ("optional-input", "toy_large", config("toy_large", optional)),
    (
        "warmup-fits",
        "toy_large",
        config("toy_large", lambda c: setattr(c.model_warmup[1], "batch_size", 64)),
    ),
    (
        "warmup-fits",
        "toy_large",
        config("toy_large", lambda c: c.model_warmup[1].ClearField("inputs")),
    ),
    ("warmup-fits", "toy_large", config("toy_large", other_warmup)),
    (
        "cpu-tensors",
        "toy_large",
        config(
            "toy_large",
            lambda c: setattr(
                c.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"], "string_value", "maybe"
            ),
        ),
    ),
    ("profiles", "toy_large", config("toy_large", group(profile=["0"]))),
    (
        "tensorrt-only",
        "toy_large",
        config("toy_large", lambda c: setattr(c.optimization.cuda, "graphs", True)),
    ),
    (
        "tensorrt-only",
        "toy_large",
        config("toy_large", lambda c: setattr(c.optimization, "eager_batching", True)),
    ),
    ("ensemble-plain", "toy", config("toy", lambda c: c.instance_group.add(count=2))),
    ("ensemble-plain", "toy", config("toy", cleared("ensemble_scheduling"))),
    ("ensemble-models", "toy", without("toy_router")),
    (
        "ensemble-tensors",
        "toy",
        config("toy", step(lambda s: s.input_map.update(FRAME="nothing", X="FRAME"))),
    ),
    ("ensemble-tensors", "toy", config("toy", lambda c: c.output[0].dims.__setitem__(0, 4))),
    (
        "ensemble-tensors",
        "toy",
        config("toy", lambda c: c.output.add(name="MORE", data_type=11, dims=[1])),
    ),
    ("ensemble-tensors", "toy", config("toy", lambda c: setattr(c.input[0], "data_type", 13))),
    ("ensemble-batch", "toy", config("toy", field("max_batch_size", 16))),
    ("ensemble-queue", "around", bounded_step),
    ("experts", "toy_router", without("toy_large")),
    (
        "experts",
        "toy_router",
        config("toy_large", lambda c: setattr(c.output[0], "name", "logits")),
    ),
    ("experts", "toy_router", config("toy_small", lambda c: c.output[0].dims.__setitem__(0, 4))),
    ("expert-batch", "toy_router", config("toy_large", small_batch)),
    (
        "rate-limiter",
        "toy_router",
        config("toy_router", group(rate_limiter={"resources": [{"name": "R", "count": 1}]})),
    ),
    (
        "router-instances",
        "toy_router",
        config("toy_router", lambda c: setattr(c.instance_group[0], "count", 1)),
    ),
    ("digests", "toy_router", added("toy_large/1/model.onnx", "x")),
    ("digests", "toy_router", added("toy_router/1/experts/small.onnx", "x")),
    ("one-core", "toy_router", router_of_another),
]
ELSEWHERE_FAULTS = [
    ("instances", "onnxruntime", cleared("instance_group")),
    ("warmup", "onnxruntime", cleared("model_warmup")),
    ("engine-on-gpu", "tensorrt", lambda c: setattr(c.instance_group[0], "kind", CPU)),
    ("engine-on-gpu", "tensorrt-rtx", lambda c: setattr(c.instance_group[0], "kind", CPU)),
    ("plan-file", "tensorrt", field("default_model_filename", "other.plan")),
    ("plan-file", "tensorrt", plans(**{"9_0": "hopper.plan"})),
    ("wrong-fallback", "tensorrt", plans(**{"9_0": "model.plan"})),
    ("profiles", "tensorrt", group(profile=["fast"])),
    ("graph-sizes", "tensorrt", graph(64, 1)),
    ("graph-sizes", "tensorrt", graph(4, 5)),
    ("few-graphs", "tensorrt", lambda c: setattr(c.optimization.cuda, "graphs", True)),
]
