"""Which policy serves after a deployment, and when a calibration meets one."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import toy_onnx
from synthetic import records
from toy_site import Site

from cascade_builder.build import build
from cascade_builder.calibration import Asked, Outcome, calibrate_spec
from cascade_builder.wish import Goal
from cascade_router.errors import BuildError, CalibrationError, PolicyError
from cascade_router.manifest import check_policy, read_manifest
from cascade_router.policy import Policy
from cascade_router.versions import folder_in_force


def certified(site: Site) -> Policy:
    """Put a policy with a certificate in force."""
    path = folder_in_force(site.root, "toy") / "policy.json"
    policy = Policy.read(path)
    point = dataclasses.replace(policy.points[0], certificate={"promise": "agreement"})
    made = dataclasses.replace(policy, points=(point,), provenance={"made_by": "calibrate"})
    path.write_text(made.to_json())
    return made


def test_a_certificate_is_not_lost_unasked(site: Site) -> None:
    """A policy that is certified for other experts stops a deployment, unless it may."""
    certified(site)
    site.replace()
    before = toy_onnx.tree(site.root)

    with pytest.raises(BuildError, match="certified, and the old one was made for another 'small'"):
        site.deploy()
    assert toy_onnx.tree(site.root) == before

    assert site.deploy(uncertified=True).policy.startswith("replaced")
    site.rollback()
    assert Policy.read(folder_in_force(site.root, "toy") / "policy.json").certified


def test_a_policy_for_the_new_experts_is_brought_along(site: Site, tmp_path: Path) -> None:
    """And one for others is refused."""
    foreign = tmp_path / "foreign.json"
    foreign.write_text(certified(site).to_json())
    site.replace()
    with pytest.raises(PolicyError, match="made for tiers small"):
        site.deploy(policy=foreign)

    build(site.spec, tmp_path / "next", artifacts_folder=site.folder / "build")
    path = folder_in_force(tmp_path / "next", "toy") / "policy.json"
    fitting = dataclasses.replace(Policy.read(path), provenance={"made_by": "calibrate"})
    path.write_text(fitting.to_json())

    assert site.deploy(policy=path).policy.startswith("given")
    served = Policy.read(folder_in_force(site.root, "toy") / "policy.json")
    assert served.provenance == {"made_by": "calibrate"}


def test_the_operators_default_point_survives(site: Site) -> None:
    """Switching experts is no reason to switch the point back."""
    switch = json.dumps({"default": "half", "changes": []})
    (folder_in_force(site.root, "toy") / "switch.json").write_text(switch)
    site.replace()
    site.deploy()

    assert (site.root / "toy_router" / "2" / "switch.json").read_text() == switch


def calibrate(
    site: Site,
    tell: Callable[[str], None] = lambda _: None,
    rows_by: Mapping[str, object] | None = None,
) -> Outcome:
    """Calibrate what is in force from records that were made up."""
    file = site.folder / "records.npz"
    if not file.exists():
        made = records(n=600, n_tiers=2, n_classes=3)
        experts = read_manifest(folder_in_force(site.root, "toy"))["experts"]
        tiers = tuple(
            dataclasses.replace(tier, **{key: one[key] for key in ("name", "model", "digest")})
            for tier, one in zip(made.tiers, experts, strict=True)
        )
        dataclasses.replace(made, cascade="toy", tiers=tiers, input=rows_by).save(file)
    return calibrate_spec(
        site.spec,
        Asked(goals={"asked": Goal(drop=0.12)}, batch=1),
        records_file=file,
        repository=site.root,
        report=None,
        now="2026-11-22",
        tell=tell,
    )


def test_records_of_rows_that_were_made_otherwise_certify_nothing(site: Site) -> None:
    """By another tokeniser, say: no expert's digest speaks of it."""
    served = read_manifest(folder_in_force(site.root, "toy"))["input"]
    with pytest.raises(CalibrationError, match="records: rows were made by"):
        calibrate(site, rows_by={**served, "tokenizer": "sha256:other"})

    (site.folder / "records.npz").unlink()
    assert calibrate(site, rows_by=served).policy == "replaced"


def test_a_calibration_during_which_experts_were_replaced_is_refused(site: Site) -> None:
    """Its policy is for those that served when it began; none is in force for others."""

    def deployed(text: str) -> None:
        if text == "calibrating":
            site.replace()
            site.deploy()

    with pytest.raises(CalibrationError, match="tier 'small' was recorded as"):
        calibrate(site, deployed)

    for version in ("1", "2"):
        folder = site.root / "toy_router" / version
        check_policy(Policy.read(folder / "policy.json"), read_manifest(folder))
        assert not Policy.read(folder / "policy.json").certified


def test_a_calibration_during_which_the_router_was_replaced_is_placed_with_the_new_one(
    site: Site,
) -> None:
    """The experts are the same, so it holds."""

    def deployed(text: str) -> None:
        if text == "calibrating":
            site.edit("[[point]]", "[router]\nabstain_below = 0.6\n\n[[point]]")
            site.deploy()

    done = calibrate(site, deployed)
    assert done.policy_file == site.root / "toy_router" / "2" / "policy.json"
    assert Policy.read(done.policy_file).certified


def test_a_policy_is_not_placed_while_a_deployment_is_under_way(site: Site) -> None:
    """It would be lost with the edition that goes."""

    def calibrated(n: int) -> None:
        if site.server.calls == ["load toy_control", "load toy_small"]:
            with pytest.raises(BuildError, match="is using this repository"):
                calibrate(site)

    site.replace()
    site.server.fail = calibrated
    site.deploy()
    for version in ("1", "2"):
        assert not Policy.read(site.root / "toy_router" / version / "policy.json").certified


def test_a_policy_that_is_written_by_hand_during_a_deployment_is_not_lost(site: Site) -> None:
    """What was in force when the new edition was made is not what is in force now."""

    def written(n: int) -> None:
        if site.server.calls[-1] == "load toy_router":
            site.server.fail = lambda n: None
            certified(site)

    site.edit("[[point]]", "[router]\nabstain_below = 0.6\n\n[[point]]")
    site.server.fail = written
    with pytest.raises(BuildError, match="policy changed"):
        site.deploy()
    assert Policy.read(folder_in_force(site.root, "toy") / "policy.json").certified
    site.whole()

    site.deploy()
    assert Policy.read(folder_in_force(site.root, "toy") / "policy.json").certified
