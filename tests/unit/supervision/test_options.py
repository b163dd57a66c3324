"""What `cascade-serve` takes itself, what goes on, and what is too dangerous to be an accident."""

import pytest

from cascade_router.errors import ServerError
from cascade_router.supervision.options import Options, reachable


def parse(*flags, environment=None):
    return Options.parse(flags, environment or {})


@pytest.mark.parametrize("flags", [["--http-port", "9"], ["--http-port=9"]])
def test_flags_are_read_in_both_forms(flags):
    """``--key value`` and ``--key=value`` are the same."""
    options = parse(*flags, "--x=", "--y", "z")

    assert options.ports["http"] == 9
    assert options.rest == ("--x=", "--y=z")


@pytest.mark.parametrize(
    "flags",
    [
        ["--id"],
        ["--"],
        ["--allow-metrics"],
        ["--log-verbose"],
        ["--id", "--log-verbose=1"],
        ["--log-verbose=1", "stray"],
        ["-h8"],
        ["--=x"],
        ["--Id=x"],
        ["--disable-auto"],
    ],
)
def test_a_flag_without_a_value_is_refused(flags):
    """It would take the next one for its value: the one that holds the key, say."""
    with pytest.raises(ServerError, match="expected --flag=value") as caught:
        parse(*flags, "--keys=k")
    assert "every flag of tritonserver takes a value" in str(caught.value)


@pytest.mark.parametrize(
    "flag",
    [
        "--http-addr=0.0.0.0",
        "--http-restricted=model-repository:x=y",
        "--grpc-restricted-protoco=a:b=c",
        "--allow-s=true",
        "--allow-v=true",
        "--allow-g=false",
        "--grpc-use=true",
        "--model-rep=elsewhere",
        "--model-control=none",
        "--metrics-a=0.0.0.0",
    ],
)
def test_an_abbreviated_flag_is_refused(flag):
    """The server would understand it, and we would not have looked at it."""
    with pytest.raises(ServerError, match="is short for --") as caught:
        parse(flag)
    assert "write the flag out" in str(caught.value)


@pytest.mark.parametrize(
    "flag",
    ["--log-verbose=1", "--disable-auto-complete-config", "--exit-on-error=false", "--id=x=y"],
)
def test_other_flags_go_on_as_they_are(flag):
    """They are the server's own."""
    assert parse(flag).rest == (flag,)


@pytest.mark.parametrize("flag", ["--expose=false", "--expose=true", "--expose="])
def test_expose_takes_no_value(flag):
    """Said is said; with one it could be meant not to be."""
    with pytest.raises(ServerError, match="--expose takes no value"):
        parse(flag, "--keys=k")


@pytest.mark.parametrize("flag", ["--keys", "--keys=", "--watch=", "--new-keys", "--model-store="])
def test_a_file_that_is_not_named_is_refused(flag):
    """As of an empty variable: it must not mean no keys at all."""
    with pytest.raises(ServerError, match="got no value"):
        parse(flag)


def test_repeated_flags_all_go_to_the_server():
    """What may be given twice is not swallowed; ports and repository are ours to know."""
    options = parse("--load-model=a", "--load-model=b", "--model-repository=x")

    assert options.rest == ("--load-model=a", "--load-model=b")
    assert options.repository.name == "x"


@pytest.mark.parametrize("name", ["--model-repository", "--model-store"])
def test_a_second_repository_is_refused(name):
    """Tritonserver would serve both; to serve the last alone would leave models out unsaid."""
    with pytest.raises(ServerError, match="got a second one"):
        parse("--model-repository=a", f"{name}=b")


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


@pytest.mark.parametrize("name", ["--allow-sagemaker", "--allow-vertex-ai"])
@pytest.mark.parametrize("value", ["true", "TRUE", "on", "On", "1"])
def test_a_door_without_keys_stays_shut(name, value):
    """Nothing that comes by it is asked for a key, so no key lets it be opened."""
    with pytest.raises(ServerError, match="asks for no key"):
        parse(f"{name}={value}", "--expose", "--keys=k")
    assert parse(f"{name}=off").rest == (f"{name}=off",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_by_any_name_needs_nothing(host):
    """It is this machine."""
    assert parse(f"--grpc-address={host}").hosts["grpc"] == host.replace("localhost", "127.0.0.1")


@pytest.mark.parametrize("name", ["http", "metrics"])
def test_the_http_server_gets_addresses_that_it_knows(name):
    """It takes names and IPv6 for another address, and would listen where nobody finds it."""
    assert parse(f"--{name}-address=localhost").hosts[name] == "127.0.0.1"
    for host in ("::1", "::", "some.name", "127.1"):
        with pytest.raises(ServerError, match="IPv4 only"):
            parse(f"--{name}-address={host}", "--expose", "--keys=k")


@pytest.mark.parametrize(
    ("flags", "served"),
    [([], True), (["--allow-http=OFF"], False), (["--allow-http=false", "--allow-http=on"], True)],
)
def test_whether_http_is_served_is_known(flags, served):
    """Where it is not, it need not be proven to be guarded."""
    assert parse(*flags).serves_http == served


@pytest.mark.parametrize("name", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_keys_on_the_command_line_are_refused(name):
    """Everybody on the machine could read them."""
    with pytest.raises(ServerError, match="is set from the key file"):
        parse(f"{name}=logging:a=b")


@pytest.mark.parametrize(
    "flag",
    [
        "--allow-grpc=false",
        "--allow-grpc=OFF",
        "--grpc-use-ssl=true",
        "--grpc-use-ssl=ON",
        "--grpc-use-ssl-mutual=true",
        "--grpc-use-ssl-mutual=false",  # to tritonserver, that is plain TLS
    ],
)
def test_what_it_could_not_look_after_is_refused(flag):
    """It speaks plain gRPC with its server."""
    with pytest.raises(ServerError, match="looks after its server by plain gRPC"):
        parse(flag)


def test_grpc_may_be_allowed_in_any_words():
    """It is so already."""
    assert parse("--allow-grpc=on", "--allow-grpc=TRUE").rest != ()


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
