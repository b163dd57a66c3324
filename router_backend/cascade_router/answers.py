"""The answers to the requests of one ``execute``, each given exactly once.

Until ``defer`` an answer goes into the list that ``execute`` returns; after it, to the request's
response sender, which costs a round trip of 0.25 to 0.3 ms but needs no instance.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import CascadeError
from .gate import Ints
from .triton_io import Array, error_response, response, send
from .walk import Walk

__all__ = ["Answers"]


@dataclass(slots=True, eq=False)
class _Pending:
    """A request whose rows are under way.

    Attributes:
        place: Its index among the requests of ``execute``.
        rows: Its rows in the walk.
        outputs: Names of the outputs it asks for.
        left: Rows that are not decided yet.
        done: Whether it was answered.
        sender: Answers it once ``execute`` has returned.
    """

    place: int
    rows: slice
    outputs: set[str]
    left: int
    done: bool = False
    sender: Any = None


@dataclass(slots=True, eq=False)
class Answers:
    """Collects what is decided and answers each request when its last row is.

    Attributes:
        requests: The requests of ``execute``.
        by_list: What ``execute`` returns: a response each, or None for one answered later.
        deferred: What is not answered yet will be answered by its sender.
    """

    requests: Sequence[Any]
    by_list: list[Any] = field(init=False)
    deferred: bool = field(default=False, init=False)
    _columns: list[tuple[str, Array]] = field(init=False)
    _pending: list[_Pending] = field(default_factory=list, init=False)
    _owner: Ints = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Nothing is answered yet."""
        self.by_list = [None] * len(self.requests)

    def refuse(self, place: int, error: CascadeError) -> None:
        """Answer a request that never walks."""
        self.by_list[place] = error_response(error)

    def expect(self, place: int, n_rows: int) -> None:
        """Note a request with the next ``n_rows`` rows of the walk."""
        first = self._pending[-1].rows.stop if self._pending else 0
        outputs = set(self.requests[place].requested_output_names())
        rows = slice(first, first + n_rows)
        self._pending.append(_Pending(place, rows, outputs, n_rows))

    def follow(self, walk: Walk) -> None:
        """Take the walk of all expected rows."""
        self._columns = [
            ("SCORES", walk.scores),
            ("LABEL", walk.label[:, None]),
            ("CONFIDENCE", walk.confidence[:, None]),
            ("TIER", walk.exit_tier[:, None]),
            ("DEGRADED", walk.degraded[:, None]),
        ]
        sizes = [one.left for one in self._pending]
        self._owner = np.repeat(np.arange(len(sizes)), sizes)

    def report(self, rows: Ints, error: CascadeError | None) -> None:
        """Note rows that are decided, or have failed, and answer the requests they complete.

        A failed row fails its request; the request's other rows are then computed for nothing.
        Called from any thread.
        """
        counts = np.bincount(self._owner[rows], minlength=len(self._pending)).tolist()
        ended = []
        with self._lock:
            for one, n in zip(self._pending, counts, strict=True):
                one.left -= n
                if n and not one.done and (error is not None or not one.left):
                    one.done = True
                    ended.append(one)
        for one in ended:
            self._answer(one, self._response(one) if error is None else error_response(error))

    def fail(self, error: CascadeError) -> None:
        """End whatever is not answered yet; what is still told of its rows is passed over."""
        with self._lock:
            ended = [one for one in self._pending if not one.done]
            for one in ended:
                one.done = True
        for one in ended:
            self._answer(one, error_response(error))
        if not self.deferred:
            unread = [place for place, reply in enumerate(self.by_list) if reply is None]
            for place in unread:
                self.refuse(place, error)

    def defer(self) -> None:
        """Let what is not answered yet be answered by its sender from here on."""
        if self.deferred:
            return
        self.deferred = True
        for one in self._pending:
            if not one.done:
                one.sender = self.requests[one.place].get_response_sender()
        # Requests must not be kept once ``execute`` has returned.
        self.requests = ()

    def _answer(self, one: _Pending, reply: Any) -> None:
        if one.sender is None:
            self.by_list[one.place] = reply
        else:
            send(one.sender, reply)

    def _response(self, one: _Pending) -> Any:
        asked = one.outputs
        return response([(name, a[one.rows]) for name, a in self._columns if name in asked])
