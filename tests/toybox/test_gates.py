"""Intervals and verdicts."""

import pytest

from toybox.gates import mean, rate, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (246, 256, 0.9296, 0.9787)],
)
def test_wilson_intervals(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=2e-4)


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    """Exact coverage by the binomial's own probabilities, on average over rates."""
    from math import comb

    n, truths = 40, [k / 50 + 0.01 for k in range(50)]
    intervals = [wilson(hits, n) for hits in range(n + 1)]
    coverage = [sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(intervals) if low <= p <= high) for p in truths]
    assert sum(coverage) / len(coverage) == pytest.approx(0.95, abs=0.01)


def test_no_rate_without_trials() -> None:
    for hits, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="are no rate"):
            wilson(hits, n)


def test_bounds_hold_from_their_side() -> None:
    assert rate("x", [True] * 97 + [False] * 3, 0.97).met
    assert not rate("x", [True] * 96 + [False] * 4, 0.97).met
    assert rate("x", [True] * 3 + [False] * 97, 0.03, at_most=True).met
    assert not rate("x", [True] * 4 + [False] * 96, 0.03, at_most=True).met


def test_a_missed_goal_fails_nothing_but_is_told() -> None:
    gate = rate("x", [False, True], 0.9, goal=True)
    assert not gate.met
    assert not gate.failed
    assert "goal missed" in gate.line()
    assert rate("x", [False, True], 0.9).failed
    assert "FAILED" in rate("x", [False, True], 0.9).line()


def test_means_and_their_rows() -> None:
    gate = mean("autoencoder", [30.0, 32.0, 34.0, 32.0], 31, "dB", note="why")
    assert (gate.value, gate.n, gate.met) == (32, 4, True)
    assert gate.high - gate.value == pytest.approx(gate.value - gate.low) == pytest.approx(1.96 * (8 / 3) ** 0.5 / 2, rel=1e-4)
    assert all(part in gate.line() for part in ("autoencoder", "32.0 dB", "n 4", ">= 31.0", "ok", "(why)"))
    assert gate.as_dict()["met"] is True
    with pytest.raises(ValueError, match="two finite values"):
        mean("x", [1.0, float("nan")], 0, "")
