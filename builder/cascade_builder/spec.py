"""``cascade.toml``: what the user asks for. It is read whole or refused with a way out."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cascade_router.errors import SpecError
from cascade_router.policy import NAME
from cascade_router.scores import ACTIVATIONS
from cascade_router.strict import Table

from .factories import Factory, check_arguments

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

TARGETS = ["auto", "embedded", "onnxruntime"]
"""What runs the experts; ``auto`` chooses."""

KINDS = ["image", "tensor"]
"""What a client sends: an encoded picture, or the canonical tensor itself."""

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
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Side in pixels of a canonical picture."""
        return self.shape[0]


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
        factory: Returns a ``torch.nn.Module``: canonical rows to logits.
        arguments: What the factory is called with.
        instances: How many copies serve at once.
        threads: Threads within one copy.
        queue_delay_us: How long its batcher waits for more rows.
    """

    name: str
    factory: Factory
    arguments: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 1
    threads: int = 1
    queue_delay_us: int = 0


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
        calls_per_tier: Calls of one tier that one instance may have under way.
        abstain_below: A row that the last expert answers with a lower score gets label -1; None:
            every row gets a label.
    """

    instances: int = 2
    runs_first_expert: bool = True
    max_waiting_rows: int = 256
    calls_per_tier: int = 2
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
        reader = _Reader(Table(values, where, SpecError), folder, where)
        return reader.spec(f"sha256:{digest.hexdigest()}")


def packaged() -> list[str]:
    """Name the specs that travel with the builder."""
    return sorted(path.stem for path in _PACKAGED.glob("*.toml"))


