"""How far scores can be trusted, computed from boxes that are right or wrong."""

from __future__ import annotations

import pytest

from training.evaluate_scores import Found, calibration, report


def test_the_calibration_error_is_the_mean_distance_of_score_and_share_of_right_boxes() -> None:
    boxes = [(0.95, True)] * 9 + [(0.95, False)] + [(0.55, True)] * 5 + [(0.55, False)] * 5
    error, rows = calibration(boxes)
    assert error == pytest.approx(0.05)
    assert rows == ["| 0.5 to 0.6 | 0.55 | 0.50 | 10 |", "| 0.9 to 1 | 0.95 | 0.90 | 10 |"]


def test_a_threshold_leaves_out_false_boxes_and_found_things_alike() -> None:
    found = Found(absent=[-1.0] * 98 + [0.4, 0.75], present=[0.9, 0.65, 0.2, -1.0], boxes=[(0.9, True)], sides=[1.0])
    table = report(found)
    assert "| 0 | 2.0 % | 75.0 % |" in table
    assert "| 0.6 | 1.0 % | 50.0 % |" in table
    assert "| 0.8 | 0.0 % | 25.0 % |" in table
