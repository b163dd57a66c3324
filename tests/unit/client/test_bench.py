"""Load generators, in virtual time: the loop's clock jumps to the next event."""

import asyncio
import selectors

import numpy as np
import pytest
from fake_cascade import AsyncFake, FakeCascade, row

from cascade_client.bench import Candidate, Load, generate, groups_of, run_precisely
from cascade_client.calls import Infer
from cascade_client.summary import summarise
from cascade_router.errors import BusyError, RequestError, ServerError


class VirtualLoop(asyncio.SelectorEventLoop):
    """Never waits: where it would, its clock moves on."""

    def __init__(self):
        super().__init__(_Jump(self))
        self.now = 0.0

    def time(self):
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        self._loop.now += timeout or 0.0
        return super().select(0)


class SlowServer(AsyncFake):
    """Answers one request at a time, each in its time."""

    def __init__(self, service_s, fake=None):
        super().__init__(fake or FakeCascade())
        self._service = service_s
        self._one = asyncio.Lock()
        self.n = 0

    async def send(self, call):
        async with self._one:
            self.n += 1
            await asyncio.sleep(self._service(self.n))
            return self.fake.send(call)


def virtually(make, load, candidate=None, rows=None):
    """Generate a load in virtual time; returns records and the transport."""
    fake = FakeCascade()
    candidate = candidate or Candidate(name="c", model="pitch", port=fake.models["pitch"].inputs[0])
    rows = rows or [row(i % 4, i / 10) for i in range(10)]

    async def main():
        transport = make(fake)
        clock = asyncio.get_running_loop().time
        return await generate(transport, candidate, rows, load, clock), transport

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def test_a_closed_loop_keeps_its_callers_busy():
    """Eight callers of a server that takes 10 ms, any number at a time: 800 a second."""
    load = Load(concurrency=8, seconds=1.0, warmup_s=0.5)
    records, transport = virtually(lambda fake: AsyncFake(fake, 0.01), load)

    assert transport.most_at_once == 8
    assert summarise(records).rows_per_s == pytest.approx(800, rel=0.02)
    np.testing.assert_allclose(records.latency_ms, 10.0)


def test_the_warm_up_is_not_counted():
    """A first request of five seconds leaves no trace."""
    load = Load(concurrency=1, seconds=1.0, warmup_s=6.0)
    records, _ = virtually(lambda fake: SlowServer(lambda n: 5.0 if n == 2 else 0.01, fake), load)

    assert records.latency_ms.max() == pytest.approx(10.0)


def test_an_open_loop_sends_at_its_rate():
    """Poisson: the count varies with its root, the seed fixes it."""
    load = Load(rate=500.0, seconds=4.0, warmup_s=0.5, seed=3)
    records, _ = virtually(lambda fake: AsyncFake(fake, 0.002), load)
    again, _ = virtually(lambda fake: AsyncFake(fake, 0.002), load)

    assert abs(len(records.errors) - 2000) < 4 * np.sqrt(2000)
    np.testing.assert_allclose(records.latency_ms, 2.0, atol=1e-6)
    np.testing.assert_array_equal(records.rows, again.rows)


def test_an_open_loop_does_not_hide_a_stall():
    """The server stops for one second at 100 requests a second: what was due meanwhile waited.

    A generator that waits for answers would have seen one slow request (coordinated omission).
    """
    load = Load(rate=100.0, seconds=5.0, warmup_s=0.0)
    records, _ = virtually(lambda fake: SlowServer(lambda n: 1.0 if n == 200 else 1e-4, fake), load)
    closed, _ = virtually(
        lambda fake: SlowServer(lambda n: 1.0 if n == 200 else 1e-4, fake),
        Load(concurrency=1, seconds=1.5, warmup_s=0.0),
    )

    assert (records.latency_ms > 100).sum() > 60
    assert (closed.latency_ms > 100).sum() == 1


def test_an_overloaded_open_loop_counts_what_was_answered_in_time():
    """Offered 200/s, served 100/s: throughput is what the server did, latency grows."""
    load = Load(rate=200.0, seconds=2.0, warmup_s=0.0)
    records, _ = virtually(lambda fake: SlowServer(lambda n: 0.01, fake), load)
    summary = summarise(records)

    assert summary.rows_per_s == pytest.approx(100, rel=0.05)
    assert summary.p99_ms > 1500
    assert summary.lag_p99_ms < 1.0


