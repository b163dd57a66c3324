"""An expert of the target torch: a ``torch.export`` program inside Triton's Python backend.

Config: one input, one output, ``parameters`` with ``intra_op_threads`` and ``precision``. It runs
on the GPU of its instance, or on the processor where the instance has none. Needs torch in the
server's Python, and nothing else.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import PolicyError, TierError
from .triton_io import Array, config_of, parameter, respond_stacked

__all__ = ["TritonPythonModel", "runner"]

_RAW = ("weight_", "tensor_")
"""How the names of files begin that hold bytes of tensors."""


def runner(
    path: Path, threads: int, *, precision: str = "fp32", device: str = "cpu"
) -> Callable[[Array], Array]:
    """Open a program with one input and one output as a function of stacked rows.

    Args:
        path: A package by ``torch.export.save``, or one compiled by AOTInductor for this device.
        threads: Threads inside one operator; 0: as many as there are cores.
        precision: ``tf32`` lets a GPU round factors of float32 products to 11 bits.
        device: ``cpu``, or ``cuda:0``.

    Returns:
        (n, ...) rows -> (n, C) logits; raises ``TierError`` when the run fails.

    Raises:
        PolicyError: If the file is missing, would run pickled code, or cannot be opened.
    """
    try:
        import torch

        _check_package(path)
        program = _loaded(path, device)
    except PolicyError:
        raise
    except Exception as exc:  # its loader raises whatever it stumbles over
        message = f"{path.name}: cannot be opened: {exc}"
        raise PolicyError(message, hint="run `cascade-builder build` with this torch") from exc
    coarse = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = coarse
    torch.backends.cudnn.allow_tf32 = coarse

    def run(rows: Array) -> Array:
        if threads and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                # Arrays of a request may be read-only, which torch warns about.
                owned = rows if rows.flags.writeable else rows.copy()
                logits = program(torch.from_numpy(owned).to(device))
                out: Array = logits.cpu().numpy()
        except Exception as exc:
            message = f"PyTorch: {exc}"
            raise TierError(message) from exc
        return out

    return run


def _check_package(path: Path) -> None:
    """Refuse a package that holds pickled objects: loading them runs code.

    Weights of ours are raw bytes; torch pickles those of tensor subclasses, and custom objects.
    What it saves beside them (``*.pt``) it would unpickle freely where a careful load fails.
    """
    with zipfile.ZipFile(path) as package:
        names = package.namelist()
        bad = ["version"] if "version" in names else []  # a format of torch 2.7, all pickles
        bad += [name for name in names if names.count(name) > 1]
        for name in names:
            if name.endswith("_config.json"):
                bad += [name] if _names_pickles(json.loads(package.read(name))) else []
            elif name.endswith(".pt"):
                bad += [] if _is_plain(package.read(name)) else [name]
    if bad:
        message = f"{path.name}: holds pickled objects in {bad[0]}"
        raise PolicyError(message, hint="export it from plain tensors")


def _names_pickles(values: Any) -> bool:
    entries = values.get("config", {}).values()
    return any(one["use_pickle"] or not one["path_name"].startswith(_RAW) for one in entries)


def _is_plain(data: bytes) -> bool:
    """Say whether bytes that ``torch.save`` wrote hold tensors and plain values alone."""
    import torch

    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # noqa: BLE001  # whatever it stumbles over, it is not plain
        return False
    return True


def _loaded(path: Path, device: str) -> Callable[[Any], Any]:
    import torch

    with zipfile.ZipFile(path) as package:
        compiled = any("/aotinductor/" in name for name in package.namelist())
    if compiled:
        index = int(device.partition(":")[2] or -1)
        package_runner: Callable[[Any], Any] = torch._inductor.aoti_load_package(
            str(path), device_index=index
        )
        return package_runner
    program = torch.export.load(path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    loaded: Callable[[Any], Any] = program.module()
    return loaded


class TritonPythonModel:
    """Runs ``model.pt2`` on the stacked rows of each batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the program on the device of this instance."""
        config = config_of(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        gpu = args["model_instance_kind"] == "GPU"
        self._run = runner(
            folder / "model.pt2",
            int(parameter(config, "intra_op_threads", "0")),
            precision=parameter(config, "precision", "fp32"),
            device=f"cuda:{args['model_instance_device_id']}" if gpu else "cpu",
        )
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one run."""
        return respond_stacked(requests, self._input, lambda rows: {self._output: self._run(rows)})
