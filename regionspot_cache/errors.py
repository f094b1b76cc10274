"""One family of errors: what was found, what was expected, and the next command.

Only the command line turns these into text and an exit code; the library raises them.
"""

import difflib
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

_LONGEST = 2000  # characters of one part of a message


def printable(text: str) -> str:
    """`visible` text, because names come from files; without its middle where it is very long."""
    return _shortened(visible(_shortened(text)))


def visible(text: str) -> str:
    """`text` with everything escaped that a terminal would obey, not show; lines, tabs and spaces stay."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def near(word: object, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """ "Did you mean X? " for a misspelt word, else nothing; X is the known word as it is `shown`."""
    found = difflib.get_close_matches(str(word)[:100], list(known), n=1)
    return f"Did you mean {shown(found[0])}? " if found else ""


def one_of(word: object, known: Iterable[str]) -> str:
    """What was expected in place of a word that is none of the known ones."""
    names = list(known)
    return f"{near(word, names)}One of {', '.join(names)}."


def near_path(path: str | Path) -> str:
    """`near` for a file or folder that is not there: one beside it that is spelt alike."""
    path = Path(path)
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    except (OSError, ValueError):
        return ""
    return near(path.name, beside, lambda name: str(path.with_name(name)))


class RegionSpotError(Exception):
    """Base of every error that a user can cause or repair. Its parts are `printable`.

    Args:
        found: what is wrong, naming the file, key or value.
        expected: what would have been right.
        remedy: the next command or action, in one line.
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        parts = self.found, self.expected, self.remedy = tuple(map(printable, (found, expected, remedy)))
        super().__init__("\n".join(filter(None, parts)))

    def __reduce__(self) -> tuple:
        # Exceptions travel between Dask workers; keep the three parts apart.
        return type(self), (self.found, self.expected, self.remedy)


class InputError(RegionSpotError, ValueError):
    """A value, file or annotation given by the user cannot be used."""


class MissingFileError(RegionSpotError, FileNotFoundError):
    """A file or folder that is needed does not exist."""

    __str__ = Exception.__str__


class UsageError(InputError):
    """The command line or a config does not make sense."""

    exit_code = 2


class IncompleteError(RegionSpotError):
    """The work is not finished; running the same command again continues it."""

    exit_code = 3


class IdentityError(RegionSpotError):
    """A cache or checkpoint was made with something else than what is asked for."""

    exit_code = 4


class DamageError(RegionSpotError):
    """Stored data does not match its checksum, or a committed part is gone."""

    exit_code = 4
