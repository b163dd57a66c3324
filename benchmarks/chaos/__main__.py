"""``python -m benchmarks.chaos``: do the faults, print what came of them, save it."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import save

from .fault import Fault, Report
from .faults import faults

__all__ = ["main", "survive"]

_NAMES = [fault.name for fault in faults(short=False)]


def survive(fault: Fault, site: Any) -> Report:
    """Do one fault on its ground, with progress on stdout."""
    start = time.monotonic()

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {fault.name}: {text}", flush=True)

    tell(fault.what)
    report = fault.run(site, tell)
    for line in report.broken:
        tell(f"BROKEN: {line}")
    said = report.skipped or ("survived" if report.survived else "NOT survived")
    tell(f"{said}; {report.counts}; {report.note}")
    return report


def _alone(fault: Fault) -> Report:
    """Do a fault on a ground of its own, which is kept where something broke."""
    scratch = Path(tempfile.mkdtemp(prefix=f"chaos-{fault.name}-"))
    with fault.ground(scratch) as site:
        report = survive(fault, site)
    if report.survived:
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        print(f"repository and log stay in {scratch}", flush=True)
    return report


@click.command()
@click.option("--only", type=click.Choice(_NAMES), multiple=True, help="One fault; repeatable.")
@click.option("--short", is_flag=True, help="As the tests do it: fewer times.")
@click.option("--save/--no-save", "keep", default=None, help="Default: all but the short ones.")
def main(only: tuple[str, ...], short: bool, keep: bool | None) -> None:
    """Do faults to the real server under load; what came of them goes to benchmarks/results/."""
    # So that the servers end with a run that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = [fault for fault in faults(short=short) if not only or fault.name in only]
    rows: list[dict[str, Any]] = []
    try:
        for fault in wanted:
            start = time.monotonic()
            report = _alone(fault)
            seconds = round(time.monotonic() - start, 1)
            head = {"name": fault.name, "what": fault.what, "required": fault.required}
            rows.append({**head, **report.as_json(), "seconds": seconds})
    finally:  # what was done before an interruption is kept
        if rows and (keep or (keep is None and not short)):
            print(save("chaos", {"faults": rows}))
    if not all(row["survived"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
