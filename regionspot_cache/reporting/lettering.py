"""Text from outside on pictures and pages: what cannot be seen is made visible, other scripts find a font."""

import re
from functools import cache

FONT = "DejaVu Sans"  # comes with matplotlib
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# Controls, halves of surrogate pairs from file names, and marks that would turn the text after them round.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with a replacement character for each that has no picture."""
    return _UNSEEN.sub(UNKNOWN, text)


def shortened(text: str, length: int) -> str:
    """One line of at most `length` characters, with dots where it was cut."""
    line = " ".join(visible(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def legible(text: str) -> tuple[str, list[str]]:
    """What can be drawn of a text, and the font families that have its letters.

    Letters that no font of this machine has become replacement characters.
    """
    from matplotlib.font_manager import findfont, fontManager

    families, missing = [FONT], {ord(character) for character in text} - _letters(findfont(FONT))
    for font in fontManager.ttflist if missing else ():
        plain = font.weight == 400 and font.style == font.variant == font.stretch == "normal"
        if plain and not font.name.startswith("Last Resort") and (found := missing & _letters(font.fname)):
            families.append(font.name)
            missing -= found
    return text.translate(dict.fromkeys(missing, UNKNOWN)), families


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # fonts of pictures alone, such as coloured emoji
        return frozenset()
