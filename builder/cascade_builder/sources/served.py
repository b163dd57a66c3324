"""An expert that Triton serves already: nothing is exported, its configuration is read.

    [[expert]]
    name = "large"
    served = "resnet50"                 # a model of the same repository or server
    output = "scores"                   # which output holds the logits; or none: there is one
    server = "localhost:8001"           # where it is asked to record, to time and to check it

The cascade gets a model of its own for it, an ensemble of one step that hands the canonical rows to
the served model under the name of its input and calls its output ``LOGITS``.

The digest of a served model covers what decides its answers and can be seen: its configuration
without instances, batching and warm-up; where the repository holds it, every file of the version
that a call gets; and of an ensemble, the digests of its steps. Seen through a server alone, it
covers configuration and version numbers: whoever replaces the weights gives them a new version. A
Python model may call others that nobody can see from outside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from cascade_router.errors import BuildError
from cascade_router.strict import Table

if TYPE_CHECKING:
    from cascade_builder.spec import Spec

__all__ = ["ServedModel", "ServedSource", "look"]

_UNSEEN = ("instance_group", "dynamic_batching", "model_warmup", "optimization", "version_policy")
"""What a configuration says about speed, not about answers."""

_SERVER = "localhost:8001"
_FIRST_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSource:
    """A model that Triton serves.

    Attributes:
        model: Its name there.
        output: Name of its output of logits; None: there is only one.
        server: Host and gRPC port of the server.
    """

    kind: ClassVar[str] = "served"
    gives: ClassVar[str] = "served"

    model: str
    output: str | None = None
    server: str = _SERVER

    sha256: ClassVar[None] = None
    pinned: ClassVar[None] = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> ServedSource:
        """Take its keys from an ``[[expert]]`` table."""
        del folder
        return cls(
            model=table.text("served"),
            output=table.text("output") if table.has("output") else None,
            server=table.text("server", _SERVER),
        )

    def said(self) -> dict[str, Any]:
        """Say model and output; the server is where it is asked, not what it is."""
        out = {"served": self.model}
        return out if self.output is None else {**out, "output": self.output}

    def code(self) -> dict[str, str]:
        """Say nothing: nothing of ours makes it."""
        return {}

    def files(self) -> list[Path]:
        """Say nothing: which files there are depends on the repository; ``look`` names them."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A served model as its configuration describes it.

    Attributes:
        name: In the repository or the server.
        input: Name of its input.
        output: Name of its output of logits.
        digest: ``sha256:...``, see above.
        seen: ``repository`` or ``server``: where the configuration was read.
        max_batch: Most rows in one call.
    """

    name: str
    input: str
    output: str
    digest: str
    seen: str
    max_batch: int


def look(
    source: ServedSource,
    spec: Spec,
    repository: Path,
    where: str,
    digest_of: Callable[[Path], str],
) -> ServedModel:
    """Read a served model's configuration and check that it can be an expert.

    Args:
        source: As the spec names it.
        spec: The cascade.
        repository: The model repository; the server is asked where it does not hold the model.
        where: What to call the expert in messages.
        digest_of: Says ``sha256:...`` of a file.

    Raises:
        BuildError: If it is nowhere to be found, or does not take canonical rows to logits.
    """
    where = f"{where}: served model {source.model!r}"
    if source.model in (spec.name, *(spec.model(part) for part in _own_parts(spec))):
        _refuse(f"{where} is this cascade's own", "name a model that exists without it")
    config = _config_in(repository, source.model, where)
    if config is None:
        config, versions = _config_of_server(source, repository, where)
        digest, seen = _digest({"config": _text(config), "versions": versions}), "server"
    else:
        digest, seen = _digest_in(repository, config, where, digest_of, ()), "repository"
    _check(config, spec, where)
    return ServedModel(
        name=source.model,
        input=config.input[0].name,
        output=_output(config, source, spec, where),
        digest=digest,
        seen=seen,
        max_batch=config.max_batch_size,
    )


def _own_parts(spec: Spec) -> list[str]:
    return ["router", "control", "preprocess", *(expert.name for expert in spec.experts)]


def _config_in(repository: Path, model: str, where: str) -> Any:
    """Read a model's configuration in the repository; None: it is not there."""
    from google.protobuf.text_format import ParseError

    from cascade_builder.triton_config import parse

    path = repository / model / "config.pbtxt"
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, ParseError) as exc:
        message = f"{where}: {path} cannot be read: {exc}"
        raise BuildError(message, hint="repair its config.pbtxt") from exc


def _config_of_server(source: ServedSource, repository: Path, where: str) -> tuple[Any, list[str]]:
    """Ask the server for a model's configuration and versions."""
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(source.server)
    try:
        config = client.get_model_config(source.model, client_timeout=_FIRST_ANSWER_S).config
        metadata = client.get_model_metadata(source.model, client_timeout=_FIRST_ANSWER_S)
    except InferenceServerException as exc:
        message = (
            f"{where}: {repository} holds no {source.model}/config.pbtxt, and the server "
            f"{source.server} does not tell: {exc.message()}"
        )
        hint = "give its repository with --repository, or set `server` to a running one"
        raise BuildError(message, hint=hint) from exc
    finally:
        client.close()
    return config, sorted(metadata.versions)


