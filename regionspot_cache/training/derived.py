"""Arrays that are computed from a sealed cache and can be computed again: one .npy file a partition."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot_cache.errors import DamageError
from regionspot_cache.files import locked_folder, read_json, replacing
from regionspot_cache.identity import require_same

IDENTITY_FILE = "identity.json"


def derived_root(url: str, elsewhere: Path) -> Path:
    """Where what is derived from a cache lies: beside it, or in `elsewhere` where that cannot be written.

    Args:
        url: folder or URL of the cache.
        elsewhere: folder of the user, for all caches that are remote or not the user's to write.
    """
    if "://" not in url and os.access(url, os.W_OK):
        return Path(url) / "derived"
    return elsewhere / hashlib.sha256(url.encode()).hexdigest()[:16]


class DerivedFolder:
    """Files of one identity, in a folder that is named after it; another identity has another folder.

    Args:
        root: `derived_root` of the cache.
        identity: JSON-able; all that decides the values beside the cache itself.

    Raises:
        IdentityError: the folder says that it is of something else; names the first difference.
        InputError: what it says is no JSON.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, indent=1)
        self.path = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / IDENTITY_FILE
        if not file.exists():
            with replacing(file) as staging:
                staging.write_text(text + "\n", encoding="utf-8")
        remedy = f"delete {self.path}; the next run makes it again"
        found = read_json(file, "the identity of what is derived", remedy)
        require_same(found, identity, what=str(self.path), wanted_by="this run", remedy=remedy)

    def partition(
        self,
        number: int,
        key: str,
        like: NDArray[Any],
        rows: int,
        make: Callable[[], NDArray[Any]],
    ) -> NDArray[Any]:
        """The rows of one partition: those of its file, opened as a memmap, else made and written.

        A file that cannot be read, as after a crash, is made again. Of several processes, such as those of
        torchrun, one makes it and the others wait.

        Args:
            number: of the partition.
            key: hex digits that differ where the partition has other contents.
            like: an array [0, *item] of the right dtype.
            rows: how many there are.
            make: computes them.
        """
        file = self.path / f"{number:06d}-{key[:16]}.npy"
        found = _opened(file, like, rows)
        if found is None:
            with locked_folder(self.path):
                found = _opened(file, like, rows)  # another process may have made it meanwhile
                if found is None:
                    buffer = io.BytesIO()  # numpy says of a full disk how many bytes are missing, not where
                    np.save(buffer, make())
                    with replacing(file) as staging:
                        staging.write_bytes(buffer.getvalue())
                    found = _opened(file, like, rows)
        if found is None:
            raise DamageError(f"{file} is not what was written there", "a disk that keeps what it is given")
        return found


class PartitionedRows:
    """The rows of all partitions, one after the other.

    Args:
        files: the arrays [rows, *item] of the partitions.
    """

    def __init__(self, files: Sequence[NDArray[Any]]) -> None:
        self._files = tuple(files)
        self._starts = np.cumsum([0, *(len(file) for file in self._files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copies [n, *item] of rows by number, in the order asked for."""
        found = np.empty((len(rows), *self._files[0].shape[1:]), self._files[0].dtype)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            here = numbers == number
            found[here] = self._files[number][rows[here] - self._starts[number]]
        return found


def _opened(file: Path, like: NDArray[Any], rows: int) -> NDArray[Any] | None:
    """A memmap of this dtype and shape, or None where there is no such file."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError):  # a torn header is text that does not parse
        return None
    good = found.dtype == like.dtype and found.shape == (rows, *like.shape[1:])
    return found if good else None
