"""Write the README's table of measurements from the newest results, between its two marks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .provenance import RESULTS

__all__ = ["README", "newest", "table", "with_table"]

README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def newest(name: str) -> tuple[Path, dict[str, Any]]:
    """Read the newest result file of a benchmark."""
    path = sorted(RESULTS.glob(f"*-{name}*.json"), key=_age)[-1]
    return path, json.loads(path.read_text())


def _age(path: Path) -> str:
    return str(json.loads(path.read_text())["provenance"]["date"])


def table(name: str) -> str:
    """Draw a cascade's candidates as Markdown."""
    path, result = newest(name)
    bench, where = result["bench"], result["provenance"]
    tiers = bench["tiers"]
    largest = next(c for c in bench["candidates"] if c["name"].startswith("largest"))
    lines = [
        f"**`{name}`**: {result['rows']}, {bench['load']['concurrency']} requests at once, "
        f"{where['cores']} cores ({where['cpu']}), medians of "
        f"{len(largest['rounds'])} interleaved rounds, {where['date'][:10]} "
        f"([`{path.name}`](benchmarks/results/{path.name}))",
        "",
        "| candidate | rows/s | to the largest alone | p50 ms | p99 ms | "
        + " | ".join(f"answered by {tier}" for tier in tiers)
        + " | agreement with the largest |",
        "|---|" + "---|" * (5 + len(tiers)),
    ]
    for one in bench["candidates"]:
        shares = [one["tier_share"].get(str(k), 0.0) for k in range(len(tiers))]
        cells = [
            one["name"],
            f"{one['rows_per_s']:.0f}",
            f"{one['rows_per_s'] / largest['rows_per_s']:.2f} x",
            f"{one['p50_ms']:.0f}",
            f"{one['p99_ms']:.0f}",
            *(f"{100 * share:.0f} %" for share in shares),
            f"{one['agreement']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """Put the newest tables between the marks of the README."""
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    tables = "\n\n".join(table(name) for name in ("imagenet", "pitch"))
    return f"{before}{_BEGIN}\n{tables}\n{_END}{after}"


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(with_table(text))
    sys.exit(0)
