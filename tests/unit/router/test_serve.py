"""Starting a server: what is missing is named before anything is started."""

import errno
import os
import pwd
import socket
import types
from pathlib import Path

import pytest

from cascade_router import installation
from cascade_router.errors import ServerError
from cascade_router.installation import Installation
from cascade_router.serve import Hosts, Ports, Server, free_ports, main


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text('name: "m"\nbackend: "python"\n')
    return tmp_path / "models"


def test_free_ports_differ():
    """Three ports nobody listens on."""
    ports = free_ports()

    assert len({ports.http, ports.grpc, ports.metrics}) == 3


def test_a_folder_without_models_is_refused(tmp_path):
    """Serving an empty folder says what a repository is and how to get one."""
    with pytest.raises(ServerError, match="no model repository") as caught:
        Server(repository=tmp_path).start()

    assert "cascade-builder build" in str(caught.value)


def test_a_port_in_use_is_named_with_the_flag_that_moves_it(repository):
    """The error names the port, what it is for, who has it and how to choose another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(repository=repository, ports=Ports(http=port))

        holder = rf"\(pid {os.getpid()}\)"
        with pytest.raises(
            ServerError, match=rf"{port} \(http\) is in use by .*{holder}"
        ) as caught:
            server.start()

    assert "--http-port" in str(caught.value)


def test_missing_backends_are_named(repository):
    """A repository for NVIDIA's container says so on a machine that lacks the backend."""
    (repository / "m" / "config.pbtxt").write_text('backend: "tensorrt"\n')

    with pytest.raises(ServerError, match="the repository needs tensorrt") as caught:
        Server(repository=repository).start()

    assert "NVIDIA's container" in str(caught.value)


def test_no_server_at_all_says_what_to_install(monkeypatch, repository):
    """Without tritonserver and without the wheel the way out is named."""
    monkeypatch.setattr(Installation, "_candidates", classmethod(lambda cls: []))

    with pytest.raises(ServerError, match="no tritonserver on PATH") as caught:
        Server(repository=repository).start()

    assert "pip install nvidia-pytriton" in str(caught.value)


def test_missing_libraries_are_named(monkeypatch, repository):
    """A library the loader would not find is named with the package that brings it."""
    monkeypatch.setattr(installation, "_missing_libraries", lambda *_: ["libpython3.11.so.1.0"])

    with pytest.raises(ServerError, match=r"misses libpython3\.11\.so\.1\.0") as caught:
        Server(repository=repository, ports=free_ports()).start()

    assert "apt-get install libpython3.11" in str(caught.value)


def test_main_prints_our_error_and_returns_1(tmp_path, capsys, monkeypatch):
    """The command line shows the sentence and the help, no traceback."""
    entry = types.SimpleNamespace(pw_dir=str(tmp_path / "home"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    ports = [f"--{name}-port={getattr(free_ports(), name)}" for name in Ports.__slots__]

    status = main(["--model-repository", str(tmp_path), *ports, "--health-port=0"])

    assert status == 1
    assert "Error: " in capsys.readouterr().err


def test_help_is_printed(capsys):
    """--help says what the command adds to tritonserver."""
    assert main(["--help"]) == 0
    assert "Usage: cascade-serve" in capsys.readouterr().out


def test_flags_win_over_ours():
    """A flag the user gives is not given twice."""
    server = Server(repository=".", flags=["--model-control-mode=none", "--log-verbose=1"])
    found = Installation(binary="/bin/true", backends="/none")

    command = server._command(found, None)

    assert [c for c in command if c.startswith("--model-control-mode")] == [
        "--model-control-mode=none"
    ]
    assert "--http-address=127.0.0.1" in command


@pytest.fixture
def installed():
    return Installation(binary=Path("/bin/true"), backends=Path("/none"))


def test_vertex_does_not_shut_the_usual_doors(installed, monkeypatch):
    """Where its environment says so, tritonserver would serve neither HTTP nor gRPC by itself."""
    monkeypatch.setenv("AIP_MODE", "PREDICTION")

    command = Server(repository=Path(), flags=["--allow-http=off"])._command(installed, Path())

    allowed = sorted(flag for flag in command if flag.startswith("--allow-"))
    assert allowed == ["--allow-grpc=true", "--allow-http=off", "--allow-vertex-ai=false"]


@pytest.mark.parametrize(("host", "written"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
def test_an_address_of_ipv6_is_told_from_its_port(installed, host, written):
    """By brackets, as gRPC takes it."""
    command = Server(repository=Path(), hosts=Hosts(grpc=host))._command(installed, Path())

    assert f"--grpc-address={written}" in command


def test_a_full_disk_is_told_without_a_traceback(repository, tmp_path, capsys, monkeypatch):
    """No folder for what a server needs can be made: the system's own sentence says why."""
    entry = types.SimpleNamespace(pw_dir=str(tmp_path / "home"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)

    assert main([f"--model-repository={repository}", "--health-port=0"]) == 1
    assert "Error: cascade-serve: [Errno 28] No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["abc", "", "0", "70000", "-1"])
def test_a_port_that_is_none_is_refused(port, capsys):
    """The flag and the value are named; there is no traceback."""
    assert main([f"--http-port={port}"]) == 1
    assert f"--http-port: got {port!r}" in capsys.readouterr().err
