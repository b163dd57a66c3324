"""Where experts come from: one small module a source, all behind ``source.Source``.

    source <- factory, onnx_file, timm_model, hugging_face, engine, served <- here

A source is what an ``[[expert]]`` table says, and can do one of four things, which ``gives`` names:

    module   makes a ``torch.nn.Module``        factory, timm, huggingface
    onnx     reads an ONNX graph                onnx
    engine   is a file that a target serves     engine
    served   is a model that Triton serves      served

Nothing heavy is imported until an expert is made: a build with nothing to do asks only ``said`` and
``files``.
"""

from __future__ import annotations

from pathlib import Path

from cascade_router.errors import SpecError
from cascade_router.strict import Table

from .engine import EngineSource
from .factory import FactorySource
from .hugging_face import HuggingFaceSource
from .onnx_file import OnnxSource
from .served import ServedSource
from .source import Source
from .timm_model import TimmSource

__all__ = [
    "KINDS",
    "EngineSource",
    "FactorySource",
    "HuggingFaceSource",
    "OnnxSource",
    "ServedSource",
    "Source",
    "TimmSource",
    "read",
]

_READERS = {
    one.kind: one.read
    for one in (
        FactorySource,
        OnnxSource,
        TimmSource,
        HuggingFaceSource,
        EngineSource,
        ServedSource,
    )
}

KINDS = list(_READERS)
"""Keys of ``[[expert]]`` that name a source; a table has exactly one."""


def read(table: Table, folder: Path) -> Source:
    """Take the source from an ``[[expert]]`` table, with the keys that belong to it.

    Args:
        table: It.
        folder: What relative paths are looked up in.

    Raises:
        SpecError: If the table names no source or several, or one that cannot be.
    """
    given = [kind for kind in KINDS if table.has(kind)]
    if len(given) != 1:
        got = " and ".join(repr(kind) for kind in given) or "none"
        message = f"{table.where}: got {got}, expected exactly one of {', '.join(KINDS)}"
        raise SpecError(message, hint="an expert has one source")
    return _READERS[given[0]](table, folder)
