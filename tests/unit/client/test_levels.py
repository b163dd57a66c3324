"""How levels of load are written."""

import pytest

from cascade_client.levels import MOST, levels_in


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("8", [8]),
        ("16,1,4,4", [1, 4, 16]),
        ("10:50:20", [10, 30, 50]),
        ("10:45:20", [10, 30]),
        ("1:64:x2", [1, 2, 4, 8, 16, 32, 64]),
        ("1:10:x3, 100", [1, 3, 9, 100]),
    ],
)
def test_levels_are_lists_and_ranges(text, levels):
    """Lowest first, each once, never past the end of a range."""
    assert list(levels_in(text, whole=True)) == levels


def test_rates_need_not_be_whole():
    """Concurrencies must be; steps do not drift."""
    assert levels_in("0.5:2:x2", whole=False) == (0.5, 1.0, 2.0)
    assert levels_in("0.1:1:0.1", whole=False)[-1] == 1.0
    with pytest.raises(ValueError, match="whole numbers"):
        levels_in("0.5:2:x2", whole=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "positive"),
        ("0", "positive"),
        ("-1", "positive"),
        ("1e9", "positive"),
        ("nan", "positive"),
        ("many", "positive"),
        ("1:2", "FROM:TO"),
        ("1:2:3:4", "FROM:TO"),
        ("8:1:x2", "goes up"),
        ("1:8:x1", "goes up"),
        ("1:8:0", "positive"),
        (f"1:{MOST + 1}:1", f"stands for {MOST + 1} levels"),
        ("1:100000:1", f"at most {MOST}"),
    ],
)
def test_what_is_no_level_is_refused(text, said):
    """With what was given and what is expected."""
    with pytest.raises(ValueError, match=said):
        levels_in(text, whole=False)
