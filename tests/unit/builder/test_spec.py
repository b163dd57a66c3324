from pathlib import Path

import pytest

from cascade_builder.spec import Spec, packaged
from cascade_router.errors import SpecError


def read(text: str, folder: Path) -> Spec:
    return Spec.parse(text, folder)


def test_a_spec_says_what_its_author_wrote(spec_text: str, tmp_path: Path) -> None:
    """Every table arrives; what is left out has its documented value."""
    spec = read(spec_text, tmp_path)
    assert [expert.name for expert in spec.experts] == ["small", "large"]
    assert [expert.threads for expert in spec.experts] == [1, 2]
    assert [point.thresholds for point in spec.points] == [(0.4,), (0.9,)]
    assert spec.default == "exact"
    assert (spec.input.name, spec.input.dtype, spec.input.shape) == ("FRAME", "FP32", (8,))
    assert (spec.target, spec.label_tolerance, spec.labels) == ("auto", 0, None)


def test_the_router_s_table_says_what_becomes_of_failures(spec_text: str, tmp_path: Path) -> None:
    """What is left out has its documented value."""
    usual = read(spec_text, tmp_path).router
    assert (usual.on_tier_failure, usual.tier_timeout_ms) == ("escalate", 10_000)
    table = '[router]\non_tier_failure = "best_so_far"\ntier_timeout_ms = 250\n'
    router = read(spec_text + table + "max_waiting_requests = 9\n", tmp_path).router
    assert (router.on_tier_failure, router.tier_timeout_ms) == ("best_so_far", 250)
    assert router.max_waiting_requests == 9
    with pytest.raises(SpecError, match=r"router\.on_tier_failure: got 'best'") as caught:
        read(spec_text + '[router]\non_tier_failure = "best"\n', tmp_path)
    assert "expected one of" in str(caught.value) or "did you mean" in str(caught.value)


def test_pictures_share_square_pixels(spec_text: str, tmp_path: Path) -> None:
    """An image cascade needs only the side of its canonical square."""
    start, end = spec_text.index("[input]"), spec_text.index("[rows]")
    text = spec_text[:start] + '[input]\nkind = "image"\nsize = 64\n\n' + spec_text[end:]
    form = read(text, tmp_path).input
    assert (form.name, form.dtype, form.shape, form.size) == ("PIXELS", "UINT8", (64, 64, 3), 64)


def test_the_middle_point_is_the_default_when_none_says_so(spec_text: str, tmp_path: Path) -> None:
    """A ladder always has a default."""
    assert read(spec_text.replace("default = true", ""), tmp_path).default == "exact"


def test_comments_and_spaces_do_not_change_what_a_spec_is(spec_text: str, tmp_path: Path) -> None:
    """The digest covers what the file says, not how it looks."""
    same = read("# a comment\n" + spec_text.replace(" = ", "="), tmp_path)
    other = read(spec_text.replace("0.4", "0.5"), tmp_path)
    digest = read(spec_text, tmp_path).digest
    assert same.digest == digest
    assert other.digest != digest


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("classes = 3", "clases = 3", "the key 'classes' is missing"),
        ("classes = 3", "classes = 3\ncolour = 1", "cascade.colour is not a key"),
        ("classes = 3", 'classes = "3"', "got '3', expected a whole number"),
        ("classes = 3", "classes = 1", "cascade.classes: got 1"),
        ('"softmax"', '"softmaxx"', "cascade.activation: got 'softmaxx'"),
        ('name = "toy"', 'name = "to/y"', "cascade.name: got 'to/y'"),
        ('name = "small"', 'name = "../up"', "expert[0].name: got '../up'"),
        ('name = "small"', 'name = "large"', "two experts are named 'large'"),
        ('name = "small"', 'name = "router"', "'router' is the name of another model"),
        ('name = "fast"', 'name = "exact"', "two points are named 'exact'"),
        ("toy_experts:net", "toy_experts.net", "got 'toy_experts.net', expected 'module:function'"),
        ("toy_experts:rows", "rm -rf:x", "rows.factory: got 'rm -rf:x'"),
        ('factory = "toy_experts:rows"', "", "expected 'factory' or 'folder'"),
        ('factory = "toy_experts:rows"', 'folder = "none"', "rows.folder: there is no folder"),
        ("thresholds = [0.9]", "thresholds = [0.9, 0.8]", "thresholds: got 2, expected 1"),
        ("thresholds = [0.9]", "", "expected 'threshold' or 'thresholds'"),
        ("threshold = 0.4", "threshold = nan", "point[0].threshold: got nan"),
        ("threshold = 0.4", "threshold = 0.4\ndefault = true", "points fast, exact all say"),
        ('kind = "tensor"', 'kind = "sound"', "input.kind: got 'sound'"),
        ('dtype = "FP32"', 'dtype = "FP8"', "input.dtype: got 'FP8'"),
        ("shape = [8]", "shape = []", "input.shape: got []"),
        ("shape = [8]", "shape = [-1]", "input.shape: got [-1]"),
        ("width = 4", "width = 1979-05-27", "arguments.width: got datetime.date"),
        ("max_batch = 8", "max_batch = 8\nlabels = 'no.txt'", "labels: there is no file"),
        ("[cascade]", "[cascade", "not TOML"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    old: str, new: str, says: str, spec_text: str, tmp_path: Path
) -> None:
    """The message names the place, the value and what was expected."""
    assert old in spec_text
    with pytest.raises(SpecError) as caught:
        read(spec_text.replace(old, new, 1), tmp_path)
    assert says in caught.value.message


