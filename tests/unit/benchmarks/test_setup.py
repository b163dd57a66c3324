"""What peers are given is read from what the repository serves."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.peers import PEERS, Setup, Tier

from cascade_builder import triton_config
from cascade_client.calls import Port
from cascade_router import Gate, OperatingPoint, Score
from cascade_router.errors import PolicyError, RequestError, ServerError


def test_a_setup_says_what_the_repository_serves(setup, repository):
    """Experts with their instances and threads, the default point's thresholds, the input."""
    onnx = repository.resolve() / "toy_a" / "1" / "model.onnx"

    assert setup.tiers[0] == Tier(model="toy_a", onnx=onnx, instances=2, threads=3)
    assert [tier.model for tier in setup.tiers] == ["toy_a", "toy_b", "toy_c"]
    assert setup.thresholds == (0.5, 0.7)
    assert setup.port == Port("X", "FP32", (5,))
    assert (setup.activation, setup.classes, setup.max_batch) == ("sigmoid", 5, 8)


def test_a_point_is_taken_by_name(repository):
    """Another point, other thresholds; an unknown one is refused."""
    assert Setup.read(repository, "toy", "loose").thresholds == (0.1, 0.1)
    with pytest.raises(RequestError, match="'lose' is unknown"):
        Setup.read(repository, "toy", "lose")


@pytest.mark.parametrize("spoil", ["score", "off", "skip", "mean"])
def test_what_peers_cannot_do_is_refused(repository, policy, spoil):
    """A learned or tempered score, a tier that is off or skipped, a mean: no plain cascade."""
    gates = {
        "off": (Gate(off=True), Gate(threshold=0.7), Gate()),
        "skip": (Gate(threshold=0.5, skip_below=0.2, skip_to=2), Gate(threshold=0.7), Gate()),
    }.get(spoil, policy.points[1].gates)
    tiers = list(policy.tiers)
    if spoil == "score":
        tiers[1] = replace(tiers[1], score=Score(temperature=1.5))
    spoiled = replace(
        policy,
        tiers=tuple(tiers),
        points=(OperatingPoint(name="only", gates=gates),),
        answer="mean" if spoil == "mean" else "last",
    )
    (repository / "toy_router" / "1" / "policy.json").write_text(spoiled.to_json())

    with pytest.raises(PolicyError, match="'only' of 'toy' is no plain cascade"):
        Setup.read(repository, "toy")


def test_a_setup_survives_its_way_to_another_process(setup):
    """JSON and back: equal."""
    assert Setup.from_json(setup.to_json()) == setup


def test_as_many_gates_as_tiers_are_refused(setup):
    """The last tier has none."""
    with pytest.raises(ValueError, match="got 3 thresholds for 3 tiers"):
        replace(setup, thresholds=(0.5, 0.6, 0.7))


@pytest.mark.parametrize("peer", [p for p in PEERS if not p.alone], ids=lambda peer: peer.name)
def test_a_served_peer_needs_a_server(peer, setup):
    """Where none runs it says so."""
    with pytest.raises(ServerError, match="no server runs"), peer.open(setup):
        pass


def test_names_are_unique():
    """Tables and result files go by them."""
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def config_of(folder: Path, model: str):
    return triton_config.parse((folder / model / "config.pbtxt").read_text())


def test_the_models_of_peers_lie_beside_ours(setup, repository):
    """Laid out twice, they are the same; ours are untouched; nothing of our router's is theirs."""
    before = {path: path.read_bytes() for path in repository.rglob("*.pbtxt")}
    for _ in range(2):
        for peer in PEERS:
            peer.lay_out(setup)

    assert {path: path.read_bytes() for path in before} == before
    new = {path.name for path in repository.iterdir()} - {path.parent.name for path in before}
    assert new == {"toy_per_request_bls", "toy_run_all", "toy_select_by_gates"}
    bls = config_of(repository, "toy_per_request_bls")
    assert not bls.HasField("dynamic_batching")
    assert {key: value.string_value for key, value in bls.parameters.items()} == {
        "tiers": "toy_a,toy_b,toy_c",
        "thresholds": "0.5,0.7",
        "activation": "sigmoid",
    }


def test_the_ensemble_runs_every_expert_then_selects(setup, repository):
    """Its tensors connect: the input to every expert, each expert's logits to the last step."""
    for peer in PEERS:
        peer.lay_out(setup)
    ensemble = config_of(repository, "toy_run_all")
    *experts, select = ensemble.ensemble_scheduling.step

    assert [step.model_name for step in experts] == ["toy_a", "toy_b", "toy_c"]
    assert all(dict(step.input_map) == {"X": "X"} for step in experts)
    taken = config_of(repository, select.model_name).input
    produced = [step.output_map["LOGITS"] for step in experts]
    assert [select.input_map[one.name] for one in taken] == produced
    assert set(select.output_map.values()) == {one.name for one in ensemble.output}
