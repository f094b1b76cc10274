"""`rs-cache plan`: what a schedule takes follows from the rates by the formula that it prints."""

import pytest

from tests.running import rs_cache

SMALL = ("--set", "images=1000", "--set", "steps=50", "--set", "classes=20", "--set", "repeats=1")


def test_hours_follow_from_the_rates() -> None:
    ran = rs_cache("plan", "paper", "--backbone", "tiny", "--price", "3", "--json", *SMALL)
    assert ran.code == 0, ran.err
    [row] = ran.json["rows"]
    seconds, step = row["seconds_per_image"], row["seconds_per_step"]
    assert set(seconds) == {"sam", "clip"}
    assert min(*seconds.values(), step) > 0
    extraction, training = 1000 * sum(seconds.values()) / 3600, 50 * step / 3600
    assert row["extraction_hours"] == pytest.approx(extraction)
    assert row["hours"] == pytest.approx(extraction + training)
    live = 1000 * seconds["sam"] / 3600 + training + 50 * 16 * seconds["clip"] / 3600
    assert row["live_hours"] == pytest.approx(live)
    assert row["live_over_cached"] == pytest.approx(live / (extraction + training))
    assert row["money"] == pytest.approx(3 * row["hours"])
    maps = 257 * 192 + 2 * 257  # int8 with a float16 scale a token
    assert row["bytes"] == 1000 * (maps + 10 * (128 + 2))
    assert row["break_even_bytes_per_second"] == pytest.approx(maps / seconds["clip"])


def test_it_is_said_in_words() -> None:
    ran = rs_cache("plan", "--backbone", "tiny", *SMALL)
    assert ran.code == 0, ran.err
    assert "hours = images x seconds an image" in ran.out
    assert "cheaper" in ran.out


def test_what_cannot_be_projected_is_said() -> None:
    assert rs_cache("plan", "--backbone", "tny").error["error"].startswith("No backbone preset 'tny'")
    assert rs_cache("plan", "--set", "images=0").code == 2
    assert rs_cache("plan", "another").code == 2
