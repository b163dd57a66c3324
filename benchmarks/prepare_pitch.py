"""Make rows for `cascade-builder record pitch` out of frames of instruments with known notes.

    python -m benchmarks.prepare_pitch timgm_frames3000.npz build/pitch/frames.npz
    cascade-builder record pitch --data build/pitch/frames.npz

The source holds x (N, 1024) float, frames at 16 kHz; midi (N,) int, their notes; prog (N,) int,
the General MIDI program that played them. The result holds x and y, the CREPE bin of the note.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from cascade_builder.demo import notes

__all__ = ["UNCLEAR", "labelled", "prepare"]

UNCLEAR = [9, 14, 16, 17, 18, 31, 47, 77, 78, 86]
"""Programs that do not sound at the note they play: bells, organs with octaves, blown bottles."""


def labelled(
    frames: npt.NDArray[Any], midi: npt.NDArray[Any], program: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Keep the frames whose note is what is heard, and say its bin.

    Args:
        frames: (N, 1024) float.
        midi: (N,) int, 69 is 440 Hz.
        program: (N,) int.

    Returns:
        (M, 1024) frames as they were, and (M,) bins of 20 cents.
    """
    keep = ~np.isin(program, UNCLEAR)
    bins = [notes.bin_of(440.0 * 2.0 ** ((note - 69) / 12)) for note in midi[keep].tolist()]
    return frames[keep], np.array(bins, dtype=np.int64)


def prepare(source: Path, target: Path) -> str:
    """Write x and y of the clear frames of ``source`` to ``target``; say how many there are."""
    with np.load(source, allow_pickle=False) as file:
        x, y = labelled(file["x"], file["midi"], file["prog"])
        total = len(file["midi"])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, x=x, y=y)
    return f"{target}: {len(y)} of {total} frames, {len(np.unique(y))} notes"


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def main(source: Path, target: Path) -> None:
    """Read SOURCE, write TARGET."""
    print(prepare(source, target))


if __name__ == "__main__":
    main()