class _Reader:
    """Reads one spec; keeps what every message and relative path needs."""

    def __init__(self, root: Table, folder: Path, where: str) -> None:
        self._root = root
        self._folder = folder
        self._where = where

    def spec(self, digest: str) -> Spec:
        root = self._root
        table = root.table("cascade")
        name = self._name(table)
        activation = table.choice("activation", ACTIVATIONS, "softmax")
        classes = table.whole("classes", low=2)
        label_tolerance = table.whole("label_tolerance", 0)
        max_batch = table.whole("max_batch", 32, low=1, high=1024)
        labels = self._labels(table) if table.has("labels") else None
        target = table.choice("target", TARGETS, "auto")
        table.done()
        form = self._input(root.table("input"))
        rows = self._rows(root.table("rows"))
        experts = self._experts()
        points, default = self._points(len(experts))
        router = self._router(root.table("router", {}))
        root.done()
        return Spec(
            name=name,
            activation=activation,
            classes=classes,
            label_tolerance=label_tolerance,
            max_batch=max_batch,
            labels=labels,
            target=target,
            input=form,
            rows=rows,
            experts=experts,
            points=points,
            default=default,
            digest=digest,
            router=router,
        )

    def _input(self, table: Table) -> Input:
        kind = table.choice("kind", KINDS)
        if kind == "image":
            side = table.whole("size", low=8, high=4096)
            out = Input(kind=kind, name="PIXELS", dtype="UINT8", shape=(side, side, 3))
        else:
            name = self._name(table)
            dtype = table.choice("dtype", list(DTYPES))
            sides = table.items("shape")
            if not sides or not all(type(n) is int and n > 0 for n in sides):
                self._refuse(f"{table.where}.shape: got {sides}, expected whole numbers above 0")
            out = Input(kind=kind, name=name, dtype=dtype, shape=tuple(sides))
        table.done()
        return out

    def _rows(self, table: Table) -> Rows:
        if table.has("factory") == table.has("folder"):
            message = f"{table.where}: expected 'factory' or 'folder', one of them"
            self._refuse(message, "rows are what parity and cost are measured on")
        factory = self._factory(table) if table.has("factory") else None
        folder = self._folder / table.text("folder") if table.has("folder") else None
        if folder is not None and not folder.is_dir():
            self._refuse(f"{table.where}.folder: there is no folder {str(folder)!r}")
        table.done()
        return Rows(factory=factory, folder=folder)

    def _experts(self) -> tuple[Expert, ...]:
        experts = []
        for table in self._root.tables("expert"):
            arguments = table.table("arguments", {})
            expert = Expert(
                name=self._name(table),
                factory=self._factory(table),
                arguments=arguments.rest(),
                instances=table.whole("instances", 1, low=1, high=64),
                threads=table.whole("threads", 1, low=1, high=256),
                queue_delay_us=table.whole("queue_delay_us", 0, high=10_000_000),
            )
            table.done()
            check_arguments(expert.arguments, arguments.where)
            if expert.name in ("router", "preprocess", "control"):
                self._refuse(f"{table.where}.name: {expert.name!r} is the name of another model")
            experts.append(expert)
        if len(experts) < 2:
            message = f"{self._where}: got {len(experts)} experts, expected at least 2"
            self._refuse(message, "a cascade needs a cheap expert and a costlier one")
        self._unique([expert.name for expert in experts], "expert")
        return tuple(experts)

    def _router(self, table: Table) -> Router:
        usual = Router()
        out = Router(
            instances=table.whole("instances", usual.instances, low=1, high=64),
            runs_first_expert=table.flag("runs_first_expert", usual.runs_first_expert),
            max_waiting_rows=table.whole(
                "max_waiting_rows", usual.max_waiting_rows, low=1, high=1_000_000
            ),
            calls_per_tier=table.whole("calls_per_tier", usual.calls_per_tier, low=1, high=64),
            abstain_below=table.number("abstain_below") if table.has("abstain_below") else None,
        )
        table.done()
        return out

    def _points(self, n_tiers: int) -> tuple[tuple[Point, ...], str]:
        points, defaults = [], []
        for table in self._root.tables("point"):
            point = Point(name=self._name(table), thresholds=self._thresholds(table, n_tiers - 1))
            if table.flag("default", False):
                defaults.append(point.name)
            table.done()
            points.append(point)
        if not points:
            self._refuse(f"{self._where}: got no point, expected at least 1 [[point]]")
        self._unique([point.name for point in points], "point")
        if len(defaults) > 1:
            names = ", ".join(defaults)
            self._refuse(f"{self._where}: points {names} all say 'default', expected one")
        return tuple(points), defaults[0] if defaults else points[len(points) // 2].name

    def _thresholds(self, table: Table, n: int) -> tuple[float, ...]:
        if table.has("threshold") == table.has("thresholds"):
            self._refuse(f"{table.where}: expected 'threshold' or 'thresholds', one of them")
        if table.has("threshold"):
            return (table.number("threshold"),) * n
        values = table.numbers("thresholds")
        if len(values) != n:
            message = f"{table.where}.thresholds: got {len(values)}, expected {n}"
            self._refuse(message, "one per expert but the last, which lets every row exit")
        return tuple(values)

    def _labels(self, table: Table) -> Factory | Path:
        text = table.text("labels")
        if ":" in text:
            return Factory.parse(text, self._folder, f"{table.where}.labels")
        path = self._folder / text
        if not path.is_file():
            message = f"{table.where}.labels: there is no file {str(path)!r}"
            self._refuse(message, "give a text file with one name a line, or 'module:function'")
        return path

    def _factory(self, table: Table) -> Factory:
        return Factory.parse(table.text("factory"), self._folder, f"{table.where}.factory")

    def _name(self, table: Table) -> str:
        name = table.text("name")
        if NAME.fullmatch(name) is None:
            message = f"{table.where}.name: got {name!r}, expected {NAME.pattern}"
            self._refuse(message, "names become folders and metric labels")
        return name

    def _unique(self, names: list[str], kind: str) -> None:
        for name in names:
            if names.count(name) > 1:
                self._refuse(f"{self._where}: two {kind}s are named {name!r}")

    def _refuse(self, message: str, hint: str | None = None) -> NoReturn:
        raise SpecError(message, hint=hint)
