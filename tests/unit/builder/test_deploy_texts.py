"""A deployment leaves what prepares the rows as it is, and refuses what needs another."""

import json
from pathlib import Path

import pytest
import toy_onnx
from fake_running import FakeServer
from onnx import TensorProto
from onnx_files import linear, save, two_layers
from tokeniser import tokenizer_json
from toy_site import Site

from cascade_builder.build import build
from cascade_builder.spec import Spec
from cascade_router.errors import BuildError

SPEC = toy_onnx.SPEC.replace(
    'kind = "tensor"\nname = "FRAME"\ndtype = "FP32"\nshape = [8]', 'kind = "text"\nlength = 8'
)


@pytest.fixture
def texts(tmp_path: Path) -> Site:
    """A cascade of texts, and the server that serves it."""
    small, large = linear(dtype=TensorProto.INT64), two_layers()
    large.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    save(small, tmp_path / "small.onnx")
    save(large, tmp_path / "large.onnx")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "all.txt").write_text("play\njazz\nsome jazz\nplay some\nplays a jazz\n")
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / "cascade.toml").write_text(SPEC)
    spec = Spec.read(tmp_path / "cascade.toml")
    build(spec, tmp_path / "repository", artifacts_folder=tmp_path / "build")
    return Site(tmp_path, FakeServer(tmp_path / "repository"))


def other_tokeniser(site: Site) -> None:
    """Exchange the tokeniser: texts become other ids, and no config says so."""
    values = json.loads(tokenizer_json())
    words = values["model"]["vocab"]
    words["play"], words["jazz"] = words["jazz"], words["play"]
    (site.folder / "tokenizer.json").write_text(json.dumps(values))


def test_experts_for_another_tokeniser_are_not_deployed(texts: Site) -> None:
    """It would go on as it is, beside them: it lies in the model before the router."""
    other_tokeniser(texts)
    before = toy_onnx.tree(texts.root)

    with pytest.raises(BuildError, match="is served with input"):
        texts.deploy()
    assert toy_onnx.tree(texts.root) == before
    texts.whole()


def test_a_rollback_to_experts_for_another_tokeniser_is_refused(texts: Site) -> None:
    """A build put another one in the place of theirs."""
    texts.edit("[[point]]", "[router]\nabstain_below = 0.4\n\n[[point]]")
    assert texts.deploy().action == "deployed"
    other_tokeniser(texts)
    texts.build()
    texts.server.start()

    with pytest.raises(BuildError, match="what prepares the rows of 'toy' was built over"):
        texts.rollback()
    texts.whole()


def test_what_a_deployment_leaves_as_it_is_is_told(texts: Site) -> None:
    """The queue before the model that prepares rows, which has no versions."""
    texts.edit("[[point]]", "[router]\nmax_waiting_requests = 32\n\n[[point]]")
    told: list[str] = []
    assert texts.deploy(tell=told.append).action == "deployed"
    assert [line for line in told if "toy_preprocess" in line and "stays as it is" in line]
    assert not [line for line in told if "toy_control" in line]
