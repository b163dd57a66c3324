"""A served cascade for the tests of the client."""

import pytest
from fake_cascade import FakeCascade


@pytest.fixture
def fake():
    return FakeCascade()
