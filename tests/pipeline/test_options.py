"""Every option of every verb: declared once, and the command line beats --set, the config and the default."""

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml

from pipeline import cli
from pipeline.options import Option, add, load, option, options_of, verb
from pipeline.places import shipped
from regionspot_cache.errors import UsageError

# Values that a field takes by what it is checked for; any text does for the others.
KNOWN = {
    "backbone": ("tiny", "bb", "bl"),
    "dataset": ("shapes:val", "lvis", "coco:val"),
    "proposals": ("gt", "rpn", "here.npz"),
    "part": ("sam", "clip", "sam"),
    "world": ("shapes", "paper", "own"),
    ("reproduce", "names"): (["table1"], ["table2", "table3"], ["table5"]),
    "source": ("shapes:val", "lvis", "coco:val"),
    "overlap": ("shapes:val", "lvis", "coco:val"),
    ("propose", "out"): ("a.json", "b.json", "c.json"),
    ("concepts", "out"): ("a.txt", "b.txt", "c.txt"),
    ("export", "out"): ("a.parquet", "b.parquet", "c.parquet"),
    "method": ("clip-box", "clip-mask", "sam/transformer"),
    "price": (1.0, 2.0, 3.0),
    "backbones": (["tiny"], ["bb", "bl"], ["bl336"]),
    ("label", "method"): ("clip-box", "clip-mask", "official"),
    "none_below": ("0.5", "auto", "0"),
    "methods": (["clip-box"], ["clip-mask", "official"], ["regionspot"]),
}
NEEDED = {
    "world": "w",
    "image": "i.jpg",
    "cache": "c",
    "checkpoint": "c",
    "run": "r",
    "repository": "a/b",
    "source": "shapes:val",
}
CASES = [
    pytest.param(name, field, id=f"{name}-{field.key}")
    for name, command in cli.VERBS.items()
    for field in options_of(command.settings)  # type: ignore[attr-defined]
]


def values(name: str, field: Option) -> tuple[Any, Any, Any]:
    """Three values that differ, as YAML has them."""
    for key in ((name, field.key), field.key):
        if key in KNOWN:
            return KNOWN[key]  # type: ignore[index, return-value]
    if field.is_flag:
        return False, True, False
    if get_origin(field.kind) is Literal:
        first, last = get_args(field.kind)[0], get_args(field.kind)[-1]
        return first, last, first
    if field.repeats:
        return ["one"], ["two", "three"], ["four"]
    return (1, 2, 3) if field.kind is int else ("one", "two", "three")


def typed(settings: type, field: Option, value: Any) -> list[str]:
    """A value as it is typed; an argument comes after those before it."""
    if field.is_flag:
        return [field.name if value else field.name.replace("--", "--no-")]
    texts = [str(one) for one in (value if isinstance(value, list) else [value])]
    if not field.is_argument:
        return [word for text in texts for word in (field.name, text)]
    arguments = [one.key for one in options_of(settings) if one.is_argument]
    return [NEEDED[key] for key in arguments[: arguments.index(field.key)]] + texts


def least(name: str, settings: type, key: str) -> dict[str, Any]:
    """A config with what must be said, beside the field in question."""
    needed = {"reproduce": "reproduce/worlds/shapes.yaml", "plan": "plan/paper.yaml"}
    config = yaml.safe_load(shipped(needed[name]).read_text()) if name in needed else {}
    names = {field.name for field in fields(settings)}
    if {"backbone", "dataset"} <= names or name in ("label", "predict", "propose", "export", "explore"):
        config["backbone"] = "tiny"  # for any dataset and picture
    for field in fields(settings):
        if field.default is MISSING and field.default_factory is MISSING and field.name in NEEDED:
            config[field.name] = NEEDED[field.name]
    if name == "label":
        config |= {"source": "a.json", "classes": "c.txt", "out": "b.json"}
    if name == "import":
        config["backbone"] = "bl"
    if name in ("export", "convert"):
        config["out"] = "a.parquet"
    if (name, key) == ("explore", "save"):
        config["serve"] = True
    config.pop(key, None)
    return config


@pytest.mark.parametrize(("name", "field"), CASES)
def test_the_option_beats_the_override_beats_the_config_beats_the_default(
    name: str, field: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.verbs.train._following", lambda init: {"training": {}})  # no such head here
    Path("here.npz").touch()
    seen: list[Any] = []
    command: Any = cli.VERBS[name]
    settings = command.settings
    watched = typer.Typer()
    watched.command("other")(lambda: None)  # of one command alone Typer makes no verb
    watching = verb(settings, defaults=command.defaults)
    add(watched, name, watching(lambda found: seen.append(getattr(found, field.key))))
    started = typer.main.get_command(watched)

    def run(config: Any = None, override: Any = None, option: Any = None) -> Any:
        content = least(name, settings, field.key) | ({} if config is None else {field.key: config})
        Path("config.yaml").write_text(yaml.safe_dump(content))
        words = [] if override is None else ["--set", f"{field.key}={json.dumps(override)}"]
        words += [] if option is None else typed(settings, field, option)
        started([name, "--config", "config.yaml", *words], standalone_mode=False)
        return seen.pop()

    first, second, third = values(name, field)
    one, two, three = (run(option=value) for value in (first, second, third))
    assert one != two != three
    assert run(config=first) == one
    assert run(override=first) == one
    assert run(config=first, override=second) == two
    assert run(config=second, option=third) == three
    assert run(override=second, option=third) == three
    assert run(config=first, override=second, option=third) == three


def test_all_verbs_have_options() -> None:
    assert len(CASES) > 50


@dataclass(frozen=True, kw_only=True)
class Small:
    count: int = option(3, "--count", "How many.")
    names: tuple[str, ...] = option((), "NAMES", "Which.")
    kind: Literal["red", "blue"] | None = option(None, "--kind", "Colour.")
    hidden: int = 1


def test_fields_with_an_option_are_options() -> None:
    count, names, kind = options_of(Small)
    assert (count.metavar, count.help) == ("N", "How many. [default: 3]")
    assert names.repeats
    assert names.is_argument
    assert not names.required
    assert (kind.metavar, kind.help) == ("red|blue", "Colour.")
    assert list(kind.complete()) == ["red", "blue"]


@pytest.mark.parametrize(
    ("given", "found", "expected"),
    [
        ({"count": ["3", "4"]}, "--count is given 2 times: 3, 4.", "One --count."),
        ({"config": ["a", "b"]}, "--config is given 2 times: a, b.", "One --config."),
        ({"count": ["many"]}, "count = 'many' in --count many: ", "count"),
        ({"kind": ["rde"]}, "kind = 'rde' in --kind rde: ", "Did you mean red? One of red, blue."),
        ({"set_": ["hiden=3"]}, "Unknown key hiden in --set hiden=3.", "Did you mean hidden?"),
    ],
)
def test_what_is_wrong_is_blamed_on_what_was_typed(given: dict, found: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(Small, options_of(Small), given, None)
    assert caught.value.found.startswith(found)
    assert expected in caught.value.expected
