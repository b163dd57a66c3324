"""A server that is let out: who has no key can ask, and nothing else; no key shows anywhere."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from supervised import SERVE, Served
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cascade_builder.demo import notes
from cascade_client import CascadeClient
from cascade_router.errors import AccessError, RequestError
from cascade_router.keys import GRPC_HEADER, HEADER, Keys
from cascade_router.serve import free_ports
from cascade_router.supervision.options import Options
from cascade_router.supervision.processes import processes

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
NEW_KEYS, SERVING = (line for line in LINES if line.startswith("cascade-serve") and "keys" in line)
SWITCHING = next(line for line in LINES if line.startswith("cascade-client --keys"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's key file is made, by the README's command."""
    made = tmp_path_factory.mktemp("guarded")
    subprocess.run([SERVE, *shlex.split(NEW_KEYS)[1:]], cwd=made, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def keys(folder):
    return Keys.read(folder / "cascade.keys")


@pytest.fixture(scope="module")
def served(folder, only_pitch, keys):
    """As the README says, but that nobody else is let in for a test."""
    line = SERVING.replace("0.0.0.0", "127.0.0.1").replace("cascade.keys", f"{folder}/cascade.keys")
    with Served(folder, only_pitch, *shlex.split(line)[1:], "--log-verbose=1") as made:
        yield made


@pytest.fixture(scope="module")
def raw(served):
    import tritonclient.grpc as grpc

    made = grpc.InferenceServerClient(served.url)
    yield made
    made.close()


def test_the_readme_command_is_understood():
    """As it stands, with its addresses."""
    options = Options.parse(shlex.split(SERVING)[1:], {})

    assert options.expose
    assert (options.hosts["http"], options.hosts["health"]) == ("0.0.0.0", "127.0.0.1")


GUARDED = {
    "index": lambda c, h: c.get_model_repository_index(headers=h),
    "load": lambda c, h: c.load_model("pitch_tiny", headers=h),
    "unload": lambda c, h: c.unload_model("nothing_there", headers=h),
    "shared memory": lambda c, h: c.get_system_shared_memory_status(headers=h),
    "trace": lambda c, h: c.get_trace_settings(headers=h),
    "logging": lambda c, h: c.get_log_settings(headers=h),
}


@pytest.mark.parametrize("what", GUARDED)
def test_what_is_guarded_wants_the_control_key(raw, keys, what):
    """Without it, with the other key, or with a wrong one it is refused; with it, it works."""
    from tritonclient.utils import InferenceServerException

    for wrong in (None, keys.policy, keys.control[:-1], ""):
        headers = None if wrong is None else {GRPC_HEADER: wrong}
        with pytest.raises(InferenceServerException, match="protocol is restricted"):
            GUARDED[what](raw, headers)
    GUARDED[what](raw, {GRPC_HEADER: keys.control})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", b"{}"),
        ("/v2/repository/models/pitch_tiny/load", b"{}"),
        ("/v2/systemsharedmemory/region/x/register", b'{"key":"x","offset":0,"byte_size":1}'),
        ("/v2/trace/setting", b"{}"),
        ("/v2/logging", b"{}"),
    ],
)
def test_http_is_guarded_alike(served, keys, path, body):
    """By the same key in a header of its own."""
    url = f"http://127.0.0.1:{served.ports.http}{path}"

    def status(headers):
        request = urllib.request.Request(url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status({}) == 403
    assert status({HEADER: keys.policy}) == 403
    assert status({HEADER: keys.control}) != 403


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_who_has_no_key_can_ask_and_look(served, scheme):
    """Inference, readiness and status as ever; switching is refused with what it takes."""
    port = getattr(served.ports, scheme)
    with CascadeClient(f"{scheme}://127.0.0.1:{port}", "pitch") as client:
        client.wait_ready(30)
        assert len(client.infer(notes.rows()[:2])) == 2
        status = client.status()
        assert status.ready
        assert {part.role for part in status.parts} == {"ensemble", "router", "control", "expert"}
        with pytest.raises(RequestError, match="only the holder of the policy key"):
            client.set_point("fast")
    with (
        CascadeClient(f"{scheme}://127.0.0.1:{port}", "nothing") as client,
        pytest.raises(AccessError, match="restricted"),
    ):
        client.status()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_who_has_the_keys_can_do_everything(served, keys, scheme):
    """Switch the point, and see which versions are loaded."""
    port = getattr(served.ports, scheme)
    with CascadeClient(f"{scheme}://127.0.0.1:{port}", "pitch", keys=keys) as client:
        assert client.set_point("exact")["point"] == "exact"
        assert client.status().parts[0].versions == ("1",)


def test_the_control_key_does_not_switch(served, keys):
    """They are two rights."""
    with (
        CascadeClient(served.url, "pitch", keys=Keys(control=keys.control)) as client,
        pytest.raises(RequestError, match="policy key"),
    ):
        client.set_point("fast")


def test_the_readme_command_switches(served, folder):
    """With the key file that the README's command made."""
    program = str(Path(sys.executable).parent / "cascade-client")
    words = [program, "--url", served.url, "--cascade", "pitch", *shlex.split(SWITCHING)[1:]]

    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "-> fast" in done.stdout


def test_no_key_shows_in_a_process_list_or_log(served, keys):
    """After everything above, with a talkative log, nothing on this machine shows a key."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue  # it has just ended
    assert any(b"tritonserver" in line and b"cascade-key=" in line for line in lines)
    for key in (keys.control, keys.policy):
        assert not any(key.encode() in line for line in lines)
        assert key not in served.told
        assert key not in str(served.state())


def test_models_are_revived_behind_the_guard(served):
    """The supervisor holds the key itself."""
    before = served.state()["models"]["pitch_tiny"]["revivals"]
    served.kill_stubs("pitch_tiny")

    served.until(lambda: not served.state()["ready"], 60)
    served.until(lambda: served.state()["ready"], 60)

    assert served.state()["models"]["pitch_tiny"]["revivals"] == before + 1


class Impostor(service_pb2_grpc.GRPCInferenceServiceServicer):
    """It says that it lives, asks for the key as the server does, and keeps what it is shown."""

    def __init__(self):
        self.shown = []

    def ServerLive(self, request, context):  # noqa: N802  # the protocol's name
        return service_pb2.ServerLiveResponse(live=True)

    def RepositoryIndex(self, request, context):  # noqa: N802  # the protocol's name
        given = dict(context.invocation_metadata())
        if GRPC_HEADER not in given:
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
        self.shown.append(given[GRPC_HEADER])
        return service_pb2.RepositoryIndexResponse()


def test_who_takes_the_port_first_is_not_shown_the_key(only_pitch, folder, tmp_path):
    """It is free until the models are loaded, and any user of the machine may listen there."""
    repository = shutil.copytree(only_pitch, tmp_path / "models")
    ports = free_ports()
    named = [f"--{n}-port={getattr(ports, n)}" for n in ("http", "grpc", "metrics")]
    line = [SERVE, f"--model-repository={repository}", *named, "--health-port=0"]
    impostor, other = Impostor(), grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(impostor, other)
    with subprocess.Popen(
        [*line, f"--keys={folder}/cascade.keys"], stderr=subprocess.PIPE, text=True
    ) as process:
        while not any(p.parent == process.pid and "triton" in p.program for p in processes()):
            threading.Event().wait(0.05)
        other.add_insecure_port(f"127.0.0.1:{ports.grpc}")
        other.start()
        said = process.communicate(timeout=90)[1]
    other.stop(None)

    assert impostor.shown == []
    assert process.returncode == 1
    assert f"port {ports.grpc} (grpc) was taken by" in said
