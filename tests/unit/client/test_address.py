"""Where the server is, as people write it."""

import pytest

from cascade_client.address import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost", "grpc://localhost:8001"),
        ("gpu-box:9001", "grpc://gpu-box:9001"),
        ("grpc://10.0.0.1:8001/", "grpc://10.0.0.1:8001"),
        ("http://localhost", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_names_protocol_host_and_port(url, expected):
    """What is left out is Triton's own: gRPC, and the protocol's usual port."""
    assert str(Address.parse(url)) == expected


@pytest.mark.parametrize("url", ["", "https://x", "ftp://x:1", "a b", "x:99999", "x:0", "x:y"])
def test_anything_else_is_refused_by_name(url):
    """The message holds what was given and which forms there are."""
    with pytest.raises(ValueError, match="url"):
        Address.parse(url)
