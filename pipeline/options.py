"""How a field of settings is given on the command line: said once, beside the field itself."""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Complete = Callable[[], Iterable[str]]
"""The words that a value may be, for completion in the shell."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """Metadata of a field: `Annotated[int, Option(name="--workers", help="Local workers.")]`.

    Attributes:
        name: with dashes an option; a word in capitals an argument.
        help: one sentence; the default is added to it.
        metavar: what stands for the value; by the type when not given.
        complete: known values.
    """

    name: str
    help: str
    metavar: str | None = None
    complete: Complete | None = None

    @property
    def is_argument(self) -> bool:
        return not self.name.startswith("-")


@dataclass(frozen=True, kw_only=True)
class OptionField:
    """A field of a settings class that is an option.

    Attributes:
        key: the field's name, and so its key in configs and for --set.
        option: its metadata.
        kind: its type, without None.
        default: its own default; None where it has none, or a factory.
        required: it has neither.
    """

    key: str
    option: Option
    kind: Any
    default: Any
    required: bool

    @property
    def repeats(self) -> bool:
        """Whether the option may be given several times."""
        return get_origin(self.kind) is tuple

    @property
    def is_flag(self) -> bool:
        return self.kind is bool

    @property
    def metavar(self) -> str:
        """What stands for the value in a help text."""
        if self.option.metavar or self.option.is_argument:
            return self.option.metavar or self.option.name
        if get_origin(self.kind) is Literal:
            return "|".join(map(str, get_args(self.kind)))
        return "N" if self.kind is int else "PATH" if self.kind is Path else "TEXT"

    @property
    def choices(self) -> Complete | None:
        """Known values: those of the metadata, or those of a `Literal`."""
        if get_origin(self.kind) is Literal:
            return lambda: map(str, get_args(self.kind))
        return self.option.complete

    @property
    def help(self) -> str:
        """The help text with the default."""
        if self.default is None or self.default is False or self.default == ():
            return self.option.help
        default = ", ".join(map(str, self.default)) if self.repeats else self.default
        return f"{self.option.help} [default: {default}]"


def option_fields(cls: type) -> list[OptionField]:
    """The fields of a settings class that are options, in their order."""
    if not is_dataclass(cls):
        return []
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in fields(cls):
        kind, options = _split(hints[field.name])
        if options:
            required = field.default is MISSING and field.default_factory is MISSING
            default = None if field.default is MISSING else field.default
            found.append(
                OptionField(key=field.name, option=options[0], kind=kind, default=default, required=required)
            )
    return found


def _split(hint: Any) -> tuple[Any, list[Option]]:
    """A type without metadata and None, and the options among the metadata."""
    options: list[Option] = []
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        options = [one for one in metadata if isinstance(one, Option)]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if len(kinds) == 1 and type(None) in get_args(hint):
        hint, inner = _split(kinds[0])
        options += inner
    return hint, options
