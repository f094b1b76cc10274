"""YAML of plain values: mappings, lists, texts, numbers. What else YAML knows is refused.

No aliases, whose expansion has no bound; no tags; no key twice, of which one would be lost; no number beyond
64 bits; no part a character. A date is a text, as it may be the name of a folder.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent

from regionspot_cache.errors import MissingFileError, UsageError

_TIMESTAMP, _MERGE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"
_EXPECTED = "A YAML mapping: `key: value` lines."


class NotYamlError(ValueError):
    """A text is not YAML of plain values; the message is one line."""


def _refused(problem: str, at: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """The safe loader without what makes one text mean two things."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (so PyYAML has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_TIMESTAMP, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, AliasEvent) or getattr(event, "tag", None) is not None:
            raise _refused("aliases (*name) and tags (!name) are not read", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        values = super().construct_mapping(node, deep=deep)
        if len(values) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise _refused(f"the key {twice!r:.80} stands twice", node)
        return values

    def construct_scalar(self, node: Any) -> str:
        value = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _refused("part a character (a lone surrogate)", node)
        return value

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > 64:
            raise _refused("a number beyond 64 bits", node)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises NotYamlError for anything but plain values."""
    loader = None
    try:
        loader = _Loader(text)  # of which the first characters are read at once
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise NotYamlError(" ".join(str(error).split())[:300]) from None
    except RecursionError:
        raise NotYamlError("nested too deeply") from None
    except ValueError as error:  # numbers such as `0x_` or of thousands of digits
        raise NotYamlError(str(error)) from None
    finally:
        if loader:
            loader.dispose()


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping. Raises MissingFileError, or UsageError for what is none."""
    if not file.is_file():
        raise MissingFileError(f"No config file at {file}.", "A YAML file.", "rs-cache VERB --help")
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (NotYamlError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}.", _EXPECTED) from None
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"{file} holds a {type(values).__name__}.", _EXPECTED)
    return values or {}
