"""The options of the verbs, each declared at its field of the settings; the command line follows from them.

The command line beats `--set`, which beats the config, which beats the default.
"""

import inspect
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.places import find_config, shipped_names
from regionspot_cache.config import keys_of, load_config, near_key
from regionspot_cache.errors import UsageError, near, one_of

Defaults = Callable[[Mapping[str, Any], Path | None], Mapping[str, Any]]
"""All that is said, and the config, to values that count where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a field of settings is given on the command line."""

    name: str
    """With dashes an option; a word in capitals an argument."""
    text: str
    """Its help, one sentence; the default is added to it."""
    metavar: str | None
    """What stands for the value; by the type when not given."""
    complete: Callable[[], Iterable[str]] | None
    """The words that a value may be, for completion in the shell."""
    key: str = ""
    """The field's name, and so its key in configs and for --set."""
    kind: Any = str
    """The field's type, without None."""
    default: Any = None
    required: bool = False

    @property
    def is_argument(self) -> bool:
        return not self.name.startswith("-")

    @property
    def is_flag(self) -> bool:
        return self.kind is bool

    @property
    def repeats(self) -> bool:
        """Whether it may be given several times."""
        return get_origin(self.kind) is tuple

    @property
    def help(self) -> str:
        """The help text with the default."""
        if self.default is None or self.default is False or self.default == ():
            return self.text
        default = ", ".join(map(str, self.default)) if self.repeats else self.default
        return f"{self.text} [default: {default}]"


