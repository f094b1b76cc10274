"""The two releases of Objects365: what tells them apart, and what is known to be wrong with them."""

import re
from collections.abc import Mapping
from pathlib import Path

from regionspot_cache.errors import InputError
from regionspot_cache.yaml_text import read_yaml

_FACTS = read_yaml(Path(__file__).with_name("objects365.yaml"))
_CLASSES: dict[str, dict[int, str]] = {
    version: dict(enumerate(names, 1)) for version, names in _FACTS["classes"].items()
}
V2_ABSENT = tuple(_FACTS["v2_absent"])
_SPELLING: dict[str, str] = _FACTS["v2_spelling"]
_MISSPELT = re.compile(r"\b(" + "|".join(sorted(_SPELLING, key=len, reverse=True)) + r")\b")


def o365_version(names: Mapping[int, str]) -> str | None:
    """ "o365v1", "o365v2", or None for other class lists, judged by the names of ids 1 to 7."""
    present = {number: names[number] for number in range(1, 8) if number in names}
    for version, expected in _CLASSES.items():
        if len(present) >= 4 and all(name == expected[number] for number, name in present.items()):
            return version
    return None


def require_o365(found: str, wanted: str, names: Mapping[int, str], file: object) -> None:
    """Refuses a `file` whose class list is not that of the wanted Objects365 release.

    `found` is its format, `wanted` "o365v1", "o365v2", or "o365" for either; `names` are by class id.
    """
    if found in _CLASSES and wanted in ("o365", found):
        return
    beginning = ", ".join(f"{number} {names[number]}" for number in sorted(names)[:7])
    lists = "; ".join(
        f"{version}: " + ", ".join(f"{number} {name}" for number, name in expected.items())
        for version, expected in _CLASSES.items()
        if wanted in ("o365", version)
    )
    raise InputError(
        f"{file} does not have the classes of {wanted}: it begins {beginning}.",
        f"The class ids of one Objects365 release. {lists}.",
        "Name the release that the file is from (o365v1, o365v2), or give it as --dataset FILE.json.",
    )


def correct_o365_spelling(name: str) -> str:
    """A class name of v2 without its known misspellings."""
    return _MISSPELT.sub(lambda match: _SPELLING[match.group()], name)
