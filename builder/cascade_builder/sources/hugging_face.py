"""An expert from Hugging Face's transformers: a classifier of pictures or of texts.

    [[expert]]
    name = "large"
    huggingface = "google/mobilenet_v2_1.0_224" # in the hub's cache, or
    weights = "folder"                          # a folder as save_pretrained writes it

Picture cascades: crop, resizing and normalising are those of ``preprocessor_config.json``, inside
the graph. Other cascades: canonical rows are token numbers, filled up with the padding of
``[input]`` or else the net's ``pad_token_id``, which is not attended to. Code that a repository
brings is never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cascade_router.errors import BuildError, SpecError
from cascade_router.strict import Table

from .factory import TORCH
from .hub import cached_folder, with_torchvision
from .source import path_of, sha256_of, versions

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Input

    from .photo import PhotoForm

__all__ = ["HuggingFaceSource"]

_WEIGHTS = ["*.safetensors", "pytorch_model*.bin"]
_SCALE = 1 / 255
_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters, as processors name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceSource:
    """A classifier in the format of transformers.

    Attributes:
        model: Its name on the hub.
        weights: Folder that holds it; None: it is in the hub's cache.
        sha256: Digest that the spec demands of its files.
    """

    kind: ClassVar[str] = "huggingface"
    gives: ClassVar[str] = "module"

    model: str
    weights: Path | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> HuggingFaceSource:
        """Take its keys from an ``[[expert]]`` table."""
        weights = path_of(table, "weights", folder) if table.has("weights") else None
        if weights is not None and not (weights / "config.json").is_file():
            message = f"{table.where}.weights: {str(weights)!r} holds no config.json"
            raise SpecError(message, hint="give a folder as save_pretrained writes it")
        return cls(model=table.text("huggingface"), weights=weights, sha256=sha256_of(table))

    @property
    def pinned(self) -> Path:
        """The weights alone, or the folder where they are in several files."""
        found = self._weights()
        return found[0] if len(found) == 1 else self._folder()

    def said(self) -> dict[str, Any]:
        """Say the name."""
        out = {"huggingface": self.model}
        return out if self.weights is None else {**out, "weights": self.weights.name}

    def code(self) -> dict[str, str]:
        """Say the packages."""
        return {**versions(["transformers"], "huggingface"), **versions(TORCH, "build")}

    def files(self) -> list[Path]:
        """Name weights and configurations; tokenisers and model cards change no expert."""
        folder = self._folder()
        names = ["config.json", "preprocessor_config.json"]
        return [*(folder / n for n in names if (folder / n).is_file()), *self._weights()]

    def module(self, form: Input, where: str) -> nn.Module:
        """Load the net from its folder."""
        from .logits import FromPixels, FromTokens

        self._weights()  # transformers would say at length that there are none
        transformers = with_torchvision("transformers")
        picture = form.kind == "image"
        task = "ImageClassification" if picture else "SequenceClassification"
        try:
            net, report = getattr(transformers, f"AutoModelFor{task}").from_pretrained(
                self._folder(),
                local_files_only=True,
                trust_remote_code=False,
                dtype="float32",
                attn_implementation="eager",
                output_loading_info=True,
            )
        except Exception as exc:  # it raises whatever its files make of it
            text = " ".join(str(exc).split())[:300]
            message = f"{where}: {self.model!r} cannot be loaded: {type(exc).__name__}: {text}"
            raise BuildError(message, hint=f"is it a net for {task}?") from exc
        if missing := sorted(report["missing_keys"]):
            message = f"{where}: {self.model!r} has no weights {', '.join(missing[:3])}"
            raise BuildError(message, hint="give a fine-tuned classifier, not a bare encoder")
        if picture:
            return FromPixels(net, _photo_form(self._folder(), where))
        return FromTokens(net, _padding(net, form, where))

    def _folder(self) -> Path:
        if self.weights is not None:
            return self.weights
        found = cached_folder(self.model)
        if found is None:
            message = f"huggingface = {self.model!r}: it is neither given nor in the cache"
            hint = f"set `weights` to its folder, or fetch it once: hf download {self.model}"
            raise SpecError(message, hint=hint)
        return found

    def _weights(self) -> list[Path]:
        """Name the weights' files, the safe kind if there is one."""
        for pattern in _WEIGHTS:
            if found := sorted(self._folder().glob(pattern)):
                return found
        message = f"huggingface = {self.model!r}: its folder holds no weights"
        raise SpecError(message, hint=f"expected {' or '.join(_WEIGHTS)}")


def _padding(net: Any, form: Input, where: str) -> int:
    """Say which token fills rows up: the tokeniser's, or the net's where rows come ready."""
    if form.text is not None:
        return int(form.text.parameters["pad"])
    found = net.config.pad_token_id
    if not isinstance(found, int):
        message = f"{where}: its config.json says no pad_token_id"
        raise BuildError(message, hint="rows of tokens are filled up with it; add it there")
    return found


def _photo_form(folder: Path, where: str) -> PhotoForm:
    """Read what the net expects of a picture.

    Raises:
        BuildError: If ``preprocessor_config.json`` says nothing usable.
    """
    from .photo import PhotoForm

    path = folder / "preprocessor_config.json"
    try:
        said: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cropped = bool(said.get("do_center_crop", False))
        size = said["size"]
        height, width = _sides(said["crop_size"] if cropped else size)
        # Of a square, the shortest edge is the side.
        whole = _sides(size)[0]
        if abs(said.get("rescale_factor", _SCALE) - _SCALE) > 1e-6:
            message = f"rescale_factor {said['rescale_factor']}, expected 1 / 255"
            raise ValueError(message)
        normalised = bool(said.get("do_normalize", True))
        return PhotoForm(
            height=height,
            width=width,
            mean=tuple(said["image_mean"]) if normalised else (0.0,) * 3,
            deviation=tuple(said["image_std"]) if normalised else (1.0,) * 3,
            mode=_MODES.get(said.get("resample", 2), "bicubic"),
            crop=min(1.0, height / whole) if cropped else 1.0,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        message = f"{where}: {path.name} cannot be used: {type(exc).__name__}: {exc}"
        raise BuildError(message, hint="it says how pictures are made ready; add it") from exc


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    return size["height"], size["width"]
