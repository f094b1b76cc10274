"""Class names to unit text embeddings: prompt templates, cleaning, averaging, and a cache on disk."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from regionspot_cache.errors import InputError, UsageError, one_of
from regionspot_cache.files import open_file, read_text, replacing

if TYPE_CHECKING:  # it imports torch
    from regionspot_cache.backbones.encoder import TextEncoder

T = TypeVar("T")

PROMPTS_AT_ONCE = 4096
_VILD = Path(__file__).parents[1] / "assets" / "vild63.txt"


def _of_open_clip(name: str) -> tuple[str, ...]:
    import open_clip  # imports torch, which checking a name does not need

    return tuple(template("{}") for template in getattr(open_clip, name))


# Sets of prompt templates with {} for the name and {article} for "a" or "an".
TEMPLATES: dict[str, Callable[[], tuple[str, ...]]] = {
    # The official RegionSpot code: CLIP's 80 ImageNet templates and the bare name with a full stop.
    "clip80+name": lambda: (*TEMPLATES["clip80"](), "{}."),
    "clip80": lambda: _of_open_clip("OPENAI_IMAGENET_TEMPLATES"),
    # The seven that CLIP's authors found best for ImageNet, by forward selection.
    "clip7": lambda: _of_open_clip("SIMPLE_IMAGENET_TEMPLATES"),
    # The RegionSpot paper, section 3.
    "scene": lambda: ("a photo of {} in the scene",),
    "single": lambda: ("a photo of a {}.",),
    # Of ViLD's demo (tensorflow/tpu, ViLD_demo.ipynb), made for its own cleaning of names ("vild") and mean
    # of normalised embeddings ("unit-mean").
    "vild63": lambda: tuple(read_text(_VILD, "A complete installation.", "make setup").splitlines()),
    "name": lambda: ("{}.",),
}


def raw(name: str) -> str:
    """The name as the annotation file has it; the official RegionSpot code does the same."""
    return name


def clean(name: str) -> str:
    """Words only: `bow_(weapon)` to `bow weapon`, `cabinet/shelf` to `cabinet or shelf`; spaces collapsed."""
    spaced = re.sub(r"[_()]", " ", name).replace("/", " or ")
    return " ".join(spaced.split())


def vild(name: str) -> str:
    """As ViLD's demo does: `Cabinet/Shelf` to `cabinet or shelf`, `bow_(weapon)` to `bow (weapon)`."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


CLEANING: dict[str, Callable[[str], str]] = {"raw": raw, "clean": clean, "vild": vild}


def read_class_names(path: Path) -> list[str]:
    """Class names from a text file with one a line; empty lines and white space around names do not count.

    Raises as `read_text`; InputError also for a file that names nothing.
    """
    lines = read_text(path, "Class names, one a line.").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"{path} names nothing.", "Class names, one a line.")
    return names


