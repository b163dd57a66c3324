"""Nets of timm and of transformers, made here with random seeded weights and saved locally."""

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascade_builder import export
from cascade_builder.sources import HuggingFaceSource, Source, TimmSource
from cascade_builder.sources.hub import with_torchvision
from cascade_builder.spec import Expert, Input
from cascade_router.errors import BuildError, SpecError

PICTURES = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(40, 40, 3))
TOKENS = Input(kind="tensor", name="TOKENS", dtype="INT64", shape=(6,))
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *PICTURES.shape), dtype=np.uint8)
CLASSES = 4


def package(name: str) -> Any:
    """The package, or a skip that says how to get it."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: it is an extra of its own")
    return with_torchvision(name)


@pytest.fixture(scope="module")
def timm() -> Any:
    return package("timm")


@pytest.fixture(scope="module")
def transformers() -> Any:
    return package("transformers")


def make(source: Source, form: Input) -> Any:
    return export.make(Expert(name="x", source=source), form)


def answers(source: Source, form: Input, rows: Any) -> Any:
    with torch.inference_mode():
        return make(source, form)(torch.from_numpy(rows))


@pytest.fixture(scope="module")
def net(timm: Any) -> Any:
    """A ResNet of timm with four classes."""
    torch.manual_seed(0)
    return timm.create_model("resnet10t", pretrained=False, num_classes=CLASSES).eval()


def saved(net: Any, path: Path) -> Path:
    from safetensors.torch import save_file

    state = net.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
        torch.save(wrapped if "wrapped" in path.name else state, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(net, tmp_path_factory.mktemp("timm") / "net.safetensors")


@pytest.mark.parametrize("name", ["net.pth", "wrapped.pth"])
def test_checkpoints_of_each_kind_are_read(
    name: str, net: Any, checkpoint: Path, tmp_path: Path
) -> None:
    """A state dict, or one inside what a training script keeps, answers as safetensors does."""
    other = answers(timm_source(saved(net, tmp_path / name)), PICTURES, PIXELS)
    assert torch.equal(other, answers(timm_source(checkpoint), PICTURES, PIXELS))


def timm_source(weights: Path | None, **more: Any) -> TimmSource:
    arguments = {"num_classes": CLASSES}
    return TimmSource(model="resnet10t", arguments=arguments, weights=weights, **more)


def test_a_net_of_timm_sees_pictures_as_timm_prepares_them(
    timm: Any, net: Any, checkpoint: Path
) -> None:
    """timm's own evaluation transform, on a square picture, gives the same logits but for rounding.

    timm rounds resized pixels to whole numbers; the graph does not.
    """
    from PIL import Image

    prepare = timm.data.create_transform(
        **timm.data.resolve_model_data_config(net), is_training=False
    )
    smooth = np.array(Image.fromarray(PIXELS[0]).resize((4, 4)).resize((40, 40)))
    found = answers(timm_source(checkpoint), PICTURES, smooth[None])
    with torch.inference_mode():
        expected = net(prepare(Image.fromarray(smooth))[None])
    assert found.shape == (1, CLASSES)
    np.testing.assert_allclose(found, expected, atol=0.05 * float(expected.std()))


def test_the_same_weights_at_another_size_are_another_expert(checkpoint: Path) -> None:
    """Cheaper, and said so in what identifies it."""
    small, usual = timm_source(checkpoint, size=32), timm_source(checkpoint)
    assert small.said() != usual.said()
    different = answers(small, PICTURES, PIXELS) - answers(usual, PICTURES, PIXELS)
    assert float(different.abs().max()) > 0


def test_a_net_of_timm_is_exported(checkpoint: Path) -> None:
    """Resizing included, for any number of rows."""
    module = make(timm_source(checkpoint, size=32), PICTURES)
    data = export.onnx_from_torch(module, PIXELS, form=PICTURES, classes=CLASSES, where="x")
    assert data.startswith(b"\x08")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda p: TimmSource(model="resnet10t", weights=p), "the weights do not fit the net"),
        (lambda p: TimmSource(model="resnet10t", weights=p.parent / "x.pth"), "cannot be read"),
        (
            lambda p: TimmSource(model="resnet10t", arguments={"wings": 2}, weights=p),
            "timm cannot make 'resnet10t'",
        ),
        (lambda p: TimmSource(model="no_such_net", weights=p), "has no net of that name"),
        (lambda p: TimmSource(model="no_such_net"), "has no net of that name"),
        (lambda p: timm_source(None), "neither given nor in the cache"),
    ],
)
def test_what_timm_cannot_make_is_named(
    source: Callable[[Path], TimmSource], says: str, checkpoint: Path
) -> None:
    """Nets, arguments and weights that do not exist or do not fit; nothing is ever fetched."""
    with pytest.raises((BuildError, SpecError), match=says) as caught:
        make(source(checkpoint), PICTURES)
    assert caught.value.hint
    assert len(caught.value.message) < 600


def test_a_pickle_that_runs_code_is_refused(timm: Any, tmp_path: Path) -> None:
    """Checkpoints of others are read as tensors alone."""
    ran = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"

    class Trap:
        def __reduce__(self) -> Any:
            return eval, (code,)

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(BuildError, match=r"'trap\.pth' cannot be read"):
        make(timm_source(tmp_path / "trap.pth"), PICTURES)
    assert not ran.exists()


@pytest.fixture(scope="module")
def texts(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of sequences, as save_pretrained writes it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=CLASSES,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("texts")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pictures with its preprocessor."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES
    )
    folder = tmp_path_factory.mktemp("photos")
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    said = {
        "do_resize": True,
        "size": {"shortest_edge": 36},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.3],
        "image_processor_type": "ConvNextImageProcessor",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def test_padding_is_not_attended_to(transformers: Any, texts: Path) -> None:
    """A short row, filled up, is answered as the short row alone, which transformers answers."""
    source = HuggingFaceSource(model="tiny", weights=texts)
    rows = np.array([[2, 7, 9, 3, 0, 0], [2, 7, 9, 11, 12, 3]], dtype=np.int64)
    found = answers(source, TOKENS, rows)
    net = transformers.BertForSequenceClassification.from_pretrained(texts).eval()
    with torch.inference_mode():
        alone = net(torch.from_numpy(rows[:1, :4])).logits
        whole = net(torch.from_numpy(rows[1:])).logits
    np.testing.assert_allclose(found, torch.cat([alone, whole]), atol=1e-5)


def test_a_text_classifier_is_exported_and_answers_the_same(texts: Path, tmp_path: Path) -> None:
    """With its attention mask made inside the graph, at any batch size."""
    from cascade_builder import parity
    from cascade_builder.runtime import OnnxExpert

    module = make(HuggingFaceSource(model="tiny", weights=texts), TOKENS)
    rows = np.random.default_rng(1).integers(0, 50, (9, 6))
    rows[::2, 4:] = 0
    path = tmp_path / "model.onnx"
    path.write_bytes(export.onnx_from_torch(module, rows, form=TOKENS, classes=CLASSES, where="x"))
    assert parity.check(module, OnnxExpert(path), rows, where="x").label_agreement == 1.0


def test_a_picture_classifier_sees_what_its_preprocessor_says(
    transformers: Any, photos: Path
) -> None:
    """Centre, size, mean and deviation of the file, in the net's own hands."""
    from torch.nn import functional

    found = answers(HuggingFaceSource(model="tiny", weights=photos), PICTURES, PIXELS)
    net = transformers.ResNetForImageClassification.from_pretrained(photos).eval()
    start = (40 - 36) // 2  # round(40 * 32 / 36) of 40 pixels
    x = torch.from_numpy(PIXELS)[:, start : start + 36, start : start + 36].permute(0, 3, 1, 2)
    x = functional.interpolate(x.float(), size=(32, 32), mode="bicubic", antialias=True)
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.2, 0.3])
    with torch.inference_mode():
        expected = net(
            (x.clamp(0, 255) / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
        ).logits
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_it_depends_on_are_weights_and_configurations(photos: Path) -> None:
    """A changed model card changes no expert."""
    (photos / "README.md").write_text("a card")
    source = HuggingFaceSource(model="tiny", weights=photos)
    assert sorted(one.name for one in source.files()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert source.pinned == photos / "model.safetensors"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "cannot be used"),
        (lambda f: (f / "preprocessor_config.json").write_text("[]"), "cannot be used"),
        (
            lambda f: (f / "preprocessor_config.json").write_text(
                (f / "preprocessor_config.json").read_text()[:-1] + ', "rescale_factor": 1.0}'
            ),
            "rescale_factor 1.0, expected 1 / 255",
        ),
    ],
)
def test_a_spoiled_folder_is_refused(
    spoil: Callable[[Path], object], says: str, photos: Path, tmp_path: Path
) -> None:
    """In one paragraph with a way out."""
    for one in photos.iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    spoil(tmp_path)
    source = HuggingFaceSource(model="tiny", weights=tmp_path)
    with pytest.raises((BuildError, SpecError), match=says) as caught:
        make(source, PICTURES)
    assert caught.value.hint
    assert len(caught.value.message) < 600


def test_a_bare_encoder_is_no_classifier(transformers: Any, texts: Path, tmp_path: Path) -> None:
    """transformers would make up the missing head at random."""
    net = transformers.BertModel.from_pretrained(texts)
    net.save_pretrained(tmp_path)
    with pytest.raises(BuildError, match=r"has no weights classifier\.bias"):
        make(HuggingFaceSource(model="tiny", weights=tmp_path), TOKENS)


def test_a_name_that_is_not_in_the_cache_is_not_fetched(transformers: Any) -> None:
    """The way out says how to fetch it once."""
    with pytest.raises(SpecError, match="neither given nor in the cache") as caught:
        HuggingFaceSource(model="nobody/nothing").files()
    assert "hf download nobody/nothing" in str(caught.value.hint)
