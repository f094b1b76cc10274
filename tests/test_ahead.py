"""Work ahead of whoever asks: in order, in batches, never far ahead."""

from threading import Event

import pytest

from regionspot_cache.ahead import BATCHES, batches_ahead


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_batches_come_in_the_order_of_the_items(count: int) -> None:
    found = list(batches_ahead(lambda i: -i, range(count), size=3, threads=4))
    assert [i for batch in found for i in batch] == [-i for i in range(count)]
    assert [len(batch) for batch in found[:-1]] == [3] * (len(found) - 1)


def test_no_more_than_the_promised_batches_are_ahead() -> None:
    begun = []
    batches = batches_ahead(lambda i: begun.append(i) or i, range(100), size=4, threads=2)
    next(batches)
    assert len(begun) <= (1 + BATCHES) * 4
    batches.close()
    assert len(begun) <= (1 + BATCHES) * 4


def test_what_nobody_waits_for_is_not_done() -> None:
    begun, gate = [], Event()

    def work(i: int) -> int:
        begun.append(i)
        if i == 1:
            raise ValueError("item 1")
        gate.wait(0.05)
        return i

    with pytest.raises(ValueError, match="item 1"):
        list(batches_ahead(work, range(100), size=8, threads=1))
    assert len(begun) <= 4
