"""Reads ``cascade.toml`` table by table and refuses what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from cascade_router.errors import SpecError
from cascade_router.policy import NAME
from cascade_router.scores import ACTIVATIONS
from cascade_router.strict import Table
from cascade_router.walk import ON_TIER_FAILURE

from . import sources
from .factories import Factory
from .spec import DTYPES, KINDS, TARGETS, Expert, Input, Point, Router, Rows, Spec
from .targets.options import PRECISIONS, Engine, Program, Serving
from .text_input import Text

__all__ = ["Reader"]


class Reader:
    """Reads one spec; keeps what every message and relative path needs.

    Args:
        root: What the file says.
        folder: What relative paths and modules beside the spec are looked up in.
        where: Name of the file in messages.
    """

    def __init__(self, root: Table, folder: Path, where: str) -> None:
        self._root = root
        self._folder = folder
        self._where = where

    def spec(self, digest: str) -> Spec:
        """Take everything.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
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
        experts = self._experts(max_batch)
        points, default = self._points(len(experts))
        router = self._router(root.table("router", {}))
        engine = Engine.read(root.table("tensorrt", {}), max_batch)
        program = Program.read(root.table("torch", {}))
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
            engine=engine,
            program=program,
        )

    def _input(self, table: Table) -> Input:
        kind = table.choice("kind", KINDS)
        if kind == "image":
            side = table.whole("size", low=8, high=4096)
            out = Input(kind=kind, name="PIXELS", dtype="UINT8", shape=(side, side, 3))
        elif kind == "text":
            text = Text.read(table, self._folder)
            out = Input(kind=kind, name="TOKENS", dtype="INT64", shape=(text.length,), text=text)
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

    def _experts(self, max_batch: int) -> tuple[Expert, ...]:
        experts = []
        for table in self._root.tables("expert"):
            expert = Expert(
                name=self._name(table),
                source=sources.read(table, self._folder),
                precision=table.choice("precision", PRECISIONS, "fp32"),
                instances=table.whole("instances", 1, low=1, high=64),
                threads=table.whole("threads", 1, low=1, high=256),
                queue_delay_us=table.whole("queue_delay_us", 0, high=10_000_000),
                serving=Serving.read(table, max_batch),
            )
            table.done()
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
            max_waiting_requests=table.whole(
                "max_waiting_requests", usual.max_waiting_requests, low=1, high=1_000_000
            ),
            calls_per_tier=table.whole("calls_per_tier", usual.calls_per_tier, low=1, high=64),
            on_tier_failure=table.choice("on_tier_failure", ON_TIER_FAILURE, usual.on_tier_failure),
            tier_timeout_ms=table.whole(
                "tier_timeout_ms", usual.tier_timeout_ms, low=1, high=3_600_000
            ),
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
