"""Arrays on the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_client.calls import as_bytes
from cascade_client.tensors import DTYPES, array_from_raw, datatype_of, raw_from_array
from cascade_router.errors import ServerError

_FIXED = [name for name in DTYPES if name != "BYTES"]


@given(st.sampled_from(_FIXED), hnp.array_shapes(min_dims=0, min_side=0), st.data())
def test_numbers_come_back_as_they_went(name, shape, data):
    """For every datatype and shape, empty ones included."""
    array = data.draw(hnp.arrays(DTYPES[name], shape))
    back = array_from_raw(raw_from_array(array), datatype_of(array), shape)

    assert datatype_of(array) == name
    np.testing.assert_array_equal(back, array)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_come_back_as_they_went(values):
    """Zero bytes and empty strings included."""
    back = array_from_raw(raw_from_array(as_bytes(values)), "BYTES", [len(values)])

    assert back.tolist() == values


def test_big_endian_and_strided_arrays_are_sent_little_and_dense():
    """Triton reads C order, little-endian."""
    array = np.arange(6, dtype=">i4").reshape(2, 3).T

    assert raw_from_array(array) == np.array([0, 3, 1, 4, 2, 5], dtype="<i4").tobytes()
    assert datatype_of(array) == "INT32"


@pytest.mark.parametrize(
    ("raw", "datatype", "shape"),
    [
        (b"\0" * 7, "FP32", [2]),
        (b"\0" * 8, "FP32", [3]),
        (b"\0" * 8, "BF16", [4]),
        (b"\5\0\0\0ab", "BYTES", [1]),
        (b"\1\0\0\0ab", "BYTES", [1]),
        (b"\1\0", "BYTES", [1]),
    ],
)
def test_bytes_that_do_not_fit_are_refused(raw, datatype, shape):
    """A reply that is no tensor is the server's fault, and is not guessed at."""
    with pytest.raises(ServerError, match="tensor of shape"):
        array_from_raw(raw, datatype, shape)


def test_a_type_that_triton_lacks_is_a_wrong_argument():
    """Complex numbers cannot be sent."""
    with pytest.raises(ValueError, match="complex64"):
        datatype_of(np.zeros(1, dtype=np.complex64))
