"""Thousands of wrong requests over HTTP and gRPC, with good ones all around them."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from cascade_client.calls import Statistics

from . import bad_grpc, bad_http, bad_pictures
from .bad_values import BAD_COMMANDS, any_of, hurt
from .fault import Report, Tally, Tell
from .grounds import nulls, pictures_of
from .judge import TRACE
from .site import Site
from .traffic import Pace, Traffic

__all__ = ["Mutated"]

Rng = np.random.Generator

_PATIENCE_S = 20.0
"""A wrong request that has not ended by then hangs."""

_SENDERS = 6
_SHARE_HTTP = 0.5
_SHARE_PICTURES = 0.3
_SHARE_HEAVY = 0.005
"""Of pictures that take tens of megabytes to make or to send."""

_SHARE_COMMANDS = 0.05
"""Of requests to the control model."""

_SHARE_BYTES = 0.02
"""Of random bytes sent to the gRPC port."""

_UNCLEAR = re.compile(rf"{TRACE.pattern}|site-packages|cascade_router/")

_ENOUGH_BROKEN = 10
"""More teach nothing new."""

_MUST_FAIL = frozenset(
    {
        *("_parameter", "_no_text", "_odd_parameter", "_empty_parameter", "_command"),
        *("_forbidden_picture", "_empty_picture", "_long_picture"),
        *("_huge_png_picture", "_huge_gif_picture"),
        *("_model", "_name", "_inputs", "_region", "_raw_length", "_not_json"),
    }
)
"""Mutations after which no request may be answered as if nothing were wrong."""

_NO_HTTP = frozenset(
    {"_head_length", "_content_length", "_encoding", "_path", "_method", "_cut", "_hurt_all"}
)
"""Mutations of HTTP itself: what is none may be answered by closing the connection."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a wrong request ended.

    Attributes:
        word: For counting.
        broken: What is broken about it.
        answered: The mutation, where it was answered all the same: it may have left it a good one.
    """

    word: str
    broken: str | None = None
    answered: str | None = None

    def held_to(self, mutation: str) -> _Outcome:
        """Break where a request was answered that a mutation has made one to be refused."""
        if self.word not in ("http 200", "grpc OK"):
            return self
        found = replace(self, answered=f"{self.word}: {mutation}")
        if mutation in _MUST_FAIL:
            found = replace(found, broken=f"{self.word} {mutation}: not refused")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutated:
    """Send wrong requests; the processes that serve must be the same at the end.

    Attributes:
        requests: In all.
        seed: Of what is sent; each request has a generator of its own.
    """

    name: ClassVar[str] = "mutated-requests"
    ground = staticmethod(nulls)
    required: ClassVar[str] = (
        "no crash, no hang, no traceback to the client, good neighbours in the same batch answered"
    )
    requests: int = 10_000
    seed: int = 9

    @property
    def what(self) -> str:
        """The fault in words."""
        return (
            f"{self.requests:,} mutated requests over HTTP and gRPC: lengths, dtypes, shapes, "
            "parameters, truncated bodies, bad images"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Send them all, each judged by itself."""
        tally = Tally(times=self.requests)
        words: Counter[str] = Counter()
        answered: Counter[str] = Counter()
        pictures = pictures_of(site)
        with ExitStack() as stack:
            before = {name: p.pid for name, p in site.family().items()}
            # Without pause, so that wrong and right requests meet in the batches of the router.
            pace = Pace(rate=None, callers=16, deadline_ms=None)
            good = [stack.enter_context(one.traffic(pace)) for one in (site, pictures)]
            _neighbours(good)
            with ThreadPoolExecutor(_SENDERS) as pool:
                sender = _Sender(site, pictures, self.seed)
                for i, outcome in enumerate(pool.map(sender.send, range(self.requests)), start=1):
                    words[outcome.word] += 1
                    answered.update([outcome.answered] if outcome.answered else [])
                    if outcome.broken is not None:
                        tally.broken.append(f"request {i - 1}: {outcome.broken}")
                    if len(tally.broken) >= _ENOUGH_BROKEN:
                        pool.shutdown(wait=False, cancel_futures=True)
                        break
                    if i % 1000 == 0:
                        tell(f"{i:,} of {self.requests:,} sent: {dict(words)}")
            _neighbours(good)
            together = {one.cascade: _rows_per_batch(one) for one in (site, pictures)}
            after = {name: p.pid for name, p in site.family().items()}
            tally.demand(before == after, f"processes died: {sorted(set(before) - set(after))}")
            moved = [name for name in before if after.get(name, before[name]) != before[name]]
            tally.demand(not moved, f"processes were started anew: {moved}")
        said = " and ".join(f"{n:g}" for n in together.values())
        note = f"same processes throughout; {said} requests to a batch"
        for cascade, n in together.items():
            tally.demand(n > 1, f"{cascade}: no request had a neighbour in its batch")
        return tally.report(
            good,
            site,
            note,
            ended=dict(words),
            answered=dict(answered.most_common()),
            rows_per_batch=together,
        )


