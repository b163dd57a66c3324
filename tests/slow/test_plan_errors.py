"""The errors that a plan states are those its figures have."""

import numpy as np
import pytest
from synthetic import records

from cascade_builder.plan import plan
from cascade_builder.wish import Goal

pytestmark = pytest.mark.slow


def test_gains_vary_from_pool_to_pool_by_the_error_they_state():
    """Over 60 draws of the same kind of rows, what the last tier of a pair brings scatters as
    stated, within a third."""
    tables = [{1: 1.0}, {1: 18.0}, {1: 20.0}]
    gains, errors = [], []
    for seed in range(60):
        made = records(n=800, n_tiers=3, seed=seed, tables=tables)
        (pick,) = plan(made, {"a": Goal(mean_ms=9.0)}, batch=1, most=2).picks
        if pick.experts == ["tier0", "tier2"]:
            gain = pick.gains[2]
            gains.append([gain.saved_ms, gain.quality])
            errors.append([gain.saved_error, gain.quality_error])

    assert len(gains) > 30
    scatter, stated = np.std(gains, axis=0, ddof=1), np.mean(errors, axis=0)
    np.testing.assert_allclose(stated / scatter, 1.0, atol=1 / 3)
