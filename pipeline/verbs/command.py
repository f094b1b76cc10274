"""A verb made of its settings: every option is declared at its field, and the command line follows from it.

The command line beats `--set`, which beats the config, which beats the default.
"""

import inspect
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.names import complete_config, complete_key
from pipeline.options import Complete, OptionField, option_fields
from pipeline.places import find_config
from regionspot_cache.errors import UsageError

Defaults = Callable[[Mapping[str, Any], Path | None], Mapping[str, Any]]
"""All that is said, and the config, to values that count where nothing is said."""


class Verbs(TyperGroup):
    """The group of the verbs, whose help fits the terminal."""

    def get_help(self, ctx: Any) -> str:
        _fit(ctx)
        return super().get_help(ctx)


class VerbCommand(TyperCommand):
    """A command whose help shows arguments by their names; Typer takes all of them for optional texts."""

    def get_help(self, ctx: Any) -> str:
        _fit(ctx)
        text = super().get_help(ctx)
        for field in option_fields(getattr(self.callback, "settings", type(None))):
            if field.option.is_argument:
                text = re.sub(rf"{field.option.name} <[^>]*>", field.option.name, text)
                if field.required:
                    text = text.replace(f"[{field.option.name}]", field.option.name, 1)
        return text


def _fit(context: Any) -> None:
    """Lines as long as the terminal's: Typer's own have at least 50 characters."""
    context.terminal_width = min(max(shutil.get_terminal_size().columns, 20), 82) - 2


def add(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Makes a function that `verb` made a command of the app."""
    first = re.split(r"(?<=\.)\s", (command.__doc__ or "").strip())[0]
    app.command(name=name, cls=VerbCommand, short_help=first)(command)


def verb(
    settings: type, *, reports: bool = True, defaults: Defaults | None = None
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes a Typer command of a function of settings.

    Args:
        settings: a dataclass; its fields with an `Option` are the options of the command.
        reports: the function takes `as_json`, and the command has --json.
        defaults: see `Defaults`; may also refuse what is said.
    """
    options = option_fields(settings)

    def decorate(run: Callable[..., Any]) -> Callable[..., None]:
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
    settings: type, options: Sequence[OptionField], given: Mapping[str, Any], defaults: Defaults | None
) -> Any:
    """Settings from a config, --set and what was given; an option that does not repeat is given once.

    Raises:
        UsageError: given twice, or as of `load_config`.
    """
    from regionspot_cache.config import load_config

    named = _once("--config", given.get("config") or [])
    config = find_config(Path(named)) if named else None
    values, spelled = {}, {}
    for field in options:
        value = given.get(field.key)
        if value is None or value == []:
            continue
        spelled[field.key] = _spelled(field, value)
        if isinstance(value, list) and not field.repeats:
            value = _once(field.option.name, value)
        values[field.key] = value
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


def _spelled(field: OptionField, value: Any) -> str:
    name = field.option.name
    if isinstance(value, list | str):
        texts = [value] if isinstance(value, str) else value
        return " ".join(texts if field.option.is_argument else [f"{name} {text}" for text in texts])
    return name if value else name.replace("--", "--no-", 1)


def _parameter(field: OptionField) -> inspect.Parameter:
    """A parameter of Typer's; None is "not given", and the text is converted with all other settings."""
    option = field.option
    shown: dict[str, Any] = {"help": field.help, "show_default": False}
    if field.is_flag:
        info = typer.Option(f"{option.name}/{option.name.replace('--', '--no-', 1)}", **shown)
        return _named(field.key, bool, info)
    shown |= {"metavar": field.metavar, "autocompletion": _completion(field.choices)}
    if option.is_argument:
        return _named(field.key, list[str] if field.repeats else str, typer.Argument(**shown))
    return _named(field.key, list[str], typer.Option(option.name, **shown))


def _common(settings: type, has_options: bool, reports: bool) -> list[inspect.Parameter]:
    """The options that verbs have in common."""
    found = []
    if has_options:
        config = typer.Option(
            "--config",
            metavar="FILE",
            help="YAML file with settings, or a shipped one by name, such as train/bl.yaml.",
            autocompletion=_given(complete_config),
        )
        override = typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one setting; repeat. It beats --config, and an option beats it.",
            autocompletion=_given(lambda start: complete_key(settings, start)),
        )
        found += [_named("config", list[str], config), _named("set_", list[str], override)]
    if reports:
        found.append(_named("as_json", bool, typer.Option("--json", help="Print the result as JSON.")))
    return found


def _named(name: str, kind: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _completion(complete: Complete | None) -> Callable[[str], list[str]] | None:
    if complete is None:
        return None
    return _given(lambda start: [word for word in complete() if word.startswith(start)])


def _given(words: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    def autocompletion(incomplete: str) -> list[str]:
        return words(incomplete)

    return autocompletion
