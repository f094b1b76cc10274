"""Learning rates of the paper's schedule and of the cosine option."""

import pytest

from regionspot_cache.errors import UsageError
from regionspot_cache.training.config import Stage


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 2.5e-7),
        (500, 2.5e-5 * 0.505),
        (1000, 2.5e-5),
        (349_999, 2.5e-5),
        (350_000, 2.5e-6),
        (420_000, 2.5e-7),
    ],
)
def test_paper_schedule(step: int, expected: float) -> None:
    assert Stage().rate(step) == pytest.approx(expected)


def test_cosine_falls_from_the_full_rate_to_zero() -> None:
    stage = Stage(schedule="cosine", steps=100, warmup_steps=0, learning_rate=1.0)
    rates = [stage.rate(step) for step in range(101)]
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert rates == sorted(rates, reverse=True)


def test_constant_stays() -> None:
    stage = Stage(schedule="constant", warmup_steps=2, learning_rate=1.0)
    assert [stage.rate(step) for step in (1, 2, 449_999)] == [pytest.approx(0.505), 1.0, 1.0]


def test_a_short_stage_warms_up_and_falls_within_its_steps() -> None:
    stage = Stage(steps=90)
    assert (stage.warmup, stage.drops) == (4, (70, 84))
    assert stage.rate(4) == stage.learning_rate
    assert (Stage().warmup, Stage().drops) == (1000, (350_000, 420_000))


@pytest.mark.parametrize("late", [{"warmup_steps": 1000}, {"milestones": (10, 100)}])
def test_a_schedule_that_outlasts_its_stage_is_refused(late: dict) -> None:
    with pytest.raises(UsageError, match=r"ends after 100 steps, before step 100"):
        Stage(steps=100, **late)
