"""Settings from a YAML file and `a.b=c` overrides into a frozen dataclass, checked field by field."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from regionspot_cache.errors import MissingFileError, RegionSpotError, UsageError

T = TypeVar("T")


def load_config(cls: type[T], file: Path | None = None, overrides: Sequence[str] = (), **given: Any) -> T:
    """Builds `cls` from its defaults, a YAML file, `given` values and overrides; the later wins.

    Args:
        cls: a dataclass; nested dataclasses are nested mappings in the file.
        file: YAML mapping, read with `yaml.safe_load`.
        overrides: texts such as `training.seed=3`; the value is YAML.
        given: values of command-line options; None means "not given".

    Raises:
        MissingFileError: `file` does not exist.
        UsageError: unknown key, wrong type or a text that is not `key=value`.
    """
    values = read_yaml(file) if file else {}
    for name, value in given.items():
        if value is not None:
            values[name] = value
    for text in overrides:
        _set(values, text)
    _refuse_unknown(cls, values, file or "the command line")
    return validate(cls, values, str(file or "the command line"))


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping."""
    if not file.is_file():
        raise MissingFileError(f"No config file at {file}.", "A YAML file.", "ls configs/")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}.", "A YAML mapping.") from None
    if not isinstance(values or {}, dict):
        raise UsageError(f"{file} holds a {type(values).__name__}.", "A YAML mapping: `key: value` lines.")
    return values or {}


def validate(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """`values` as a `cls`; types are checked and converted, messages name the field."""
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), RegionSpotError):
            raise own from None  # of a dataclass that checks its values itself
        where = ".".join(str(part) for part in first["loc"])
        found = f"{where} = {first['input']!r} in {source}: {first['msg']}."
        raise UsageError(found, f"A valid value for {where}.", "rs-cache VERB --help") from None


def _set(values: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {text!r} is not KEY=VALUE.", "For example --set training.seed=3.")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {text!r}: {parent} is a value.", "A key below a mapping.")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text!r}: the value is not YAML.", "For example --set seed=3.") from None


def _refuse_unknown(cls: Any, values: Mapping[str, Any], source: Any, prefix: str = "") -> None:
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known keys: {', '.join(known)}."
            raise UsageError(f"Unknown key {prefix}{key} in {source}.", hint)
        nested = next((t for t in (hints[key], *get_args(hints[key])) if is_dataclass(t)), None)
        if nested and isinstance(value, Mapping):
            _refuse_unknown(nested, value, source, f"{prefix}{key}.")
