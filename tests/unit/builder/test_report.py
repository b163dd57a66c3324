"""The report: what stands on the page, and that it stands alone."""

import csv
import dataclasses
import functools
import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
from synthetic import records

from cascade_builder.calibrate import calibrate
from cascade_builder.plots import FIGURES
from cascade_builder.report import PAGE, report_files, write_report
from cascade_builder.verdict import Verdict
from cascade_builder.wish import Goal, Wish
from cascade_builder.words import (
    change,
    headline,
    missing,
    ms,
    percent,
    promise,
    promise_in_words,
    shown,
)
from cascade_router.errors import BuildError

PROVENANCE = {"made_by": "a test", "records": {"digest": "sha256:feed"}}
HOSTILE = "<script>alert('&\"')</script>$x^2$"


@functools.cache
def verdict_of(labels=True) -> Verdict:
    goals = {"careful": Goal(drop=0.03), "fast": Goal(drop=0.06), "tight": Goal(drop=0.004)}
    wish = Wish(goals=goals, default="careful", batch=1.0)
    return calibrate(records(n=1800, labels=labels), wish).verdict


@pytest.fixture(scope="module", params=[True, False], ids=["labels", "no labels"])
def verdict(request):
    return verdict_of(request.param)


@pytest.fixture(scope="module")
def files(verdict):
    return report_files(verdict, PROVENANCE)


class Page(HTMLParser):
    """Text that a person sees, and all that a page refers to."""

    def __init__(self, data):
        super().__init__()
        self.text, self.links, self.tags, self._hidden = [], [], set(), 0
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._hidden += tag == "style"
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag):
        self._hidden -= tag == "style"

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text).replace("\N{NO-BREAK SPACE}", " "))


def test_the_page_stands_alone(files):
    """No script, no style sheet, no picture from elsewhere; nothing to fetch at all."""
    page = Page(files[PAGE])
    assert page.links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert b"http:" not in files[PAGE].replace(b"data:", b"")
    assert b"https:" not in files[PAGE]
    assert b"url(" not in files[PAGE]


def test_all_forms_are_written(files):
    """One page, a picture per figure, four tables and the verdict."""
    expected = {PAGE, "verdict.json", *(f"{name}.png" for name in FIGURES)}
    expected |= {f"{name}.csv" for name in ("ladder", "singles", "frontier", "classes")}
    assert set(files) == expected
    for name in FIGURES:
        assert files[f"{name}.png"].startswith(b"\x89PNG")


def test_the_first_thing_to_read_is_what_is_gained(verdict, files):
    """The headline, then saving, quality and promise in large figures."""
    words = Page(files[PAGE]).words
    point = shown(verdict)
    start = words.index(headline(verdict)[:30])
    assert words[start:].startswith(headline(verdict))
    tiles = words[start : words.index("The ladder")]
    for figure in (percent(point.saving, 0), f"{change(-point.drop)} pp", promise(point)):
        assert figure in tiles