def _digest_in(
    repository: Path,
    config: Any,
    where: str,
    digest_of: Callable[[Path], str],
    above: tuple[str, ...],
) -> str:
    """Say the digest of a model in the repository, and of what an ensemble calls."""
    steps = {}
    for step in config.ensemble_scheduling.step:
        inner = _config_in(repository, step.model_name, where)
        if inner is None or step.model_name in (*above, config.name):
            hint = "an ensemble's steps are part of what it answers"
            _refuse(f"{where}: its step {step.model_name!r} is not in {repository}", hint)
        steps[step.model_name] = _digest_in(
            repository, inner, where, digest_of, (*above, config.name)
        )
    files = _files(repository / config.name, config)
    return _digest(
        {
            "config": _text(config),
            "files": {name: digest_of(path) for name, path in files.items()},
            "steps": steps,
        }
    )


def _files(folder: Path, config: Any) -> dict[str, Path]:
    """Name the files of the version that a call without a version gets: the highest served."""
    numbers = sorted(int(one.name) for one in folder.iterdir() if one.name.isdecimal())
    if config.version_policy.HasField("specific"):
        numbers = [one for one in numbers if one in config.version_policy.specific.versions]
    if not numbers:
        return {}
    version = folder / str(numbers[-1])
    found = (one.relative_to(version) for one in sorted(version.rglob("*")) if one.is_file())
    return {
        str(one): version / one
        for one in found
        if not any(part.startswith(".") or part == "__pycache__" for part in one.parts)
    }


def _text(config: Any) -> str:
    """Write what a configuration says about answers; equal configurations give equal text."""
    from google.protobuf import text_format

    kept = type(config)()
    kept.CopyFrom(config)
    for name in _UNSEEN:
        kept.ClearField(name)
    return str(text_format.MessageToString(kept))


def _digest(values: dict[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}"


def _check(config: Any, spec: Spec, where: str) -> None:
    """Refuse a model that does not take canonical rows in batches."""
    if config.max_batch_size < spec.max_batch:
        hint = f"set max_batch = {config.max_batch_size} in [cascade], or raise its own"
        if config.max_batch_size == 0:
            hint = "give it a batch dimension: max_batch_size above 0"
        got = f"max_batch_size {config.max_batch_size}, expected at least {spec.max_batch}"
        _refuse(f"{where}: {got}", hint)
    if config.model_transaction_policy.decoupled or config.HasField("sequence_batching"):
        kind = "decoupled" if config.model_transaction_policy.decoupled else "of sequences"
        _refuse(f"{where}: is {kind}", "an expert answers each row once, on its own")
    required = [one for one in config.input if not one.optional]
    if len(required) != 1 or config.input[0].name != required[0].name:
        names = ", ".join(one.name for one in config.input)
        _refuse(f"{where}: has inputs {names or 'that it does not name'}", "expected one")
    got, form = required[0], spec.input
    wanted = f"TYPE_{form.dtype} {list(form.shape)}"
    if not _same(got, form.dtype, form.shape):
        message = f"{where}: takes {_shown(got)}, expected {wanted}"
        _refuse(message, "all experts share the canonical rows of [input]")


def _output(config: Any, source: ServedSource, spec: Spec, where: str) -> str:
    """Find the output that holds the logits."""
    found = {one.name: one for one in config.output}
    if source.output is None and len(found) != 1:
        names = ", ".join(found) or "that it does not name"
        _refuse(f"{where}: has outputs {names}", "say which holds the logits: `output`")
    name = next(iter(found)) if source.output is None else source.output
    if name not in found:
        _refuse(f"{where}: has no output {name!r}", f"it has {', '.join(found)}")
    if not _same(found[name], "FP32", (spec.classes,)):
        wanted = f"TYPE_FP32 [{spec.classes}]"
        message = f"{where}: answers {_shown(found[name])} as {name!r}, expected {wanted}"
        _refuse(message, "name the output of logits with `output`, or set `classes`")
    return name


def _same(tensor: Any, dtype: str, shape: tuple[int, ...]) -> bool:
    """Say whether a tensor of a configuration has this dtype and shape, where it says one."""
    from tritonclient.grpc import model_config_pb2

    code = model_config_pb2.DataType.Value(f"TYPE_{dtype}")
    dims = tuple(tensor.dims)
    return (
        tensor.data_type == code
        and len(dims) == len(shape)
        and all(have in (-1, want) for have, want in zip(dims, shape, strict=True))
    )


def _shown(tensor: Any) -> str:
    from tritonclient.grpc import model_config_pb2

    return f"{model_config_pb2.DataType.Name(tensor.data_type)} {list(tensor.dims)}"


def _refuse(message: str, hint: str) -> NoReturn:
    raise BuildError(message, hint=hint)
