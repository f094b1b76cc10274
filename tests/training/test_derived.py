"""What is derived from a cache, when several processes derive it."""

import threading
from pathlib import Path

import numpy as np

from regionspot_cache.training.derived import DerivedFolder


def test_of_several_who_ask_one_derives(tmp_path: Path) -> None:
    made, like = [], np.empty((0, 2), np.float32)
    all_asked = threading.Barrier(3)

    def make() -> np.ndarray:
        made.append(threading.get_ident())
        return np.ones((4, 2), np.float32)

    def ask() -> None:
        folder = DerivedFolder(tmp_path, {"kind": "ones"})
        all_asked.wait(10)
        assert folder.partition(0, "abc", like, 4, make).sum() == 8

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