def test_one_expert_is_no_cascade(spec_text: str, tmp_path: Path) -> None:
    """At least two experts are expected."""
    start, end = spec_text.rindex("[[expert]]"), spec_text.index("[[point]]")
    with pytest.raises(SpecError, match="got 1 experts, expected at least 2"):
        read(spec_text[:start] + spec_text[end:], tmp_path)


def test_a_missing_spec_says_which_ones_there_are(tmp_path: Path) -> None:
    """The way out names the packaged specs."""
    with pytest.raises(SpecError) as caught:
        Spec.find(str(tmp_path / "none.toml"))
    assert caught.value.hint == "give a path, or a packaged spec: imagenet, pitch"


@pytest.mark.parametrize("name", packaged())
def test_packaged_specs_are_right(name: str) -> None:
    """Each has three tiers and three points."""
    spec = Spec.find(name)
    assert (spec.name, len(spec.experts), len(spec.points)) == (name, 3, 3)


@pytest.mark.parametrize(
    ("source", "kind", "gives", "said"),
    [
        ('factory = "m:f"', "factory", "module", {"factory": "m:f", "arguments": {}}),
        ('onnx = "file"\noutput = "y"', "onnx", "onnx", {"onnx": "file", "output": "y"}),
        (
            'timm = "net"\nsize = 64\nweights = "file"',
            "timm",
            "module",
            {"timm": "net", "arguments": {}, "weights": "file", "size": 64},
        ),
        ('huggingface = "a/b"', "huggingface", "module", {"huggingface": "a/b"}),
        ('engine = "file"', "engine", "engine", {"engine": "file"}),
        ('served = "net"\nserver = "far:1"', "served", "served", {"served": "net"}),
    ],
)
def test_each_source_is_read(
    source: str, kind: str, gives: str, said: dict[str, object], spec_text: str, tmp_path: Path
) -> None:
    """With what identifies it: names of files without their folder, no server."""
    (tmp_path / "file").touch()
    old = 'factory = "toy_experts:net"\narguments = { width = 4 }'
    assert old in spec_text
    found = read(spec_text.replace(old, source), tmp_path).experts[0].source
    assert (found.kind, found.gives, found.said()) == (kind, gives, said)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "got none, expected exactly one of factory, onnx, timm"),
        ('factory = "m:f"\nonnx = "file"', "got 'factory' and 'onnx', expected exactly one"),
        ('onnx = "none"', "expert[0].onnx: there is no file or folder"),
        ('onnx = "."', "is a folder, expected a file"),
        ('engine = "."', "is a folder, expected a file"),
        ('onnx = "file"\nweights = "file"', "expert[0].weights is not a key"),
        ('onnx = "file"\narguments = { a = 1 }', "expert[0].arguments is not a key"),
        ('onnx = "file"\nsha256 = "12"', "expected 64 hexadecimal digits"),
        ('onnx = "file"\npixels = { size = 4 }', "pixels.size: got 4"),
        ('onnx = "file"\npixels = { size = 8, mean = [1] }', "expected three means"),
        ('onnx = "file"\npixels = { size = 8, deviation = [1, 0, 1] }', "above 0"),
        ('onnx = "file"\npixels = { size = 8, mode = "cubic" }', "pixels.mode: got 'cubic'"),
        ('timm = "n"\narguments = { pretrained = true }', "arguments.pretrained: is not for"),
        ('huggingface = "n"\nweights = "."', "holds no config.json"),
        ('served = "n"\nsha256 = "12"', "expert[0].sha256 is not a key"),
        ('factory = "m:f"\nprecision = "fp3"', "expert[0].precision: got 'fp3'"),
    ],
)
def test_a_source_that_cannot_be_is_refused(
    source: str, says: str, spec_text: str, tmp_path: Path
) -> None:
    """With the table and the key."""
    (tmp_path / "file").touch()
    old = 'factory = "toy_experts:net"\narguments = { width = 4 }'
    with pytest.raises(SpecError) as caught:
        read(spec_text.replace(old, source), tmp_path)
    assert says in caught.value.message
