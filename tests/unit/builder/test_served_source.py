from pathlib import Path
from typing import Any

import fleet
import numpy as np
import pytest

from cascade_builder.manifest import file_digest
from cascade_builder.sources import ServedSource
from cascade_builder.sources.remote import why_not
from cascade_builder.sources.served import ServedModel, look
from cascade_builder.spec import Spec
from cascade_builder.triton_config import adapter_config, text
from cascade_router.errors import BuildError

WEIGHTS = np.ones((8, 3), dtype=np.float32)
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def spec(spec_text: str, tmp_path: Path) -> Spec:
    return Spec.parse(spec_text, tmp_path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    fleet.lay_out(root, WEIGHTS)
    return root


def found(
    spec: Spec, repository: Path, model: str = "fleet", output: str | None = "scores"
) -> ServedModel:
    source = ServedSource(model=model, output=output, server=NOWHERE)
    return look(source, spec, repository, "expert 'large'", file_digest)


def test_its_configuration_says_all_that_is_needed(spec: Spec, repository: Path) -> None:
    """Names of input and output, and how many rows it takes."""
    model = found(spec, repository)
    assert (model.input, model.output, model.max_batch) == ("x", "scores", 16)
    assert (model.seen, model.digest[:7]) == ("repository", "sha256:")


def test_the_cascade_gets_a_model_that_translates_names(spec: Spec, repository: Path) -> None:
    """An ensemble of one step."""
    body = text(adapter_config(spec, spec.experts[1], found(spec, repository)))
    wanted = [
        'name: "toy_large"',
        'platform: "ensemble"',
        'model_name: "fleet"',
        'key: "x"',
        'value: "FRAME"',
        'key: "scores"',
        'value: "LOGITS"',
    ]
    assert [line for line in wanted if line not in body] == []


def changed_weights(folder: Path) -> None:
    np.save(folder / "1" / "weights.npy", WEIGHTS * 2)


def changed_code(folder: Path) -> None:
    (folder / "1" / "model.py").write_text("# other code\n")


def changed_config(folder: Path) -> None:
    config = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(
        config + 'parameters { key: "temperature" value { string_value: "2" } }\n'
    )


def newer_version(folder: Path) -> None:
    (folder / "2").mkdir()
    (folder / "2" / "model.py").write_text("# version 2\n")


@pytest.mark.parametrize("change", [changed_weights, changed_code, changed_config, newer_version])
def test_what_decides_its_answers_changes_its_digest(
    change: Any, spec: Spec, repository: Path
) -> None:
    """Weights, code, parameters, and a version that takes over."""
    before = found(spec, repository).digest
    change(repository / "fleet")
    assert found(spec, repository).digest != before


def faster(folder: Path) -> None:
    config = (folder / "config.pbtxt").read_text()
    config = config.replace("dynamic_batching { }", "dynamic_batching { preferred_batch_size: 4 }")
    (folder / "config.pbtxt").write_text(config.replace("KIND_CPU", "KIND_CPU, count: 4"))


def compiled(folder: Path) -> None:
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_bytes(b"x")
    (folder / "1" / ".hidden").write_bytes(b"x")


def older_version(folder: Path) -> None:
    (folder / "0").mkdir()
    (folder / "0" / "model.py").write_text("# version 0\n")


@pytest.mark.parametrize("change", [faster, compiled, older_version])
def test_what_decides_its_speed_does_not(change: Any, spec: Spec, repository: Path) -> None:
    """Instances, batching, what a stub compiled, and a version that no call gets."""
    before = found(spec, repository).digest
    change(repository / "fleet")
    assert found(spec, repository).digest == before


def ensemble(repository: Path, step: str = "fleet") -> None:
    (repository / "whole" / "1").mkdir(parents=True)
    (repository / "whole" / "config.pbtxt").write_text(
        f"""
name: "whole"
platform: "ensemble"
max_batch_size: 16
input [ {{ name: "in", data_type: TYPE_FP32, dims: [ 8 ] }} ]
output [ {{ name: "out", data_type: TYPE_FP32, dims: [ 3 ] }} ]
ensemble_scheduling {{ step [ {{
  model_name: "{step}" model_version: -1
  input_map {{ key: "x" value: "in" }}
  output_map {{ key: "scores" value: "out" }}
}} ] }}
"""
    )


def test_an_ensemble_is_what_its_steps_are(spec: Spec, repository: Path) -> None:
    """Weights of a step change the digest of what calls it."""
    ensemble(repository)
    before = found(spec, repository, "whole", None).digest
    changed_weights(repository / "fleet")
    assert found(spec, repository, "whole", None).digest != before


@pytest.mark.parametrize("step", ["whole", "nowhere"])
def test_an_ensemble_whose_steps_cannot_be_seen_is_refused(
    step: str, spec: Spec, repository: Path
) -> None:
    """One that is not there, and one that calls itself."""
    ensemble(repository, step)
    with pytest.raises(BuildError, match=f"its step '{step}' is not in"):
        found(spec, repository, "whole", None)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("max_batch_size: 16", "max_batch_size: 4", "max_batch_size 4, expected at least 8"),
        ("max_batch_size: 16", "max_batch_size: 0", "max_batch_size 0, expected at least 8"),
        ("dims: [ 8 ]", "dims: [ 9 ]", r"takes TYPE_FP32 \[9\], expected TYPE_FP32 \[8\]"),
        ('"x", data_type: TYPE_FP32', '"x", data_type: TYPE_UINT8', "takes TYPE_UINT8"),
        ("dims: [ 3 ]", "dims: [ 4 ]", r"answers TYPE_FP32 \[4\] as 'scores'"),
        ('"scores"', '"other"', "has no output 'scores'"),
        ("dynamic_batching { }", "sequence_batching { }", "is of sequences"),
        (
            "dynamic_batching { }",
            "model_transaction_policy { decoupled: true }",
            "is decoupled",
        ),
        ("] } ]\noutput", '] }, { name: "m", data_type: TYPE_FP32, dims: [1] } ]\noutput', "x, m"),
        ("backend", "bakend", "cannot be read"),
    ],
)
def test_a_model_that_is_no_expert_is_refused(
    old: str, new: str, says: str, spec: Spec, tmp_path: Path
) -> None:
    """In one paragraph that names the model, with a way out."""
    assert old in fleet.CONFIG
    fleet.lay_out(tmp_path / "r", WEIGHTS, fleet.CONFIG.replace(old, new, 1))
    with pytest.raises(BuildError, match=says) as caught:
        found(spec, tmp_path / "r")
    assert caught.value.message.startswith("expert 'large': served model 'fleet'")
    assert caught.value.hint


