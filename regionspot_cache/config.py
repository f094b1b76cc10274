"""Settings from a YAML file, `a.b=c` overrides and options into a frozen dataclass, checked at any depth.

The later wins: defaults, the file, the overrides, the options. A message names the one it speaks of.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from regionspot_cache.errors import RegionSpotError, UsageError, near, one_of
from regionspot_cache.yaml_text import NotYamlError, parse_yaml, read_yaml

T = TypeVar("T")
Place = tuple[str | int, ...]
"""Where a value lies in the settings: keys, and positions in lists."""

_MAX_SHOWN = 200  # characters of a value in a message


def load_config(
    cls: type[T],
    file: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    spelled: Mapping[str, str] | None = None,
    **given: Any,
) -> T:
    """Builds `cls` from its defaults, a YAML file, overrides and `given` values; the later wins.

    Args:
        cls: a dataclass; nested dataclasses are nested mappings in the file.
        file: YAML mapping of plain values.
        overrides: texts such as `training.seed=3`; the value is YAML. A number is a place in a list.
        defaults: from all that is said to values that count where nothing is.
        spelled: how the given values stand on the command line, for messages: `{"limit": "--limit many"}`.
        given: values of command-line options; None means "not given".

    Raises:
        MissingFileError: `file` does not exist.
        UsageError: unknown key, wrong type or a text that is not `key=value`.
    """
    options = {name: value for name, value in given.items() if value is not None}
    sources: dict[Place, str] = {}

    def merged(base: Mapping[str, Any]) -> dict[str, Any]:
        values = {**base, **(read_yaml(file) if file else {})}
        for text in overrides:
            place = _set(values, text)
            for known in [known for known in sources if known[: len(place)] == place]:
                del sources[known]
            sources[place] = f"--set {shown_text(text)}"
        for name in options:
            sources[name,] = (spelled or {}).get(name, f"the option {name}")
        return values | options

    values = merged({})
    if defaults and (base := defaults(values)):
        values = merged(base)
    return validate(cls, values, str(file or "the defaults"), sources)


def validate(
    cls: type[T], values: Mapping[str, Any], source: str, sources: Mapping[Place, str] | None = None
) -> T:
    """`values` as the dataclass `cls`; types are checked and converted, unknown keys refused at any depth.

    Raises UsageError, which names the key, its value and its `source` (or that of its place, of `sources`),
    or what the dataclasses raise themselves.
    """
    try:
        return _adapter(cls).validate_python((dict(values),))[0]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if isinstance(own := first.get("ctx", {}).get("error"), RegionSpotError):
            raise own from None  # of a dataclass that checks its values itself
        place = tuple(first["loc"][1:])
        raise _explained(cls, first, place, _source(place, source, sources or {})) from None


@lru_cache
def _adapter(cls: type[T]) -> TypeAdapter[tuple[T]]:
    # Around a dataclass, because a configuration of one itself would not reach those nested in it.
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid"))


def _source(place: Place, source: str, sources: Mapping[Place, str]) -> str:
    """Of the value at `place`: the most special of those that set it, what is around it or what is in it."""
    around = [known for known in sources if place[: len(known)] == known]
    within = [known for known in sources if known[: len(place)] == place] if place else []
    return sources[max(around or within, key=len)] if around or within else source


def _explained(cls: type, error: Any, place: Place, source: str) -> UsageError:
    """The first error of pydantic in our words."""
    if not place:  # keys that are no Unicode have none
        return UsageError(
            f"{source} or --set: {error['msg']}.", "Keys that are text.", "rs-cache VERB --help"
        )
    names = [shown_text(str(part)) for part in place]
    where, around = ".".join(names), _type_at(cls, place[:-1])
    known = [field.name for field in fields(around)] if is_dataclass(around) else []
    if known and place[-1] not in known:
        hint = near(place[-1], known, lambda key: ".".join([*names[:-1], key]))
        hint = hint or (near_key(cls, where) if len(place) == 1 else "")
        expected = hint.strip() or f"Known keys: {', '.join(known)}."
        return UsageError(f"Unknown key {where} in {source}.", expected)
    if error["type"] == "missing":
        return UsageError(f"{where} is not given.", f"A value for {where}.")
    expected = f"A valid value for {where}."
    if get_origin(kind := _type_at(cls, place)) is Literal:
        expected = one_of(error["input"], map(str, get_args(kind)))
    return UsageError(
        f"{where} = {shown(error['input'])} in {source}: {error['msg']}.", expected, "rs-cache VERB --help"
    )


def keys_of(cls: Any, prefix: str = "") -> Iterator[str]:
    """Keys of a dataclass at any depth, as an override takes them: `training.seed`."""
    hints = get_type_hints(cls)
    for one in fields(cls):
        if is_dataclass(inner := _plain(hints[one.name])):
            yield from keys_of(inner, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}"


def near_key(cls: Any, word: str, shown: Callable[[str], str] = str) -> str:
    """`near` for the last part of a key, wherever in `cls` it stands."""
    homes = {key.rpartition(".")[2]: key for key in reversed(list(keys_of(cls)))}
    return near(word, homes, lambda last: shown(homes[last]))


def _type_at(kind: Any, place: Place) -> Any:
    """The type that stands at a place within `kind`; None where that is not one type."""
    kind = _plain(kind)
    if not place:
        return kind
    first, *rest = place
    if is_dataclass(kind):
        inner = get_type_hints(kind).get(str(first))
    else:
        inner = next(iter(get_args(kind)[get_origin(kind) is dict :]), None)
    return _type_at(inner, tuple(rest)) if inner is not None else None


def _plain(kind: Any) -> Any:
    """The type without `| None`."""
    kinds = [k for k in get_args(kind) if k is not type(None)] if type(None) in get_args(kind) else []
    return kinds[0] if len(kinds) == 1 else kind


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    try:
        return shown_text(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, endless nesting
        return f"a {type(value).__name__}"


def shown_text(text: str) -> str:
    """A text for a message, without its middle when it is long."""
    part = _MAX_SHOWN // 2
    return text if len(text) <= _MAX_SHOWN else f"{text[:part]} ... {text[-part:]}"


def _set(values: dict[str, Any], text: str) -> Place:
    """Applies one override and returns its place."""
    key, separator, value = text.partition("=")
    said = f"--set {shown(text)}"
    if not separator or not key.strip():
        raise UsageError(f"{said} is not KEY=VALUE.", "For example --set training.seed=3.")
    try:
        new = parse_yaml(value)
    except NotYamlError as error:
        found = f"{said}: the value is not YAML: {error}."
        raise UsageError(found, "For example --set seed=3.") from None
    within: Any = values
    *parents, last = (part.strip() for part in key.split("."))
    place: list[Any] = []
    for parent in parents:
        index = _index(within, parent, said)
        if isinstance(within, dict) and within.get(index) is None:
            within[index] = {}
        within = within[index]
        place.append(index)
        if not isinstance(within, dict | list):
            raise UsageError(f"{said}: {parent} is a value.", "A key below a mapping.")
    index = _index(within, last, said)
    within[index] = new
    return (*place, index)


def _index(within: Any, key: str, said: str) -> Any:
    """The key as it is, or as a position in a list."""
    if not isinstance(within, list):
        return key
    if not (key.isdecimal() and len(key) < 10 and int(key) < len(within)):
        raise UsageError(
            f"{said}: no place {shown_text(key)} in a list of {len(within)}.", "0 for the first."
        )
    return int(key)
