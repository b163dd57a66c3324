"""Synthesised notes of known pitch, as CREPE hears them: 1024 samples at 16 kHz.

Pitches fall into 360 bins of 20 cents from 31.7 Hz up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PITCHES", "SAMPLE_RATE", "bin_of", "hertz_of", "names", "note", "rows"]

SAMPLE_RATE = 16_000
"""Samples per second."""

PITCHES = [40, 45, 50, 52, 55, 57, 60, 62, 64, 67, 69, 71, 74, 76, 81, 86]
"""MIDI numbers of the notes, low to high (69 is 440 Hz)."""

_SAMPLES = 1024
_BINS = 360
_CENTS_PER_BIN = 20.0
_FIRST_CENTS = 1997.3794084376191
"""Pitch of bin 0 in cents above 10 Hz, as published with CREPE's weights."""

_TONES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
_TIMBRES = [(1.0, 0.5, 0.33, 0.25, 0.2), (1.0, 0.0, 0.6, 0.0, 0.4), (0.3, 1.0, 0.7, 0.4, 0.2)]
"""Strengths of the harmonics: a string, a clarinet, a voice with a weak fundamental."""

_NOISE = [0.0, 0.4, 1.2]
"""Deviation of the noise beside a signal of about 1: quiet notes are easy, noisy ones escalate."""


def rows() -> list[npt.NDArray[np.float32]]:
    """Make the notes of ``PITCHES``; the same samples every time.

    Returns:
        Rows of (1024,) float32.
    """
    noise = np.random.default_rng(seed=440)
    return [
        note(
            440.0 * 2.0 ** ((midi - 69) / 12),
            harmonics=_TIMBRES[i % len(_TIMBRES)],
            noise=_NOISE[i // 2 % len(_NOISE)] * noise.standard_normal(_SAMPLES),
        )
        for i, midi in enumerate(PITCHES)
    ]


def note(
    hertz: float, *, harmonics: Sequence[float], noise: npt.NDArray[np.float64] | float = 0.0
) -> npt.NDArray[np.float32]:
    """Make one frame of a steady note.

    Args:
        hertz: Its pitch.
        harmonics: Strength of the fundamental, the octave, ...; those above 8 kHz are left out.
        noise: (1024,) float, added.

    Returns:
        (1024,) float32.
    """
    time = np.arange(_SAMPLES) / SAMPLE_RATE
    wave = np.zeros(_SAMPLES)
    for k, strength in enumerate(harmonics, start=1):
        if k * hertz < SAMPLE_RATE / 2:
            # The phase runs away with k, so that no frame starts with a click of all sines at 0.
            wave += strength * np.sin(2 * np.pi * k * hertz * time + 0.7 * k * k)
    return (wave + noise).astype(np.float32)


def bin_of(hertz: float) -> int:
    """Say the bin of a pitch.

    Example:
        >>> bin_of(440.0)
        228
    """
    return round((1200 * math.log2(hertz / 10) - _FIRST_CENTS) / _CENTS_PER_BIN)


def hertz_of(number: int) -> float:
    """Say the pitch in the middle of a bin."""
    cents = _FIRST_CENTS + _CENTS_PER_BIN * number
    return float(10 * 2 ** (cents / 1200))


def names() -> list[str]:
    """Name the bins by the nearest note and the cents from there, such as ``A4 +2 (440.5 Hz)``."""
    return [_name(hertz_of(number)) for number in range(_BINS)]


def _name(hertz: float) -> str:
    midi = 69 + 12 * math.log2(hertz / 440)
    nearest = round(midi)
    tone = f"{_TONES[nearest % 12]}{nearest // 12 - 1}"
    return f"{tone} {100 * (midi - nearest):+.0f} ({hertz:.1f} Hz)"
