"""The server that is asked what it serves: one that runs, or one of our own for the time being."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade_builder.targets.hardware import gpus
from cascade_builder.triton_config import parse
from cascade_router.errors import BuildError, CascadeError, ServerError
from cascade_router.serve import Server, free_ports

__all__ = ["Asked", "asked"]

_READY = "READY"
_TIMEOUT_S = 10.0
_LINE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A server, or why there is none.

    Attributes:
        url: Host and gRPC port; None: there is none.
        said: Which server, or why none.
        wanted: Whether a server was to be asked at all.
        log: Its log, if it is ours.
    """

    url: str | None
    said: str
    wanted: bool = True
    log: Path | None = None

    def problem(self, model: str) -> CascadeError | None:
        """Say why it does not serve a model; None: it does."""
        from tritonclient.grpc import InferenceServerClient
        from tritonclient.utils import InferenceServerException

        assert self.url is not None
        client = InferenceServerClient(self.url)
        try:
            index = client.get_model_repository_index(client_timeout=_TIMEOUT_S).models
        except InferenceServerException as exc:
            message = f"the server {self.url} does not tell what it serves: {exc.message()}"
            return ServerError(_line(message), hint="look into its log")
        finally:
            client.close()
        found = [one for one in index if one.name == model]
        if any(one.state == _READY for one in found):
            return None
        reason = next((one.reason for one in found if one.reason), None) or self._logged(model)
        message = f"the server does not serve {model}: {reason or 'it names no reason'}"
        return BuildError(_line(message), hint="look into its log, or run `cascade-builder check`")

    def _logged(self, model: str) -> str | None:
        """Find the first error in our server's log that names a model."""
        if self.log is None:
            return None
        lines = self.log.read_text(errors="replace").splitlines()
        errors = (one.partition("] ")[2] for one in lines if one.startswith("E"))
        return next((one.strip('"') for one in errors if model in one), None)


@contextlib.contextmanager
def asked(
    repository: Path, models: Sequence[str], url: str | None, tell: Callable[[str], None]
) -> Iterator[Asked]:
    """Give a server.

    Args:
        repository: Started on it, where none runs.
        models: What it must load; none: no server is wanted.
        url: Of one that runs; None: start one.
        tell: Takes progress.

    Raises:
        ServerError: If none answers at ``url``, or ours ends.
        NotReadyError: If ours takes too long.
    """
    if not models:
        yield Asked(url=None, said="no server was asked", wanted=False)
    elif url is not None:
        _check_live(url)
        yield Asked(url=url, said=f"server {url}")
    elif (lacking := [one for one in models if _wants_gpu(repository / one)]) and not gpus():
        yield Asked(
            url=None, said=f"no server was started: {lacking[0]} wants a GPU, there is none"
        )
    else:
        with tempfile.TemporaryDirectory(prefix="cascade-verify-") as scratch:
            yield from _own(repository, models, Path(scratch) / "server.log", tell)


def _own(
    repository: Path, models: Sequence[str], log: Path, tell: Callable[[str], None]
) -> Iterator[Asked]:
    """Start a server that holds what is to be asked, and stop it."""
    # One model that cannot be loaded must not keep the others from being asked.
    flags = ["--exit-on-error=false", "--strict-readiness=false"]
    flags += [f"--load-model={model}" for model in models]
    server = Server(repository=repository, ports=free_ports(), flags=flags, log=log)
    tell("starting tritonserver")
    problem = None
    try:
        server.start()
    except ServerError as exc:  # it lacks a backend, a library, or is not installed
        problem = exc.message
    try:
        if problem is not None:
            yield Asked(url=None, said=problem)
            return
        server.wait_ready()
        yield Asked(url=server.grpc_url, said="tritonserver on the repository", log=log)
    finally:
        server.stop()


def _wants_gpu(folder: Path) -> bool:
    """Say whether a model's instances are all for GPUs."""
    groups = parse((folder / "config.pbtxt").read_text(encoding="utf-8")).instance_group
    return bool(groups) and all(group.kind == group.KIND_GPU for group in groups)


def _check_live(url: str) -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(url)
    try:
        client.is_server_live(client_timeout=_TIMEOUT_S)
    except InferenceServerException as exc:
        message = f"verify: no server answers at {url}: {_line(exc.message())}"
        raise ServerError(message, hint="give its host and gRPC port, or start one") from exc
    finally:
        client.close()


def _line(text: str) -> str:
    return " ".join(text.split())[:_LINE]
