"""Which version of a router is in force: one line of the ensemble's config says it."""

import pytest

from cascade_builder.spec import Spec
from cascade_builder.triton_config import ensemble_config, expert_config, text
from cascade_builder.versions import Versions, changed_answers, pinned, serving
from cascade_router.versions import folder_in_force, version_in_force

STEPS = """
ensemble_scheduling {
  step { model_name: "c_preprocess" model_version: -1 }
  step {
    model_name: "c_router"
    model_version: 12
  }
}
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "c").mkdir()
    return tmp_path


def test_the_step_of_the_router_names_it(repository):
    """Steps of other models say nothing about it."""
    (repository / "c" / "config.pbtxt").write_text(STEPS)

    assert version_in_force(repository, "c") == 12
    assert folder_in_force(repository, "c") == repository / "c_router" / "12"


@pytest.mark.parametrize("config", [STEPS.replace("12", "-1"), "", "\x00 garbage"])
def test_where_nothing_is_named_it_is_the_first(repository, config):
    """As every build lays it out."""
    (repository / "c" / "config.pbtxt").write_text(config)

    assert version_in_force(repository, "c") == 1
    assert version_in_force(repository, "other") == 1


def test_what_the_builder_writes_is_read_back(repository, write_toy):
    """The one line is the builder's."""
    spec = Spec.read(write_toy(repository))
    config = pinned(ensemble_config(spec), "toy_router", 7)
    (repository / "toy").mkdir()
    (repository / "toy" / "config.pbtxt").write_text(text(config))

    assert version_in_force(repository, "toy") == 7
    assert Versions.in_force(repository, "toy") == Versions(router=7)


def test_versions_may_differ_in_speed_alone(repository, write_toy):
    """What decides answers and stands in the config is shared by all versions of a model."""
    spec = Spec.read(write_toy(repository))
    now = serving(expert_config(spec, spec.experts[0], "embedded"), [1])
    faster, other = serving(now, [1, 2]), serving(now, [2])
    faster.instance_group[0].count += 1
    faster.parameters["intra_op_threads"].string_value = "8"
    other.output[0].dims[0] += 1

    assert changed_answers(now, faster) == []
    assert changed_answers(now, other) == ["output"]
