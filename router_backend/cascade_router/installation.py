"""A tritonserver on this machine: which one, with which backends and libraries."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ServerError

__all__ = ["Installation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A tritonserver on this machine.

    Attributes:
        binary: The executable.
        backends: Folder with one folder per backend.
        libraries: Folders its libraries lie in, for LD_LIBRARY_PATH.
        stub: The Python backend's stub for this interpreter, where the server does not bring one.
    """

    binary: Path
    backends: Path
    libraries: tuple[Path, ...] = ()
    stub: Path | None = None

    @classmethod
    def find(cls, needed: set[str]) -> Installation:
        """Find a server that has the backends ``needed``.

        Raises:
            ServerError: If there is none; says what was looked at and what to install.
        """
        candidates = cls._candidates()
        for found in candidates:
            if needed <= found.has():
                return found
        if not candidates:
            message = "cascade-serve: no tritonserver on PATH and no nvidia-pytriton wheel"
            hint = "pip install nvidia-pytriton==0.7.0, or run inside NVIDIA's Triton container"
            raise ServerError(message, hint=hint)
        seen = "; ".join(f"{c.binary} has {', '.join(sorted(c.has()))}" for c in candidates)
        message = f"cascade-serve: the repository needs {', '.join(sorted(needed))}; {seen}"
        hint = "serve it in NVIDIA's container, or build with --target embedded"
        raise ServerError(message, hint=hint)

    def has(self) -> set[str]:
        """Names of the backends it has."""
        return {folder.name for folder in self.backends.glob("*") if folder.is_dir()}

    def check_libraries(self) -> None:
        """Refuse when a system library is missing, naming it."""
        if self.stub is None:
            return
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        missing = _missing_libraries(self.binary, self.libraries) + _missing_libraries(
            self.stub, self.libraries
        )
        if missing:
            message = f"cascade-serve: tritonserver misses {', '.join(sorted(set(missing)))}"
            hint = f"on Debian: apt-get install lib{python} libstdc++6 zlib1g libexpat1"
            raise ServerError(message, hint=hint)

    @classmethod
    def _candidates(cls) -> list[Installation]:
        return [found for found in (cls._on_path(), cls._in_wheel()) if found is not None]

    @classmethod
    def _on_path(cls) -> Installation | None:
        found = shutil.which("tritonserver")
        if found is None:
            return None
        binary = Path(found).resolve()
        return cls(binary=binary, backends=binary.parent.parent / "backends")

    @classmethod
    def _in_wheel(cls) -> Installation | None:
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            return None
        package = Path(spec.origin).parent
        root = package / "tritonserver"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        libraries = [package.parent / "nvidia_pytriton.libs"]
        if libdir := sysconfig.get_config_var("LIBDIR"):
            libraries.append(Path(libdir))  # an interpreter outside the system's folders
        return cls(
            binary=root / "bin" / "tritonserver",
            backends=root / "backends",
            libraries=tuple(libraries),
            stub=root / "python_backend_stubs" / version / "triton_python_backend_stub",
        )

    def lay_out_backends(self, scratch: Path) -> Path:
        """Lay links to the backends and the stub side by side, as the server looks for them."""
        backends = scratch / "backends"
        for folder in self.backends.iterdir():
            target = backends / folder.name
            target.mkdir(parents=True)
            for file in folder.iterdir():
                if file.is_file():
                    (target / file.name).symlink_to(file)
        if self.stub is not None:
            (backends / "python" / self.stub.name).symlink_to(self.stub)
        return backends

    def environment(self) -> dict[str, str]:
        """Say the environment its process needs."""
        env = dict(os.environ)
        paths = [str(folder) for folder in self.libraries]
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, [*paths, env.get("LD_LIBRARY_PATH")]))
        # The stub takes the site-packages of the first python on PATH: that of this environment.
        env["PATH"] = f"{Path(sys.executable).parent}:{env.get('PATH', '')}"
        # A new __pycache__ changes a model folder's time; Triton would take it for a new model.
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        return env


def _missing_libraries(binary: Path, folders: Sequence[Path]) -> list[str]:
    """Name the shared libraries the loader would not find; empty where it cannot be asked."""
    if not binary.exists() or ctypes.util.find_library("c") is None or not shutil.which("ldd"):
        return []
    env = os.environ | {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in folders)}
    listing = subprocess.run(
        ["ldd", str(binary)], env=env, capture_output=True, text=True, check=False
    ).stdout
    return re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE)