class _Sender:
    """Sends the i-th wrong request; what it is depends on seed and i alone."""

    def __init__(self, site: Site, pictures: Site, seed: int) -> None:
        import grpc

        self._site = site
        self._pictures = pictures
        self._seed = seed
        # A channel of its own for each thread would hide what one bad message does to its channel.
        self._channel = grpc.insecure_channel(
            site.grpc_url, options=[("grpc.max_send_message_length", -1)]
        )
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._error = grpc.RpcError

    def send(self, i: int) -> _Outcome:
        """Make it, send it, judge what came back."""
        rng = np.random.default_rng([self._seed, i])
        if rng.random() < _SHARE_BYTES:
            return self._bytes(rng)
        by_http = rng.random() < _SHARE_HTTP
        if rng.random() < _SHARE_COMMANDS:
            return self._command(rng, by_http)
        if rng.random() < _SHARE_PICTURES:
            return self._picture(rng, by_http)
        row = any_of(rng, self._site.rows)
        parts = ("null", "X", "FP32", [1, 4], row.tobytes())
        if by_http:
            mutation = any_of(rng, bad_http.MUTATIONS)
            made = mutation(rng, bad_http.message(*parts))
            data = made if isinstance(made, bytes) else made.to_bytes()
            name = mutation.__name__
            return self._http(data, f"http {name}", closes=name in _NO_HTTP).held_to(name)
        given = bad_grpc.request(*parts)
        mutation = any_of(rng, bad_grpc.MUTATIONS)
        made = mutation(rng, given)
        data = given.SerializeToString() if made is None else made
        return self._grpc(data, f"grpc {mutation.__name__}").held_to(mutation.__name__)

    def _command(self, rng: Rng, by_http: bool) -> _Outcome:
        bad = any_of(rng, BAD_COMMANDS)
        command = hurt(rng, b'{"do": "show"}') if bad is None else bad
        content = struct.pack("<I", len(command)) + command
        parts = (f"{self._site.cascade}_control", "COMMAND", "BYTES", [1], content)
        name = "_hurt_command" if bad is None else "_command"
        if by_http:
            return self._http(bad_http.message(*parts).to_bytes(), f"http {name}").held_to(name)
        data = bad_grpc.request(*parts).SerializeToString()
        return self._grpc(data, f"grpc {name}").held_to(name)

    def _picture(self, rng: Rng, by_http: bool) -> _Outcome:
        heavy = rng.random() < _SHARE_HEAVY
        mutation = any_of(rng, bad_pictures.HEAVY if heavy else bad_pictures.MUTATIONS)
        picture = mutation(rng, any_of(rng, self._pictures.rows))
        parts = (
            self._pictures.cascade,
            "IMAGE",
            "BYTES",
            [1, 1],
            struct.pack("<I", len(picture)) + picture,
        )
        name = f"picture {mutation.__name__}"
        if by_http:
            made = self._http(bad_http.message(*parts).to_bytes(), name)
        else:
            made = self._grpc(bad_grpc.request(*parts).SerializeToString(), name)
        return made.held_to(f"{mutation.__name__}_picture")

    def _grpc(self, data: bytes, name: str) -> _Outcome:
        try:
            reply = self._infer(data, timeout=_PATIENCE_S)
        except self._error as exc:
            code, text = exc.code().name, exc.details() or ""
            if code == "DEADLINE_EXCEEDED":
                return _Outcome("hang", f"{name}: no answer within {_PATIENCE_S:g} s")
            return _Outcome(f"grpc {code}", _unclear(text, name))
        return _Outcome("grpc OK", None if reply else f"{name}: an empty answer")

    def _http(self, data: bytes, name: str, *, closes: bool = False) -> _Outcome:
        reply = _exchange(self._site.ports.http, data)
        if reply is None:
            return _Outcome("hang", f"{name}: neither answered nor closed in {_PATIENCE_S:g} s")
        if not reply:
            return _Outcome("http closed", None if closes else f"{name}: closed without a word")
        line, _, rest = reply.partition(b"\r\n")
        words = line.split()
        if len(words) < 2 or not words[1].isdigit():
            return _Outcome("http garbage", f"{name}: answered {line[:80]!r}")
        text = rest.decode("utf-8", "replace")
        if words[1] == b"200":
            answered = b'"outputs"' in rest or b"gzip" in rest
            return _Outcome("http 200", None if answered else f"{name}: no answer: {text[:200]!r}")
        return _Outcome(f"http {words[1].decode()}", _unclear(text, name))

    def _bytes(self, rng: Rng) -> _Outcome:
        """Send anything to the gRPC port, as HTTP/2 at first or not at all."""
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)[:3] + b"\x04" + bytes(5)
        data = (preface if rng.random() < 0.7 else b"") + rng.bytes(int(rng.integers(1, 2000)))
        reply = _exchange(self._site.ports.grpc, data)
        if reply is None:
            return _Outcome("hang", "random bytes: the gRPC port kept the connection")
        return _Outcome("bytes closed")


