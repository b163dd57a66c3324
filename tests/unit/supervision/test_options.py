"""What `cascade-serve` takes itself, what goes on, and what is too dangerous to be an accident."""

import pytest

from cascade_router.errors import ServerError
from cascade_router.supervision.options import Options, reachable


def parse(*flags, environment=None):
    return Options.parse(flags, environment or {})


@pytest.mark.parametrize("flags", [["--http-port", "9"], ["--http-port=9"]])
def test_flags_are_read_in_both_forms(flags):
    """``--key value`` and ``--key=value`` are the same."""
    options = parse(*flags, "--x", "--y", "z")

    assert options.ports["http"] == 9
    assert options.rest == ("--x", "--y=z")


def test_repeated_flags_all_go_to_the_server():
    """What may be given twice is not swallowed; ports and repository are ours to know."""
    options = parse("--load-model=a", "--load-model=b", "--model-repository=x")

    assert options.rest == ("--load-model=a", "--load-model=b")
    assert options.repository.name == "x"


def test_everything_is_on_loopback_by_default():
    """Nobody has to remember it."""
    assert set(parse().hosts.values()) == {"127.0.0.1"}


@pytest.mark.parametrize(
    "flag",
    [
        "--http-address=0.0.0.0",
        "--grpc-address=::",
        "--metrics-address=10.1.2.3",
        "--health-address=some.name",
        "--allow-sagemaker=true",
        "--allow-vertex-ai",
    ],
)
def test_every_door_needs_expose_and_keys(flag):
    """Each of them alone lets others in, so each wants both said."""
    with pytest.raises(ServerError, match="lets other machines in") as caught:
        parse(flag)
    assert "--expose" in str(caught.value)
    with pytest.raises(ServerError, match="needs keys"):
        parse(flag, "--expose")

    assert parse(flag, "--expose", "--keys=k").expose
    assert parse(flag, "--expose", environment={"CASCADE_KEYS": "k"}).keys.name == "k"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_by_any_name_needs_nothing(host):
    """It is this machine."""
    assert parse(f"--http-address={host}").hosts["http"] == host


@pytest.mark.parametrize("name", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_keys_on_the_command_line_are_refused(name):
    """Everybody on the machine could read them."""
    with pytest.raises(ServerError, match="is set from the key file"):
        parse(f"{name}=logging:a=b")


@pytest.mark.parametrize("flag", ["--allow-grpc=false", "--grpc-use-ssl=true", "--grpc-use-ssl"])
def test_what_it_could_not_look_after_is_refused(flag):
    """It speaks plain gRPC with its server."""
    with pytest.raises(ServerError, match="looks after its server by plain gRPC"):
        parse(flag)


@pytest.mark.parametrize("port", ["abc", "", "0", "70000", "-1", "²"])
def test_a_port_that_is_none_is_refused(port):
    """The flag and the value are named."""
    with pytest.raises(ServerError, match="--http-port: got"):
        parse(f"--http-port={port}")


def test_any_health_port_will_do():
    """0 takes one that is free; it is told."""
    assert parse("--health-port=0").ports["health"] == 0


@pytest.mark.parametrize("flag", ["--look-s=0", "--look-s=x", "--drain-s=-1", "--drain-s=nan"])
def test_times_are_bounded(flag):
    """Seconds that make sense."""
    with pytest.raises(ServerError, match="expected seconds"):
        parse(flag)


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("fe80::1", "[fe80::1]")],
)
def test_the_server_is_reached_where_it_listens(host, reached):
    """All interfaces include loopback."""
    assert reachable(host) == reached
