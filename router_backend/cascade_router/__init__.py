"""Decide, row by row, which expert of a cascade answers.

NumPy and the standard library only: this package is copied beside ``model.py`` in the model
repository, so a stock Triton server runs it with nothing installed. Triton's own API is met in
``backend`` and the runners, which are not imported here.
"""

from .errors import CascadeError, PolicyError, RequestError, TierError
from .gate import DECIDED, Gate
from .policy import OperatingPoint, Policy, Tier
from .scores import Score, probabilities
from .walk import Step, Walk

__all__ = [
    "DECIDED",
    "CascadeError",
    "Gate",
    "OperatingPoint",
    "Policy",
    "PolicyError",
    "RequestError",
    "Score",
    "Step",
    "Tier",
    "TierError",
    "Walk",
    "probabilities",
]
