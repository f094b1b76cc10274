"""Commands in processes of their own that can be killed, forked from one that has everything imported.

`python -m tests.pipeline.launcher` reads one request a line, {"arguments", "cwd", "folder", "file_limit"},
forks, and answers with the process id. The child writes `out`, `err` and, last, `code` into the folder.
"""

import atexit
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.running import Ran

REPOSITORY = Path(__file__).parents[2]
KILLED = -9


@dataclass
class Child:
    """A running command."""

    pid: int
    folder: Path

    def wait(self) -> Ran:
        """What it left once it has ended; exit code -9 when it was killed."""
        while self.runs:
            time.sleep(0.005)
        code = self.folder / "code"
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return Ran(int(code.read_text()) if code.exists() else KILLED, out, err)

    @property
    def runs(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """SIGKILL; harmless when it has ended."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        while self.runs:
            time.sleep(0.001)


class Launcher:
    """Starts commands. `folder` takes their output."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.launcher"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: object, cwd: Path, file_limit: int | None = None) -> Child:
        """`rs-cache ARGUMENTS` in `cwd`; with `file_limit`, no file may grow beyond so many bytes."""
        folder = self._folder / str(self._count)
        folder.mkdir()
        self._count += 1
        request = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "folder": str(folder)}
        send, receive = self._process.stdin, self._process.stdout
        assert send
        assert receive
        send.write(json.dumps({**request, "file_limit": file_limit}) + "\n")
        send.flush()
        return Child(int(receive.readline()), folder)

    def run(self, *arguments: object, cwd: Path, file_limit: int | None = None) -> Ran:
        """Starts a command and waits for its end."""
        return self.start(*arguments, cwd=cwd, file_limit=file_limit).wait()

    def close(self) -> None:
        """Ends the process that forks."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process.wait()


def serve(requests: IO[str]) -> None:
    """Forks a child for every line."""
    gc.disable()  # what is imported stays; children need not walk it, nor copy its pages
    import pipeline.cli
    import pipeline.evaluate.own_methods
    import pipeline.evaluate.run
    import pipeline.extract
    import pipeline.inspection
    import pipeline.predict
    import pipeline.train  # noqa: F401

    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    for line in iter(requests.readline, ""):
        pid = os.fork()
        if pid == 0:
            command(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def command(request: dict[str, Any]) -> None:
    """Runs one request in this process and ends it."""
    from pipeline.cli import run

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell began the tests with &
    folder = Path(request["folder"])
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    if limit := request["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = run(request["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    draft = folder / "code.draft"
    draft.write_text(str(code))
    draft.rename(folder / "code")
    os._exit(code)


if __name__ == "__main__":
    serve(sys.stdin)
