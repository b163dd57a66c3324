"""What int8 brings on a processor, and what it costs: `python -m benchmarks.int8`.

Each demo expert beside itself in int8, made by the builder for target `embedded`: ranges from some
labelled rows, top-1 on the others. Speed is of one ONNX Runtime session as it is served (threads of
the spec); both take turns, and the ratio is taken turn by turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cascade_builder import targets
from cascade_builder.build import build
from cascade_builder.class_numbers import ClassNumbers
from cascade_builder.data import DataSet, open_data
from cascade_builder.rows import row
from cascade_builder.runtime import OnnxExpert
from cascade_builder.spec import Expert, Spec

from . import prepare_pitch
from .provenance import save
from .turns import spread

_DATA = Path(__file__).parents[2] / "shared" / "data"
_SCRATCH = Path("build")
_BATCHES = (1, 8, 32)
_AT_ONCE = 20
_SEED = 0

Rows = Callable[[np.ndarray], np.ndarray]
"""Numbers of rows to the rows, canonical."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cascade", choices=["imagenet", "pitch"], default="imagenet")
    parser.add_argument("--data", type=Path, default=_DATA)
    parser.add_argument("--ranges", type=int, default=64, help="rows that ranges are taken from")
    parser.add_argument("--check", type=int, help="rows for top-1; default: all others")
    parser.add_argument("--repeats", type=int, default=9, help="turns; medians are reported")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    source = _source(asked.cascade, asked.data)
    if source is None:
        parser.error(f"--data: {asked.data} has no rows for it; the labelled data is not published")
    values = measure(asked.cascade, source, asked.ranges, asked.check, asked.repeats)
    if asked.save:
        name = "int8" if asked.cascade == "imagenet" else f"int8-{asked.cascade}"
        save(name, values)
    if asked.json:
        print(json.dumps(values))
        return
    print(
        "expert       batch  fp32 ms  int8 ms  ratio (low to high)    top-1 fp32  int8  difference"
    )
    for one in values["experts"]:
        for speed in one["speed"]:
            ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**speed["ratio"])
            print(
                f"{one['expert']:12} {speed['batch']:5} {speed['fp32_ms']:8.2f} "
                f"{speed['int8_ms']:8.2f}  {ratio:22} {one['top1']['fp32']:10.4f} "
                f"{one['top1']['int8']:.4f} {100 * one['top1']['difference']:+.2f} "
                f"± {100 * one['top1']['error']:.2f} points"
            )


def measure(
    cascade: str, source: Path, n_ranges: int, n_check: int | None, repeats: int
) -> dict[str, Any]:
    """Compare every expert of a demo cascade with itself in int8.

    Args:
        cascade: A packaged spec.
        source: Labelled rows.
        n_ranges: Rows for the ranges; none of them is checked.
        n_check: Rows for top-1; None: all the others.
        repeats: Turns.
    """
    spec = Spec.find(cascade)
    repository = _SCRATCH / f"model_repository-int8-{cascade}"
    build(spec, repository, target="embedded")
    data = open_data(source, spec.input, ClassNumbers(spec.classes, lambda: None))
    order = np.random.default_rng(_SEED).permutation(len(data))
    ranges, check = order[:n_ranges], np.sort(order[n_ranges:][:n_check])
    rows = _reader(data, spec)
    sample = rows(ranges)
    experts = []
    with tempfile.TemporaryDirectory(prefix="cascade-int8-") as scratch:
        for expert in spec.experts:
            plain = repository / spec.model(expert.name) / "1" / "model.onnx"
            folder = Path(scratch) / expert.name
            folder.mkdir()
            wanted = dataclasses.replace(expert, precision="int8")
            start = time.perf_counter()
            made = targets.convert(plain, wanted, spec, "embedded", sample, folder)
            took = time.perf_counter() - start
            files = {"fp32": plain, "int8": folder / made.files[0]}
            experts.append(
                {
                    "expert": expert.name,
                    "threads": expert.threads,
                    "bytes": {name: path.stat().st_size for name, path in files.items()},
                    "seconds_to_make": round(took, 1),
                    "verified": made.figures,
                    "speed": [_speed(files, expert, rows(check[:n]), repeats) for n in _BATCHES],
                    "top1": _top1(files, spec, data, check, rows),
                }
            )
    return {
        "cascade": cascade,
        "rows_for_ranges": len(ranges),
        "rows_checked": len(check),
        "seed": _SEED,
        "repeats": repeats,
        "experts": experts,
    }


def _source(cascade: str, data: Path) -> Path | None:
    """Find labelled rows; None: they are not here."""
    if cascade == "imagenet":
        found = data / "imagenet_val1300" / "labels.csv"
        return found if found.exists() else None
    found = data / "pitch" / "timgm_frames3000.npz"
    frames = _SCRATCH / "pitch" / "frames.npz"
    if found.exists():
        prepare_pitch.prepare(found, frames)
        return frames
    return None


def _reader(data: DataSet, spec: Spec) -> Rows:
    def rows(numbers: np.ndarray) -> np.ndarray:
        return np.stack([row(data.row(int(n)), spec.input, data.name(int(n))) for n in numbers])

    return rows


def _speed(
    files: dict[str, Path], expert: Expert, batch: np.ndarray, repeats: int
) -> dict[str, Any]:
    """Time both in turns, in milliseconds a row."""
    runs = {name: OnnxExpert(path, expert.threads) for name, path in files.items()}
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name in sorted(runs, reverse=turn % 2 == 1):
            start = time.perf_counter()
            runs[name](batch)
            took[name].append(1000 * (time.perf_counter() - start) / len(batch))
    plain, small = (took[name][1:] for name in ("fp32", "int8"))  # the first turn warms up
    return {
        "batch": len(batch),
        "fp32_ms": round(statistics.median(plain), 3),
        "int8_ms": round(statistics.median(small), 3),
        "ratio": spread([a / b for a, b in zip(plain, small, strict=True)]),
    }


def _top1(
    files: dict[str, Path], spec: Spec, data: DataSet, check: np.ndarray, rows: Rows
) -> dict[str, float]:
    """Share of rows each answers rightly, and the standard error of the difference."""
    assert data.labels is not None
    runs = {name: OnnxExpert(path, 0) for name, path in files.items()}
    right: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for part in _parts(check):
        batch, labels = rows(part), data.labels[part]
        for name, run in runs.items():
            apart = np.abs(run(batch).argmax(axis=1) - labels)
            right[name].append(apart <= spec.label_tolerance)
    plain, small = (np.concatenate(right[name]).astype(float) for name in ("fp32", "int8"))
    difference = small - plain
    return {
        "fp32": round(float(plain.mean()), 4),
        "int8": round(float(small.mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "error": round(float(difference.std(ddof=1) / np.sqrt(len(difference))), 4),
    }


def _parts(numbers: np.ndarray) -> Iterator[np.ndarray]:
    for i in range(0, len(numbers), _AT_ONCE):
        yield numbers[i : i + _AT_ONCE]


if __name__ == "__main__":
    main()
