"""How many examples Hypothesis tries, and never against the clock: a tenth of them in `make check`."""

from __future__ import annotations

from hypothesis import settings

_FEWEST = 10

settings.register_profile("test", deadline=None)
settings.register_profile("check", deadline=None, max_examples=_FEWEST)


def load(*, check: bool) -> None:
    """Choose the number of examples before the tests are read."""
    settings.load_profile("check" if check else "test")


def examples(count: int) -> settings:
    """Have a property-based test tried on ``count`` examples, where that is not Hypothesis's own number (100)."""
    return settings(max_examples=max(_FEWEST, count // 10) if settings.get_current_profile_name() == "check" else count)