def listed_names(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Class names as people type them: one text with commas or line ends between, or a list.

    InputError: names nothing.
    """
    names = classes.replace("\n", ",").split(",") if isinstance(classes, str) else classes
    example = 'Names such as "car, bus" or ["car", "bus"].'
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"classes {str(classes)[:200]!r}", example)
    found = tuple(name.strip() for name in names)
    if isinstance(classes, str):  # a comma too many names nothing
        found = tuple(filter(None, found))
    if not all(found) or not found:
        raise InputError(f"classes {str(classes)[:200]!r}: a name is missing", example)
    return found


def unique_classes(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Equal names merged, as V3Det has them: by first appearance, and which each became, int64 [N]."""
    position: dict[str, int] = {}
    index = [position.setdefault(name, len(position)) for name in names]
    return list(position), np.array(index, dtype=np.int64)


def prompts(name: str, templates: str | Sequence[str] = "clip80+name", cleaning: str = "raw") -> list[str]:
    """The texts that stand for one class; {article} in a template becomes "an" before a vowel, else "a"."""
    cleaned = _rule(cleaning)(name)
    article = "an" if cleaned.lower().startswith(tuple("aeiou")) else "a"
    return [
        template.replace("{article}", article).replace("{}", cleaned) for template in template_set(templates)
    ]


def check_prompts(templates: str, cleaning: str) -> None:
    """Raises UsageError where there are no such templates or no such rule; needs no network."""
    _rule(cleaning)
    _chosen(TEMPLATES, templates, "prompt templates")


def template_set(templates: str | Sequence[str]) -> tuple[str, ...]:
    """A named set, or own templates. Raises UsageError: unknown, none, or one without exactly one `{}`."""
    if isinstance(templates, str):
        return _chosen(TEMPLATES, templates, "prompt templates")()
    chosen = tuple(templates)
    for template in chosen:
        if template.count("{}") != 1:
            raise UsageError(f"The prompt template {template!r} has no place for the name.", "One {} in it.")
    if not chosen:
        raise UsageError("No prompt templates.", "At least one, such as 'a photo of a {}.'.")
    return chosen


def text_embeddings(
    clip: "TextEncoder",
    class_names: Sequence[str],
    templates: str | Sequence[str] = "clip80+name",
    cleaning: str = "raw",
    average: str = "raw-mean",
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """One unit vector per class.

    Args:
        clip: encodes the prompts.
        class_names: C names; equal ones get equal rows.
        templates: a name of `TEMPLATES` or own texts with one `{}` each, and `{article}` where wanted.
        cleaning: a name of `CLEANING`.
        average: "raw-mean" is the mean of un-normalised embeddings (official RegionSpot), "unit-mean" that of
            normalised ones (open_clip's and ViLD's zero-shot classifiers); both are normalised afterwards.
        cache_dir: keeps results here; None computes every time.
        progress: called with (classes done, classes in all).

    Returns:
        float32 [C,E], rows of length 1.

    Raises:
        InputError: no class, or an empty name.
        UsageError: unknown templates, cleaning or average.
    """
    names, index = unique_classes(class_names)
    _check_names(names, cleaning)
    if average not in ("raw-mean", "unit-mean"):
        raise UsageError(f"No average {average!r}.", "raw-mean or unit-mean.")
    texts = template_set(templates)
    if cache_dir is None:
        return _embed(clip, names, texts, cleaning, average, progress)[index]
    identity = json.dumps([clip.text_fingerprint(), list(texts), cleaning, average, names], sort_keys=True)
    path = Path(cache_dir) / f"text-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    cached = _read(path, len(names))
    if cached is None:
        cached = _embed(clip, names, texts, cleaning, average, progress)
        _write(path, cached)
    return cached[index]


def _embed(
    clip: "TextEncoder",
    names: Sequence[str],
    texts: Sequence[str],
    cleaning: str,
    average: str,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    rows = []
    step = max(1, PROMPTS_AT_ONCE // len(texts))
    for start in range(0, len(names), step):
        part = [p for name in names[start : start + step] for p in prompts(name, texts, cleaning)]
        embedded = np.asarray(clip.encode_text(part).cpu(), dtype=np.float32)
        if average == "unit-mean":
            embedded = _unit(embedded)
        rows.append(_unit(embedded.reshape(-1, len(texts), embedded.shape[1]).mean(axis=1)))
        if progress:
            progress(min(start + step, len(names)), len(names))
    return np.concatenate(rows)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _rule(cleaning: str) -> Callable[[str], str]:
    return _chosen(CLEANING, cleaning, "cleaning rule")


def _chosen(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise UsageError(f"No {what} {name!r}.", one_of(name, known))
    return known[name]


def _check_names(names: Sequence[str], cleaning: str) -> None:
    if not names:
        raise InputError("No class names.", "At least one name.")
    rule = _rule(cleaning)
    for position, name in enumerate(names):
        if not rule(name).strip():
            raise InputError(f"Class {position} has no name ({name!r}).", "A text for every class.")


def _read(path: Path, rows: int) -> np.ndarray | None:
    """The cached embeddings, or None where they are missing or unreadable; those are computed again."""
    try:
        with open_file(path, "") as file:
            cached = np.load(file, allow_pickle=False)
        good = cached.dtype == np.float32 and cached.shape[:-1] == (rows,) and np.isfinite(cached).all()
    except Exception:  # a broken header makes nearly anything of numpy
        return None
    return cached if good else None


def _write(path: Path, embeddings: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # numpy says of a full disk how many bytes are missing, but not where
    np.save(buffer, embeddings)
    with replacing(path) as staging:
        staging.write_bytes(buffer.getvalue())