def option(
    default: Any,
    name: str,
    text: str,
    metavar: str | None = None,
    complete: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A field of a settings class that is an `Option`; a default of `...` means that it must be given."""
    found = Option(name=name, text=text, metavar=metavar, complete=complete)
    return field(default=MISSING if default is ... else default, metadata={"option": found})


def shared(*how: Any) -> Callable[[Any], Any]:
    """Makes the `option` of its default, for several settings classes."""
    return lambda default: option(default, *how)


def options_of(settings: type) -> list[Option]:
    """The fields of a settings class that are options, in their order."""
    kinds = {name: _plain(hint) for name, hint in get_type_hints(settings).items()}
    return [_completed(f.metadata["option"], f, kinds[f.name]) for f in fields(settings) if f.metadata]


def _completed(found: Option, declared: Any, kind: Any) -> Option:
    """An option with what its field says beside the metadata."""
    metavar, complete = found.metavar or (found.name if found.is_argument else None), found.complete
    if get_origin(kind) is Literal:
        words = tuple(map(str, get_args(kind)))
        metavar, complete = metavar or "|".join(words), complete or (lambda: words)
    return replace(
        found,
        metavar=metavar or {int: "N", Path: "PATH"}.get(kind, "TEXT"),
        complete=complete,
        key=declared.name,
        kind=kind,
        default=None if declared.default is MISSING else declared.default,
        required=declared.default is MISSING,
    )


def _plain(hint: Any) -> Any:
    """A type without `| None`."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 and NoneType in get_args(hint) else hint


class Verbs(TyperGroup):
    """The group of the verbs, whose help fits the terminal."""

    def get_help(self, ctx: Any) -> str:
        _fit(ctx)
        return super().get_help(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            found = f"There is no verb {args[0]!r}."
            raise UsageError(found, one_of(args[0], self.commands), "rs-cache --help")
        return super().resolve_command(ctx, args)


class VerbCommand(TyperCommand):
    """A command whose help shows arguments by their names; Typer takes all of them for optional texts."""

    def get_help(self, ctx: Any) -> str:
        _fit(ctx)
        text = super().get_help(ctx)
        settings = getattr(self.callback, "settings", None)
        for one in options_of(settings) if settings else ():
            if one.is_argument:
                text = re.sub(rf"{one.name} <[^>]*>", one.name, text)
                if one.required:
                    text = text.replace(f"[{one.name}]", one.name, 1)
        return text


def near_option(command: Any, name: str) -> str:
    """What an option that a verb does not have may have been: another one, or a setting without an option."""
    own = [word for one in command.params for word in (*one.opts, *one.secondary_opts)]
    settings, key = getattr(command.callback, "settings", None), name.lstrip("-").replace("-", "_")
    found = near_key(settings, key, lambda place: f"--set {place}=VALUE") if settings else ""
    exact = any(f"{part}=" in found for part in (f" {key}", f".{key}"))
    return ((exact and found) or near(name, own) or found).strip()


def _fit(context: Any) -> None:
    """Lines as long as the terminal's: Typer's own have at least 50 characters."""
    context.terminal_width = min(max(shutil.get_terminal_size().columns, 20), 82) - 2


def add(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Makes a function that `verb` made a command of the app."""
    first = re.split(r"(?<=\.)\s", (command.__doc__ or "").strip())[0]
    app.command(name=name, cls=VerbCommand, short_help=first)(command)


def verb(
    settings: type, *, defaults: Defaults | None = None
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes a Typer command of a function of settings; one that takes `as_json` gets --json.

    Args:
        settings: a dataclass; its fields that are an `option` are the options of the command.
        defaults: see `Defaults`; may also refuse what is said.
    """
    options = options_of(settings)

    def decorate(run: Callable[..., Any]) -> Callable[..., None]:
        reports = "as_json" in inspect.signature(run).parameters

        def command(**given: Any) -> None:
            flags = {"as_json": bool(given.pop("as_json", False))} if reports else {}
            run(load(settings, options, given, defaults), **flags)

        command.__doc__ = run.__doc__
        command.__name__ = run.__name__
        parameters = [*map(_parameter, options), *_common(settings, bool(options), reports)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.settings, command.defaults = settings, defaults  # type: ignore[attr-defined]
        return command

    return decorate


def load(
    settings: type, options: Sequence[Option], given: Mapping[str, Any], defaults: Defaults | None
) -> Any:
    """Settings from a config, --set and what was given. Raises UsageError: given twice, or not valid."""
    named = _once("--config", given.get("config") or [])
    config = find_config(Path(named)) if named else None
    values, spelled = {}, {}
    for one in options:
        value = given.get(one.key)
        if value is None or value == []:
            continue
        spelled[one.key] = _spelled(one, value)
        if isinstance(value, list) and not one.repeats:
            value = _once(one.name, value)
        values[one.key] = value
    return load_config(
        settings,
        config,
        given.get("set_") or (),
        defaults=(lambda said: defaults(said, config)) if defaults else None,
        spelled=spelled,
        **values,
    )


def _once(name: str, values: Sequence[str]) -> str | None:
    if len(values) > 1:
        raise UsageError(f"{name} is given {len(values)} times: {', '.join(values)}.", f"One {name}.")
    return values[0] if values else None


def _spelled(one: Option, value: Any) -> str:
    if isinstance(value, list | str):
        texts = [value] if isinstance(value, str) else value
        return " ".join(texts if one.is_argument else [f"{one.name} {text}" for text in texts])
    return one.name if value else one.name.replace("--", "--no-", 1)


def _parameter(one: Option) -> inspect.Parameter:
    """A parameter of Typer's; None is "not given", and the text is converted with all other settings."""
    shown: dict[str, Any] = {"help": one.help, "show_default": False}
    if one.is_flag:
        info = typer.Option(f"{one.name}/{one.name.replace('--', '--no-', 1)}", **shown)
        return _named(one.key, bool, info)
    shown["metavar"] = one.metavar
    if words := one.complete:
        shown["autocompletion"] = lambda incomplete: [w for w in words() if w.startswith(incomplete)]
    if one.is_argument:
        return _named(one.key, list[str] if one.repeats else str, typer.Argument(**shown))
    return _named(one.key, list[str], typer.Option(one.name, **shown))


def _common(settings: type, has_options: bool, reports: bool) -> list[inspect.Parameter]:
    """The options that verbs have in common."""
    found = []
    if has_options:
        config = typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file with settings, or a shipped one by name, such as train/bl.yaml.",
            autocompletion=_configs,
        )
        override = typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one setting; repeat. It beats --config, and an option beats it.",
            autocompletion=lambda incomplete: [
                f"{k}=" for k in keys_of(settings) if k.startswith(incomplete)
            ],
        )
        found += [_named("config", list[str], config), _named("set_", list[str], override)]
    if reports:
        found.append(_named("as_json", bool, typer.Option("--json", help="Print the result as JSON.")))
    return found


def _named(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _configs(incomplete: str) -> list[str]:
    """Files here and shipped ones."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    paths = folder.iterdir() if folder.is_dir() else ()
    here = [f"{path}/" if path.is_dir() else str(path) for path in paths]
    found = [text for text in (*here, *shipped_names()) if text.endswith(("/", ".yaml"))]
    return sorted({text for text in found if text.startswith(incomplete)})
