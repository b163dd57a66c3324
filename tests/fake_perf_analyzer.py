"""A perf_analyzer that loads nothing: it takes the flags of the real one and writes its files.

The server it pretends to load gives a closed loop of n min(n * 50, 200) rows a second, and an open
one up to 500: it waits the longer the nearer its rate is to that. Past 1000 requests are refused,
below 5 two fall outside the measurement, and below 1 its windows stay empty.
Every call's flags are appended to ``calls.jsonl`` beside the script.
"""

import json
import os
import stat
import sys
from pathlib import Path

CAPACITY = 500.0
REFUSED_ABOVE = 1000.0

_COLUMNS = (
    "Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,"
    "p50 latency,p90 latency,p95 latency,p99 latency"
)


def install(folder: Path) -> Path:
    """Write it as an executable ``perf_analyzer``; returns where."""
    path = folder / "perf_analyzer"
    path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(folder: Path) -> list[dict[str, list[str]]]:
    """Read the flags of every measurement so far, each with its values."""
    log = folder / "calls.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _flags(words):
    flags = {}
    for word in words:
        if word.startswith("-"):
            key = word
            flags.setdefault(key, [])
        else:
            flags[key].append(word)
    return flags


def _measure(flags):
    if "--concurrency-range" in flags:
        at_once = int(flags["--concurrency-range"][0])
        rows = min(at_once * 50.0, 200.0)
        return f"Concurrency\n{at_once}", rows, 1000 * at_once / rows
    gaps = [int(line) for line in Path(flags["--request-intervals"][0]).read_text().split()]
    rate = 1e6 * len(gaps) / sum(gaps)
    if rate > REFUSED_ABOVE:
        sys.exit("Thread [0] had error: queue full, 256 rows may wait")
    if rate < 1:
        say("WARNING: Pass contained only one request, so sample latency will be infinity.")
        sys.exit("No valid requests recorded within time interval.")
    ms = 5 / (1 - rate / CAPACITY) if rate < CAPACITY else 400.0
    answered = min(rate, CAPACITY) * (1 - 2 / len(gaps) if rate < 5 else 1)
    return f"Request Rate\n{int(rate)}", answered, ms


def say(line):
    sys.stdout.write(line + "\n")


def main(words):
    if words == ["--version"]:
        say("Perf Analyzer Version 2.51.0 (commit unknown)")
        return
    flags = _flags(words)
    with open(Path(sys.argv[0]).parent / "calls.jsonl", "a") as log:
        log.write(json.dumps(flags) + "\n")
    rows = json.loads(Path(flags["--input-data"][0]).read_text())["data"]
    assert rows, "no input data"
    level, rows_per_s, p50 = _measure(flags)
    seconds = 3.6 * int(flags["--measurement-interval"][0]) / 1000
    for i, (rows, ms) in enumerate([(rows_per_s, 4), (rows_per_s / 2, 4), (rows_per_s, 5)], 1):
        say(f"  Pass [{i}] throughput: {rows} infer/sec. Avg latency: {ms}000 usec (std 9 usec). ")
    say(f"    Request count: {round(rows_per_s * seconds)}")
    name, value = level.split("\n")
    times = ",".join(str(round(1000 * p50 * factor)) for factor in (1, 1.5, 2, 3))
    Path(flags["-f"][0]).write_text(
        f"{name},{_COLUMNS}\n{value},{rows_per_s},8,90,3,68,12057,448,3,{times}\n"
    )


if __name__ == "__main__" and os.path.basename(sys.argv[0]) == "perf_analyzer":
    main(sys.argv[1:])
