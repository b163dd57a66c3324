"""``cascade.toml``: what the user asks for. It is read whole or refused with a way out."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_router.errors import SpecError
from cascade_router.strict import Table

from .factories import Factory
from .targets.options import TARGETS, Engine, Program, Serving
from .text_input import Text

if TYPE_CHECKING:
    from .sources import Source

__all__ = [
    "DTYPES",
    "KINDS",
    "TARGETS",
    "Expert",
    "Input",
    "Point",
    "Router",
    "Rows",
    "Spec",
    "packaged",
]

KINDS = ["image", "text", "tensor"]
"""What a client sends: an encoded picture, a text, or the canonical tensor itself."""

DTYPES = {
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
}
"""Triton's names of the dtypes a canonical tensor may have, with NumPy's."""

_PACKAGED = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The canonical tensor that all experts share.

    Attributes:
        kind: One of ``KINDS``.
        name: Its name in every model.
        dtype: One of ``DTYPES``.
        shape: Of one row, without the batch dimension.
        text: How texts become token ids; None: they are no texts.
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    text: Text | None = None

    @property
    def size(self) -> int:
        """Side in pixels of a canonical picture."""
        return self.shape[0]

    @property
    def raw(self) -> str | None:
        """Name of what a client sends as bytes; None: it sends the canonical tensor."""
        return {"image": "IMAGE", "text": "TEXT"}.get(self.kind)

    @property
    def described(self) -> dict[str, Any]:
        """Say all that canonical rows depend on, JSON-able.

        Raises:
            SpecError: If the tokeniser cannot be read.
        """
        form = {"kind": self.kind, "name": self.name, "dtype": self.dtype}
        more = {} if self.text is None else self.text.described
        return {**form, "shape": list(self.shape), **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Where real rows come from; exactly one is given.

    Attributes:
        factory: Returns a list of raw rows (bytes of pictures, or arrays).
        folder: Holds pictures, or ``.npy`` files for tensors.
    """

    factory: Factory | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One expert and how it is served.

    Attributes:
        name: Unique within the cascade.
        source: Where it comes from.
        precision: What it computes in, one of ``targets.options.PRECISIONS``.
        instances: How many copies serve at once.
        threads: Threads within one copy.
        queue_delay_us: How long its batcher waits for more rows.
        serving: How else it is served.
    """

    name: str
    source: Source
    precision: str = "fp32"
    instances: int = 1
    threads: int = 1
    queue_delay_us: int = 0
    serving: Serving = field(default_factory=Serving)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An operating point by hand: simple thresholds that promise nothing.

    Attributes:
        name: What a request asks for.
        thresholds: K - 1 of them, one per tier but the last.
    """

    name: str
    thresholds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """How the router is served.

    Attributes:
        instances: How many routers take requests at once.
        runs_first_expert: The first expert runs in the router's process (target ``embedded``),
            which saves every row a call; it is served as a model of its own besides.
        max_waiting_rows: Most rows that may wait for one tier in one instance; more are refused.
        max_waiting_requests: Most requests that may wait before the router, and before the model
            that prepares their rows; more are refused.
        calls_per_tier: Calls of one tier that one instance may have under way.
        on_tier_failure: What becomes of rows whose tier failed, one of ``walk.ON_TIER_FAILURE``.
        tier_timeout_ms: A call of a tier that takes longer has failed.
        abstain_below: A row that the last expert answers with a lower score gets label -1; None:
            every row gets a label.
    """

    instances: int = 2
    runs_first_expert: bool = True
    max_waiting_rows: int = 256
    max_waiting_requests: int = 256
    calls_per_tier: int = 2
    on_tier_failure: str = "escalate"
    tier_timeout_ms: int = 10_000
    abstain_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A cascade as its author wants it.

    Attributes:
        name: Name of the cascade and prefix of its models.
        activation: One of ``scores.ACTIVATIONS``.
        classes: C.
        label_tolerance: Labels this far apart count as the same.
        max_batch: Most rows in one call of a model.
        labels: Names of the classes: a factory, or a text file with one a line; None: none.
        target: One of ``TARGETS``.
        input: The canonical tensor.
        rows: Real rows.
        experts: K of them, cheapest first.
        router: How the router is served.
        engine: How TensorRT engines are built and served.
        program: How torch programs are made.
        points: The ladder, cheapest first.
        default: Name of the point of a request that names none.
        digest: ``sha256:...`` of what the file says, whatever its comments and spaces.
    """

    name: str
    activation: str
    classes: int
    label_tolerance: int
    max_batch: int
    labels: Factory | Path | None
    target: str
    input: Input
    rows: Rows
    experts: tuple[Expert, ...]
    points: tuple[Point, ...]
    default: str
    digest: str
    router: Router = field(default_factory=Router)
    engine: Engine = field(default_factory=Engine)
    program: Program = field(default_factory=Program)

    def model(self, part: str) -> str:
        """Name the Triton model of an expert or of ``router``, ``preprocess``, ``control``."""
        return f"{self.name}_{part}"

    @classmethod
    def find(cls, text: str) -> Spec:
        """Read a spec by path, or by the name of a packaged one.

        Raises:
            SpecError: If there is none, or it cannot be.
        """
        if text in packaged() and not Path(text).is_file():
            return cls.read(_PACKAGED / f"{text}.toml")
        return cls.read(Path(text))

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Read a spec from a file.

        Raises:
            SpecError: If the file cannot be read or asks for something that cannot be.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            message = f"{path}: the spec cannot be read: {exc}"
            names = ", ".join(packaged())
            raise SpecError(message, hint=f"give a path, or a packaged spec: {names}") from exc
        return cls.parse(text, path.resolve().parent, path.name)

    @classmethod
    def parse(cls, text: str, folder: Path, where: str = "cascade.toml") -> Spec:
        """Read a spec from text.

        Args:
            text: TOML.
            folder: What relative paths and modules beside the spec are looked up in.
            where: Name of the file in messages.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            message = f"{where}: not TOML: {exc}"
            raise SpecError(message, hint="compare with the packaged spec `imagenet`") from exc
        digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
        from .spec_reader import Reader  # it reads into the classes above

        reader = Reader(Table(values, where, SpecError), folder, where)
        return reader.spec(f"sha256:{digest.hexdigest()}")


def packaged() -> list[str]:
    """Name the specs that travel with the builder."""
    return sorted(path.stem for path in _PACKAGED.glob("*.toml"))
