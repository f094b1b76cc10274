"""The command line, `rs-cache VERB`: options to settings, errors to three lines or JSON and an exit code."""

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from pipeline import console
from pipeline.options import Verbs, add, near_option
from pipeline.verbs import (
    about,
    captions,
    convert,
    demo,
    evaluate,
    explore,
    export,
    extract,
    inspect,
    label,
    plan,
    predict,
    reencode,
    reproduce,
    train,
)
from regionspot_cache.errors import InputError, RegionSpotError, UsageError

INTERRUPTED = 130
REPORT = "set RS_DEBUG=1 for the traceback, and add the output of `rs-cache env` to a report"

app = typer.Typer(
    name="rs-cache",
    cls=Verbs,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Name the boxes of pictures in your own words. Frozen networks look at every picture once, into "
    "a cache (extract); a small head learns from it (train); label, predict, explore and eval name boxes. "
    "On the built-in world extract, train, eval, demo and reproduce need no arguments. "
    "An option beats --set, which beats --config, which beats the default. "
    "Exit codes: 0 done, 1 error, 2 usage, 3 incomplete (run it again), "
    "4 identity mismatch or damage, 130 interrupted.",
)

VERBS = {
    "extract": extract.extract,
    "status": inspect.status,
    "info": inspect.info,
    "verify": inspect.verify,
    "convert": reencode.convert,
    "train": train.train,
    "propose": captions.propose,
    "concepts": captions.concepts,
    "import": convert.import_checkpoint,
    "export": export.export,
    "push": convert.push,
    "eval": evaluate.evaluate,
    "label": label.label,
    "predict": predict.predict,
    "explore": explore.explore,
    "plan": plan.plan,
    "reproduce": reproduce.reproduce,
    "demo": demo.demo,
    "backbones": about.backbones,
    "env": about.env,
}
for name, verb in VERBS.items():
    add(app, name, verb)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rs-cache {version('regionspot-cache')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _bare(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its code."""
    out, err = (console.LastingStream.of(stream) for stream in (sys.stdout, sys.stderr))
    sys.stdout, sys.stderr = out, err
    code = run(arguments)
    # As multiprocessing ends its processes: memory is left to the system. To clear it takes seconds
    # once torch was imported.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    out.flush()
    if out.failure is not None:
        code = code or 1
        console.say(f"error: what was printed is not complete: {out.failure}")
    err.flush()
    os._exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with console.one_document() as documents:
        code, error = _outcome(arguments)
    document: dict[str, Any] = {}
    for part in documents:
        document |= part
    if error is not None:
        _say(error)
        if "--json" in arguments:
            document["error"] = error
    if document:
        console.write_json(document)
    return code


def _outcome(arguments: list[str]) -> tuple[int, dict[str, Any] | None]:
    """The exit code, and what the error says."""
    try:
        code = app(args=arguments, prog_name="rs-cache", standalone_mode=False)
    except Exception as error:
        return _explained(error, next((word for word in arguments if word in VERBS), "VERB"))
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C
        kept = "What is committed is kept; the same command continues."
        return code, {"found": "Interrupted.", "next": kept, "exit_code": code}
    return (code if isinstance(code, int) else 0), None


def _say(error: dict[str, Any]) -> None:
    if error["exit_code"] == INTERRUPTED:
        console.say(f"{error['found']} {error['next']}")
        return
    for part, title in (("found", "error"), ("expected", "expected"), ("next", "next")):
        if part in error:
            console.say(f"{title}: {' '.join(error[part].splitlines())}")


def _explained(error: Exception, verb: str) -> tuple[int, dict[str, Any]]:
    if hasattr(error, "format_message"):
        return _wrong_usage(error, verb)
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an EOFError, which Typer takes for the user's
    if os.environ.get("RS_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        error = _of_the_system(error)
    if not isinstance(error, RegionSpotError):
        return 1, {"found": f"{type(error).__name__}: {error}", "next": REPORT, "exit_code": 1}
    usage = isinstance(error, UsageError)
    parts = {
        "found": error.found,
        "expected": error.expected or "One without this.",
        "next": error.remedy or ("rs-cache VERB --help" if usage else "Repair it and run the command again."),
    }
    named = {part: text.replace("rs-cache VERB", f"rs-cache {verb}") for part, text in parts.items()}
    return error.exit_code, {**named, "exit_code": error.exit_code}


def _wrong_usage(error: Any, verb: str) -> tuple[int, dict[str, Any]]:
    """Of Typer's own usage errors."""
    verb = f"{verb} " if verb in VERBS else ""
    parts = {"found": error.format_message()}
    if hasattr(error, "possibilities"):  # no such option
        parts["found"] = error.message
        if expected := near_option(error.ctx.command, error.option_name):
            parts["expected"] = expected
    code = int(getattr(error, "exit_code", 2))
    return code, {**parts, "next": f"rs-cache {verb}--help", "exit_code": code}


def _of_the_system(error: OSError) -> InputError:
    """What the file system refuses anywhere: a folder where a file goes, no right to write, a full disk."""
    place = error.filename2 or error.filename
    return InputError(
        f"{f'{place}: ' if place else ''}{error.strerror}.",
        "Files and folders that can be read and written, and free space.",
        "Choose another place, or make room, and run the same command again; what is done is kept.",
    )