def _exchange(port: int, data: bytes) -> bytes | None:
    """Send bytes, say that no more will come, read to the end; None: there was none in time."""
    received = b""
    end = time.monotonic() + _PATIENCE_S
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < end:
                connection.settimeout(max(end - time.monotonic(), 0.01))
                part = connection.recv(65536)
                if not part:
                    return received
                received += part
                if _complete(received):
                    return received
        except TimeoutError:
            return None
        except OSError:  # closed on us, which ends it too
            return received
    return None


def _complete(data: bytes) -> bool:
    """Say whether an HTTP reply is whole; Triton keeps some connections open after it."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1"):
        return False
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def _unclear(text: str, name: str) -> str | None:
    """Say what is wrong with a refusal; None: it is a sentence for its caller."""
    if not text.strip():
        return f"{name}: an empty refusal"
    found = _UNCLEAR.search(text)
    return found and f"{name}: {found.group()!r} reached the client: {text[:200]!r}"


def _rows_per_batch(site: Site) -> float:
    """Say how many rows the router took at once, on average: who sent wrong ones had neighbours."""
    with site.client() as client:
        (counts,) = client.run(_statistics(f"{site.cascade}_router"))
    return round(counts.rows / max(counts.batches, 1), 2)


def _statistics(model: str) -> Any:
    return (yield Statistics(model))


def _neighbours(good: list[Traffic]) -> None:
    """Wait until good requests of both cascades have been answered since now."""
    since = time.monotonic()
    while any(len(one.since(since)) < 20 for one in good):
        time.sleep(0.05)
        if time.monotonic() > since + 60:
            message = "good requests are no longer answered"
            raise RuntimeError(message)
