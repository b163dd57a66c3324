"""Wrong requests against the real server: a clear error for them, answers for their neighbours."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from cascade_builder.demo import photos
from cascade_client import CascadeClient
from cascade_router.errors import CascadeError, RequestError


@pytest.fixture(scope="module")
def photo():
    return photos.rows()[0]


def broken(photo):
    return {
        "not a picture of a known format": {"rows": [b"hello"]},
        "got no bytes": {"rows": [b""]},
        "cannot be decoded": {"rows": [photo[: len(photo) // 2]]},
        "'turbo' is unknown; this policy has": {"rows": [photo], "point": "turbo"},
        "expected a tier from 0 to 2": {"rows": [photo], "max_tier": 9},
        "above cascade_max_tier 0": {"rows": [photo], "min_tier": 2, "max_tier": 0},
    }


def test_wrong_requests_fail_alone(imagenet, photo):
    """Sent between good ones, each wrong request gets its own sentence; the good are answered."""
    expected = imagenet.infer([photo])[0]
    wrong = list(broken(photo).items()) * 3

    with ThreadPoolExecutor(24) as pool:
        bad = [(text, pool.submit(imagenet.infer, **case)) for text, case in wrong]
        good = [pool.submit(imagenet.infer, [photo]) for _ in wrong]

    for text, future in bad:
        with pytest.raises(RequestError) as caught:
            future.result()
        assert text in str(caught.value)
        assert "Traceback" not in str(caught.value)
    for future in good:
        (answer,) = future.result()
        assert (answer.tier, answer.label) == (expected.tier, expected.label)


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("too few samples", (1, 1023), "FP32"),
        ("no rows", (0, 1024), "FP32"),
        ("more rows than a batch holds", (999, 1024), "FP32"),
        ("another dtype", (1, 1024), "INT32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(server, kind, shape, dtype):
    """Triton's own checks answer wrong shapes and dtypes, and the cascade goes on serving."""
    import tritonclient.grpc as grpc

    client = grpc.InferenceServerClient(server.grpc_url)
    tensor = grpc.InferInput("FRAME", list(shape), dtype)
    tensor.set_data_from_numpy(np.zeros(shape, dtype={"FP32": "f4", "INT32": "i4"}[dtype]))

    with pytest.raises(InferenceServerException):
        client.infer("pitch", [tensor], client_timeout=20)

    client.close()


def test_our_client_refuses_rows_that_do_not_fit(pitch):
    """The client names the row and what the cascade takes."""
    with pytest.raises(CascadeError, match="1024"):
        pitch.infer([np.zeros(1000, dtype=np.float32)])


def test_an_unknown_cascade_lists_what_the_server_has(server):
    """A mistyped name is answered with the names there are."""
    with (
        CascadeClient(server.grpc_url, "imagnet") as client,
        pytest.raises(CascadeError, match="imagenet"),
    ):
        client.infer([b"x"])


def test_a_server_that_is_not_there_is_named():
    """Nobody listening is its own error, with what to start."""
    with (
        CascadeClient("127.0.0.1:9", "imagenet") as client,
        pytest.raises(CascadeError, match=r"127\.0\.0\.1:9"),
    ):
        client.infer([b"x"])