def numbers_in(values):
    """Every number of nested plain data."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        return [number for value in values for number in numbers_in(value)]
    return [] if isinstance(values, bool | str) or values is None else [float(values)]


def forms_of(number):
    """All ways a number may be written: as a share, a difference, a cost, a count."""
    for value in (number, 1 - number):
        yield from (percent(value, 0), percent(value), change(value), change(-value), ms(value))
        yield from (f"{100 * abs(value):.{digits}f}" for digits in (0, 1, 2))
    yield from (f"{number:g}", f"{number:.4g}", f"{-number:+.0f}", f"{number:.0f}")


def test_every_number_on_the_page_is_from_the_verdict(verdict, files):
    """Whatever is shown can be found in the verdict; nothing is made up by the page."""
    values = json.loads(json.dumps(verdict.as_json()))
    known = {form for number in numbers_in(values) for form in forms_of(number)}
    curve, last = verdict.curve, verdict.singles[-1]
    known.add(percent(1 - curve.oracle_cost_ms / last.cost_ms, 0))
    for number, rows, before, after in verdict.classes:
        lost = rows * (before - after)
        known |= set(forms_of(before - after)) | set(forms_of(lost)) | {f"{int(number)}"}
    for refused in verdict.refused:
        known |= set(re.findall(r"[\d.]+", missing(verdict, refused)))
    known = {re.sub(r"[^\d.e]", "", form) for form in known}
    known |= {"0.5", "80", "0"}  # words of the page: half a point, an example
    words = Page(files[PAGE]).words.replace("sha256:feed", "")
    words = re.sub(r"tier\d|\d+ (more )? ?classes", "", words)
    found = set(re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", words))
    assert found - known == set()


def test_every_point_and_every_expert_alone_is_named(verdict, files):
    """With cost and quality; goals that were refused are there too, with what it would take."""
    words = Page(files[PAGE]).words
    for point in [*verdict.points, *verdict.singles]:
        assert point.name in words
        assert f"{ms(point.cost_ms)} {percent(point.saving, 0)} {percent(point.quality)}" in words
    assert "tight is not in the ladder" in words
    assert "sha256:feed" in words


def test_hostile_names_stay_text():
    """Names of experts, points, classes, provenance: shown, never run, nor set as formulas."""
    found = verdict_of()
    singles = [dataclasses.replace(one, name=HOSTILE) for one in found.singles]
    points = [dataclasses.replace(found.points[0], name=HOSTILE), *found.points[1:]]
    found = dataclasses.replace(
        found,
        cascade=HOSTILE,
        tiers=[HOSTILE, *found.tiers[1:]],
        singles=singles,
        points=points,
        default=HOSTILE,
        reading=HOSTILE,
        trials=[{**trial, "name": HOSTILE} for trial in found.trials],
        reliability=[dataclasses.replace(one, tier=HOSTILE) for one in found.reliability],
    )
    files = report_files(found, {HOSTILE: HOSTILE}, [HOSTILE] * 4)
    page = Page(files[PAGE])
    assert "script" not in page.tags
    assert HOSTILE in page.words
    assert html.escape(HOSTILE, quote=False).split("alert")[0].encode() in files[PAGE]


def test_do_not_cascade_cannot_be_missed():
    """It is the headline, with the numbers."""
    found = verdict_of()
    reason = "do not cascade. tier1 alone is better"
    found = dataclasses.replace(found, cascade_pays=False, reason=reason)
    data = report_files(found, {})[PAGE]
    assert b'<h1 class="bad">Do not cascade: tier1 alone is better.</h1>' in data


def test_equal_verdicts_give_equal_bytes(verdict, files):
    """No clock and no chance in any file."""
    assert report_files(verdict, PROVENANCE) == files


def test_tables_hold_what_the_verdict_holds(verdict, files):
    """Full precision, a column per tier, one line a point."""
    lines = list(csv.DictReader(io.StringIO(files["ladder.csv"].decode())))
    assert [line["name"] for line in lines] == [point.name for point in verdict.points]
    assert [float(line["cost_ms"]) for line in lines] == [p.cost_ms for p in verdict.points]
    assert float(lines[0]["exit_shares:tier2"]) == verdict.points[0].exit_shares[2]
    curve = list(csv.DictReader(io.StringIO(files["frontier.csv"].decode())))
    assert [float(line["quality"]) for line in curve[:-1]] == verdict.curve.quality
    assert json.loads(files["verdict.json"])["verdict"] == json.loads(json.dumps(verdict.as_json()))


def test_classes_that_lose_most_come_first(verdict, files):
    """In rows, so that a class of one row does not lead by chance alone; named where known."""
    lines = list(csv.DictReader(io.StringIO(files["classes.csv"].decode())))
    lost = [int(line["rows_lost"]) for line in lines]
    assert lost == sorted(lost, reverse=True)
    assert sum(int(line["rows"]) for line in lines) == verdict.rows["check"]
    named = report_files(verdict, {}, ["ant", "bee", "cat", "dog"])
    assert "bee" in Page(named[PAGE]).words
    assert "class 1" in Page(files[PAGE]).words


def test_other_files_of_the_folder_stay(tmp_path):
    """A report replaces its own files, whole, and nothing else."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / PAGE).write_text("old")
    page = write_report(tmp_path, {"a.csv": b"1", PAGE: b"new"})
    assert page.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "notes.txt", PAGE]


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    """It names the file."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BuildError, match=r"a\.csv: cannot be written"):
        write_report(tmp_path / "taken", {"a.csv": b"1"})


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(0.02, "≤ 2.0 pp"), (0.0201, "≤ 2.1 pp"), (0.0155, "≤ 1.6 pp"), (1.0, "nothing")],
)
def test_a_promise_is_rounded_to_the_safe_side(bound, expected):
    """What is shown never promises more than what was proved."""
    point = verdict_of().points[0]
    certificate = {**point.certificate, "bound": bound}
    point = dataclasses.replace(point, certificate=certificate)
    assert promise(point) == expected
    if bound < 1:
        words = promise_in_words(verdict_of(), point)
        assert f"at most {expected.split()[1]} percentage points below tier2's" in words
