"""An expert from timm, by name.

    [[expert]]
    name = "small"
    timm = "mobilenetv3_small_100"
    weights = "small.safetensors"       # or none: those that timm has fetched before
    size = 160                          # side that the net sees; or none: what it was trained on
    arguments = { num_classes = 10 }    # of timm.create_model

Picture cascades: crop, resizing and normalising are the ones timm knows for the net, inside the
graph. Tensor cascades: canonical rows go to the net as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cascade_router.errors import BuildError, SpecError
from cascade_router.strict import Table, suggestion

from .factory import TORCH, arguments_of
from .hub import cached, with_torchvision
from .source import path_of, sha256_of, versions

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Input

__all__ = ["TimmSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmSource:
    """A net that timm knows.

    Attributes:
        model: Its name in timm.
        arguments: Of ``timm.create_model``.
        weights: A checkpoint; None: the one that timm has fetched before.
        size: Side in pixels that the net sees; None: what timm says.
        sha256: Digest that the spec demands of the checkpoint.
    """

    kind: ClassVar[str] = "timm"
    gives: ClassVar[str] = "module"

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    size: int | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> TimmSource:
        """Take its keys from an ``[[expert]]`` table."""
        arguments = arguments_of(table)
        for key in {"pretrained", "checkpoint_path"} & set(arguments):
            message = f"{table.where}.arguments.{key}: is not for arguments"
            raise SpecError(message, hint="name the checkpoint with `weights`")
        return cls(
            model=table.text("timm"),
            arguments=arguments,
            weights=path_of(table, "weights", folder) if table.has("weights") else None,
            size=table.whole("size", low=8, high=4096) if table.has("size") else None,
            sha256=sha256_of(table),
        )

    @property
    def pinned(self) -> Path:
        """The checkpoint."""
        return self._checkpoint()

    def said(self) -> dict[str, Any]:
        """Say name, arguments and size."""
        out: dict[str, Any] = {"timm": self.model, "arguments": dict(self.arguments)}
        if self.weights is not None:
            out["weights"] = self.weights.name
        return out if self.size is None else {**out, "size": self.size}

    def code(self) -> dict[str, str]:
        """Say the packages."""
        return {**versions(["timm"], "timm"), **versions(TORCH, "build")}

    def files(self) -> list[Path]:
        """Name the checkpoint."""
        return [self._checkpoint()]

    def module(self, form: Input, where: str) -> nn.Module:
        """Make the net and load its weights."""
        from .weights import load_into, weights_from

        timm = self._timm()
        try:
            net: nn.Module = timm.create_model(self.model, pretrained=False, **self.arguments)
        except Exception as exc:  # nets raise whatever they like
            message = f"{where}: timm cannot make {self.model!r}: {type(exc).__name__}: {exc}"
            raise BuildError(message, hint="check `arguments`") from exc
        load_into(net, weights_from(self._checkpoint(), where), where)
        return self._seeing(net, timm) if form.kind == "image" else net

    def _seeing(self, net: nn.Module, timm: Any) -> nn.Module:
        from .photo import Photo, PhotoForm

        data = timm.data.resolve_model_data_config(net)
        _, height, width = data["input_size"]
        mode = data["interpolation"]
        form = PhotoForm(
            height=self.size or height,
            width=self.size or width,
            mean=tuple(data["mean"]),
            deviation=tuple(data["std"]),
            mode=mode if mode in ("bicubic", "bilinear", "nearest") else "bicubic",
            crop=data["crop_pct"],
        )
        return Photo(net, form)

    def _checkpoint(self) -> Path:
        if self.weights is not None:
            return self.weights
        found = self._timm().models.get_pretrained_cfg(self.model)
        name = found.hf_hub_filename
        names = [name] if name else ["model.safetensors", "pytorch_model.bin"]
        path = cached(found.hf_hub_id, names) if found.hf_hub_id else None
        if path is None:
            message = f"timm = {self.model!r}: its weights are neither given nor in the cache"
            hint = "set `weights` to a checkpoint"
            if found.hf_hub_id:
                hint += f", or fetch them once: hf download {found.hf_hub_id}"
            raise SpecError(message, hint=hint)
        return path

    def _timm(self) -> Any:
        """Import timm, if it knows the net."""
        timm = with_torchvision("timm")
        if not timm.is_model(self.model.partition(".")[0]):
            message = f"timm = {self.model!r}: timm {timm.__version__} has no net of that name"
            raise SpecError(message, hint=suggestion(self.model, timm.list_models())[:200])
        return timm