@pytest.mark.parametrize("rate", [None, 1000.0])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_a_bound_on_requests_ends_the_measurement(rate, n):
    """Whichever loop, exactly so many are recorded."""
    load = Load(concurrency=4, rate=rate, seconds=60.0, requests=n, warmup_s=0.1)
    records, _ = virtually(lambda fake: AsyncFake(fake, 0.002), load)

    assert len(records.errors) == n


def test_rows_are_cycled_in_a_seeded_order():
    """Every row once per pass; another seed, another order."""
    rows = [row(i % 4, i / 10) for i in range(10)]

    def order(seed):
        load = Load(concurrency=1, seconds=9, requests=20, warmup_s=0.0, seed=seed)
        records, _ = virtually(lambda fake: AsyncFake(fake, 0.001), load, rows=rows)
        return records.rows.ravel().tolist()

    first = order(1)
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert first == order(1) != order(2)


@pytest.mark.parametrize(("n_rows", "batch"), [(1, 1), (10, 1), (10, 3), (2, 5)])
def test_every_row_is_dealt_into_some_request(n_rows, batch):
    """Requests are all full."""
    groups = groups_of(n_rows, batch, seed=0)

    assert groups.shape == (-(-n_rows // batch), batch)
    assert set(groups.ravel().tolist()) == set(range(n_rows))


def test_each_row_of_a_batch_keeps_its_tier_and_label():
    """Row numbers, tiers and labels lie in the same places."""
    rows = [row(i % 4, i / 10) for i in range(10)]
    load = Load(concurrency=2, seconds=1.0, batch=3, warmup_s=0.0)
    records, transport = virtually(lambda fake: AsyncFake(fake, 0.01), load, rows=rows)

    assert records.rows.shape == records.tiers.shape == (len(records.errors), 3)
    np.testing.assert_array_equal(records.labels, records.rows % 4)
    np.testing.assert_array_equal(records.tiers, records.rows / 10 < 0.75)
    assert all(len(c.arrays["FRAME"]) == 3 for c in transport.fake.calls if isinstance(c, Infer))


def test_a_failed_request_is_recorded_with_its_kind():
    """And the load goes on."""

    def make(fake):
        fake.send = _every_third(fake.send)
        return AsyncFake(fake, 0.001)

    records, _ = virtually(make, Load(concurrency=2, seconds=0.3, warmup_s=0.0))
    summary = summarise(records)

    assert summary.errors["BusyError"] == pytest.approx(len(records.errors) / 3, abs=1)
    assert summary.rows_per_s == pytest.approx(records.answered.sum() / records.seconds)
    assert (records.labels[~records.answered] == -1).all()


def _every_third(send):
    calls = []

    def sometimes(call):
        calls.append(call)
        if len(calls) % 3 == 0:
            message = "no place"
            raise BusyError(message)
        return send(call)

    return sometimes


def test_an_expert_is_loaded_by_its_own_input_and_output():
    """Its label is the class with the largest logit; it has no tier."""
    candidate = Candidate.expert(FakeCascade().models["pitch_tiny"])
    load = Load(concurrency=2, seconds=0.2, warmup_s=0.0, batch=2)
    records, _ = virtually(lambda fake: AsyncFake(fake, 0.001), load, candidate)

    np.testing.assert_array_equal(records.labels, records.rows % 4)
    assert (records.tiers == -1).all()
    assert summarise(records).tier_share == {}


def test_a_cascade_is_no_expert():
    """It has five outputs."""
    with pytest.raises(RequestError, match="got 1 inputs and 5 outputs"):
        Candidate.expert(FakeCascade().models["pitch"])


def test_what_is_wrong_with_every_request_is_raised_by_the_first():
    """A wrong point, or a model that is no cascade, does not make a table of errors."""
    port = FakeCascade().models["pitch"].inputs[0]
    wrong = Candidate(name="w", model="pitch", port=port, parameters={"cascade_point": "none"})
    expert = Candidate(name="e", model="pitch_tiny", port=port)

    for candidate, error in ((wrong, RequestError), (expert, ServerError)):
        with pytest.raises(error):
            virtually(lambda fake: AsyncFake(fake), Load(), candidate)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"rate": 0.0},
        {"seconds": 0.0},
        {"requests": 0},
        {"batch": 0},
        {"warmup_s": -1.0},
    ],
)
def test_a_load_that_is_none_is_refused(wrong):
    """When made, not when run."""
    with pytest.raises(ValueError, match="must be positive"):
        Load(**wrong)


def test_the_precise_loop_runs_a_coroutine():
    """And hands back its result."""

    async def answer():
        return 42

    assert run_precisely(answer()) == 42
