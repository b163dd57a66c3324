"""The real server on the real demo cascades, started once for all integration tests."""

import shutil
from pathlib import Path

import pytest
from kept_builds import build_kept

from cascade_builder.spec import Spec
from cascade_client import CascadeClient
from cascade_router import Policy
from cascade_router.serve import Server, free_ports

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.triton)


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """Both demo cascades side by side; experts already built for the demo are taken from build/."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("imagenet", "pitch"):
        build_kept(Spec.find(name), folder)
    return folder


@pytest.fixture(scope="session")
def only_pitch(repository, tmp_path_factory):
    """The smaller cascade alone, so that loading takes seconds."""
    folder = tmp_path_factory.mktemp("pitch")
    for model in repository.glob("pitch*"):
        shutil.copytree(model, folder / model.name)
    return folder


@pytest.fixture(scope="session")
def server(repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with Server(repository=repository, ports=free_ports(), log=log) as running:
        yield running


@pytest.fixture(scope="session")
def imagenet(server):
    with CascadeClient(server.grpc_url, "imagenet") as client:
        client.wait_ready(60)
        yield client


@pytest.fixture(scope="session")
def pitch(server):
    with CascadeClient(server.grpc_url, "pitch") as client:
        client.wait_ready(60)
        yield client


@pytest.fixture(scope="session")
def policies(repository):
    return {
        name: Policy.read(repository / f"{name}_router" / "1" / "policy.json")
        for name in ("imagenet", "pitch")
    }
