"""How many examples Hypothesis tries, and never against the clock: all at night, else a quarter; few in a check."""

from __future__ import annotations

from hypothesis import settings

_ALL = 100
_FEWEST = 10
_SHARES = {"check": 10, "test": 4, "thorough": 1}
"""By profile: one in how many examples is tried."""

for _name, _share in _SHARES.items():
    settings.register_profile(_name, deadline=None, max_examples=max(_FEWEST, _ALL // _share))


def load(*, check: bool, thorough: bool) -> None:
    """Choose the number of examples before the tests are read."""
    settings.load_profile("check" if check else "thorough" if thorough else "test")


def examples(count: int) -> settings:
    """Have a property-based test tried on ``count`` examples at night, where that is not Hypothesis's own number."""
    return settings(max_examples=max(min(count, _FEWEST), count // _SHARES.get(settings.get_current_profile_name(), 1)))
