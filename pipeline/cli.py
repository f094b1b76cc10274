"""The command line, `rs-cache VERB`: options to settings, errors to three lines and an exit code."""

import os
import sys
from typing import Any

import typer

from pipeline import console
from pipeline.verbs import about, caches, heads, recognition, reproduction
from regionspot_cache.errors import InputError, RegionSpotError, UsageError

INTERRUPTED = 130

app = typer.Typer(
    name="rs-cache",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Open-vocabulary region recognition from cached SAM tokens and CLIP maps. "
    "Two phases: **extract** runs the frozen networks once; **train** and **eval** read the cache. "
    "On the built-in world **extract**, **train**, **eval**, **demo** and **reproduce** need no arguments. "
    "Exit codes: 0 done, 1 error, 2 usage, 3 incomplete (run it again), "
    "4 identity mismatch or damage, 130 interrupted.",
)

VERBS = {
    "extract": caches.extract,
    "status": caches.status,
    "info": caches.info,
    "verify": caches.verify,
    "train": heads.train,
    "import": heads.import_checkpoint,
    "export": heads.export_checkpoint,
    "push": heads.push,
    "eval": recognition.evaluate,
    "predict": recognition.predict,
    "reproduce": reproduction.reproduce,
    "demo": about.demo,
    "bench": about.bench,
    "backbones": about.backbones,
    "env": about.env,
}
for name, verb in VERBS.items():
    app.command(name=name)(verb)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        return _code(app(args=arguments, standalone_mode=False))
    except RegionSpotError as error:
        return _report(error, _verb(sys.argv[1:] if arguments is None else arguments))
    except Exception as error:
        return _unexpected(error)


def _code(value: Any) -> int:
    if value == INTERRUPTED:  # what Typer makes of Ctrl-C
        console.say("Interrupted. What is committed is kept; the same command continues.")
    return value if isinstance(value, int) else 0


def _verb(arguments: list[str]) -> str:
    """What the command line asks for."""
    return next((argument for argument in arguments if argument in VERBS), "VERB")


def _report(error: RegionSpotError, verb: str = "VERB") -> int:
    if os.environ.get("RS_DEBUG"):
        raise error
    usual = (
        "rs-cache VERB --help" if isinstance(error, UsageError) else "Repair it and run the command again."
    )
    expected = error.expected or "One without this."
    for part, label in ((error.found, "error"), (expected, "expected"), (error.remedy or usual, "next")):
        console.say(f"{label}: {part.replace('rs-cache VERB', f'rs-cache {verb}')}")
    return error.exit_code


def _unexpected(error: Exception) -> int:
    if hasattr(error, "format_message"):  # Typer's own usage errors
        console.say(f"error: {error.format_message()}")
        context = getattr(error, "ctx", None)
        verb = f"{context.info_name} " if context is not None and context.parent is not None else ""
        console.say(f"next: rs-cache {verb}--help")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an EOFError, which Typer takes for the user's
    if os.environ.get("RS_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return _report(_of_the_system(error))
    console.say(f"error: {type(error).__name__}: {error}")
    console.say("next: set RS_DEBUG=1 for the traceback, and add the output of `rs-cache env` to a report")
    return 1


def _of_the_system(error: OSError) -> InputError:
    """What the file system refuses anywhere: a folder where a file goes, no right to write, a full disk."""
    place = error.filename2 or error.filename
    return InputError(
        f"{f'{place}: ' if place else ''}{error.strerror}.",
        "Files and folders that can be read and written, and free space.",
        "Choose another place, or make room, and run the same command again; what is done is kept.",
    )
