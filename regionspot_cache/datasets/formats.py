"""What tells the COCO-style data sets apart, and what is known to be wrong with them."""

import re
from collections.abc import Mapping

from regionspot_cache.errors import InputError

# Ids 1 to 3 differ only in case; from 4 on they name different things (mmdet/datasets/objects365.py).
_O365 = {
    "o365v1": dict(enumerate(("person", "sneakers", "chair", "hat", "lamp", "bottle", "cabinet/shelf"), 1)),
    "o365v2": dict(enumerate(("Person", "Sneakers", "Chair", "Other Shoes", "Hat", "Car", "Lamp"), 1)),
}

# In the official Objects365 v2 annotations but not in its archives (mmdet/datasets/objects365.py).
O365_V2_ABSENT = (
    "patch16/objects365_v2_00908726.jpg",
    "patch6/objects365_v1_00320532.jpg",
    "patch6/objects365_v1_00320534.jpg",
)

_O365_SPELLING = {
    "Ballon": "Balloon",
    "Bakset": "Basket",
    "Billards": "Billiards",
    "Buttefly": "Butterfly",
    "Campel": "Camel",
    "Dinning": "Dining",
    "Extention": "Extension",
    "Hamimelon": "Hami melon",
    "Hotair ballon": "Hot air balloon",
    "Measur": "Measure",
    "Meat ball": "Meatball",
    "Moniter": "Monitor",
    "Mushroon": "Mushroom",
    "Noddles": "Noodles",
    "Tea pot": "Teapot",
    "Teniis": "Tennis",
}
_MISSPELT = re.compile(r"\b(" + "|".join(sorted(_O365_SPELLING, key=len, reverse=True)) + r")\b")


def o365_version(names: Mapping[int, str]) -> str | None:
    """ "o365v1", "o365v2", or None for other class lists, judged by the names of ids 1 to 7."""
    present = {number: names[number] for number in range(1, 8) if number in names}
    for version, expected in _O365.items():
        if len(present) >= 4 and all(name == expected[number] for number, name in present.items()):
            return version
    return None


def require_o365(found: str, wanted: str, names: Mapping[int, str], file: object) -> None:
    """Refuses a file whose class list is not that of the wanted Objects365 release.

    Args:
        found: format of the file.
        wanted: "o365v1", "o365v2", or "o365" for either.
        names: class id -> name.
        file: named in the error.

    Raises:
        InputError: neither release, a mixture of both, or the other one.
    """
    if found in _O365 and wanted in ("o365", found):
        return
    beginning = ", ".join(f"{number} {names[number]}" for number in sorted(names)[:7])
    lists = "; ".join(
        f"{version}: " + ", ".join(f"{number} {name}" for number, name in expected.items())
        for version, expected in _O365.items()
        if wanted in ("o365", version)
    )
    raise InputError(
        f"{file} does not have the classes of {wanted}: it begins {beginning}.",
        f"The class ids of one Objects365 release. {lists}.",
        "Name the release that the file is from (o365v1, o365v2), or give it as --dataset FILE.json.",
    )


def correct_o365_spelling(name: str) -> str:
    """An Objects365 v2 class name without its known misspellings (after Detic's Objects365_names_fix.csv)."""
    return _MISSPELT.sub(lambda match: _O365_SPELLING[match.group()], name)