def test_any_side_and_an_optional_input_fit(spec: Spec, tmp_path: Path) -> None:
    """A dimension of -1 takes ours; an optional input is left out."""
    config = fleet.CONFIG.replace("dims: [ 8 ]", "dims: [ -1 ]").replace(
        "] } ]\noutput",
        '] }, { name: "m", data_type: TYPE_FP32, dims: [1], optional: true } ]\noutput',
    )
    fleet.lay_out(tmp_path / "r", WEIGHTS, config)
    assert found(spec, tmp_path / "r").input == "x"


def test_two_outputs_need_a_word(spec: Spec, repository: Path) -> None:
    """Nothing tells logits from norms."""
    with pytest.raises(BuildError, match="has outputs scores, norm") as caught:
        found(spec, repository, output=None)
    assert caught.value.hint == "say which holds the logits: `output`"


@pytest.mark.parametrize("model", ["toy", "toy_small", "toy_router"])
def test_a_cascade_is_not_its_own_expert(model: str, spec: Spec, repository: Path) -> None:
    """It would call itself."""
    with pytest.raises(BuildError, match="is this cascade's own"):
        found(spec, repository, model)


def test_a_model_that_is_nowhere_says_where_was_looked(spec: Spec, repository: Path) -> None:
    """Neither the repository holds it nor does the server answer."""
    with pytest.raises(BuildError, match=r"holds no nothing/config\.pbtxt, and the server") as e:
        found(spec, repository, "nothing")
    assert NOWHERE in e.value.message
    assert "--repository" in str(e.value.hint)


def test_a_server_that_is_down_is_named(spec: Spec, repository: Path) -> None:
    """At once: a refused connection is not waited for."""
    assert why_not(found(spec, repository), NOWHERE) == f"no server answers at {NOWHERE}"
