"""A server and a clock that every test of the supervisor may use."""

import pytest
from fake_supervised import Clock, FakeTriton


@pytest.fixture
def triton():
    return FakeTriton()


@pytest.fixture
def clock():
    return Clock()
