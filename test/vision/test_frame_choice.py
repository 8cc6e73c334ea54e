"""Which frames of a clip are chosen, whatever their times and changes are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.vision.frame_choice import evenly, most_changed

TIMES = st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True).map(sorted)


@given(TIMES, st.integers(1, 20))
def test_evenly_chosen_frames_are_in_order_none_twice_and_each_is_the_nearest_to_a_time(
    times: list[int], count: int
) -> None:
    chosen = evenly(times, times[0], times[-1], count)
    assert chosen == sorted(set(chosen))
    assert 1 <= len(chosen) <= min(count, len(times))
    assert chosen[-1] == len(times) - 1
    if len(times) <= count:
        assert chosen == list(range(len(times)))
    elif count > 1:
        assert chosen[0] == 0
        gap = (times[-1] - times[0]) / (count - 1)
        for step in range(count):
            wanted = times[0] + gap * step
            assert min(abs(times[index] - wanted) for index in chosen) == min(abs(time - wanted) for time in times)


@given(st.integers(2, 30), st.integers(1, 20))
def test_of_frames_at_an_even_rate_as_many_as_asked_for_are_chosen(frames: int, count: int) -> None:
    assert len(evenly(range(0, 500 * frames, 500), 0, 500 * (frames - 1), count)) == min(count, frames)


@given(st.lists(st.floats(0, 255), max_size=60), st.integers(1, 20))
def test_where_the_image_changed_most_the_frames_are_chosen_with_the_first_and_the_last(
    changes: list[float], count: int
) -> None:
    chosen = most_changed(changes, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(changes) + 1)
    assert chosen[-1] == len(changes)
    if count > 1:
        assert chosen[0] == 0
    inner = [changes[index - 1] for index in chosen if 0 < index < len(changes)]
    left_out = [changes[index - 1] for index in range(1, len(changes)) if index not in chosen]
    assert not inner or not left_out or min(inner) >= max(left_out)
