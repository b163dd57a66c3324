"""Nothing pickled is read or written, anywhere: unpickling runs code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("router_backend", "builder", "client", "examples", "benchmarks", "model_repository")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def faults(source):
    """Name what of a source reads or writes pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [n.name for n in names if n.name.partition(".")[0] in PICKLERS]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLERS:
                found.append(module)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                given = {k.arg: k.value for k in node.keywords}
                allow = given.get("allow_pickle")
                if allow is not None and not is_constant(allow, False):
                    found.append(f"{owner}.{name}(allow_pickle=...)")
                if (owner, name) == ("torch", "save"):
                    found.append("torch.save")
                only = given.get("weights_only")
                if (owner, name) == ("torch", "load") and not is_constant(only, True):
                    found.append("torch.load without weights_only=True")
                if name in ("read_pickle", "to_pickle"):
                    found.append(f"{owner}.{name}")
    return found


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_pickles(path):
    """By any of the libraries that do, nor by NumPy's or torch's doors to them."""
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as c",
        "from joblib import load",
        "np.load('x', allow_pickle=True)",
        "numpy.save('x', y, allow_pickle=yes)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "torch.save(x, 'x')",
        "pd.read_pickle('x')",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    """A search that cannot find anything proves nothing."""
    assert len(faults(source)) == 1


def test_all_sources_are_searched():
    """None of the folders is empty or has moved."""
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(FOLDERS)
