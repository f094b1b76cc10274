"""Which GPU a process takes, when several processes of one machine share its GPUs.

Processes agree through kernel locks on files in the temporary folder, named by the device's UUID: the lock is
gone with its process, however it ends, and no process needs to know of another, of worker names, or of the
order in which CUDA_VISIBLE_DEVICES lists the devices to it.
"""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path

from regionspot_cache.errors import UsageError

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_HELD: list[int] = []  # descriptors of the locks that this process holds until it ends


def resolve_device(wanted: str) -> str:
    """ "auto" is the least used CUDA device of this machine, "cpu" where there is none.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    import torch

    visible = torch.cuda.device_count()
    if wanted == "auto":
        return f"cuda:{_own_device(visible)}" if visible else "cpu"
    try:
        device = torch.device(wanted)
        usable = (
            (device.index or 0) < visible if device.type == "cuda" else bool(torch.ones(1, device=device))
        )
    except Exception:  # of each kind of device another one
        usable = False
    if not usable:
        expected = f"auto, cpu, cuda or cuda:N; this machine has {visible or 'no'} CUDA devices."
        raise UsageError(f"There is no device {wanted!r} here.", expected, "--set device=auto")
    return wanted


@lru_cache(maxsize=1)
def _own_device(visible: int) -> int:
    """One device for the whole life of the process; its threads share it."""
    import torch

    names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(visible)]
    return claim(names, locks_folder())


def locks_folder() -> Path:
    """The folder of the locks of this user."""
    return Path(tempfile.gettempdir()) / f"regionspot-cache-devices-{os.getuid()}"


def claim(names: Sequence[str], folder: Path) -> int:
    """Index of the least used of some devices, taken until this process ends; of equal ones, the first.

    `names` are the same in every process of the machine; `folder` of the locks is made when it is not there.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for turn in count():  # the n-th process of a device holds its n-th lock
        for number, name in enumerate(names):
            fd = os.open(folder / f"{name}.{turn}", _LOCK_FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            _HELD.append(fd)
            return number
    raise AssertionError
