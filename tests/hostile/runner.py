"""A process that does as it is told with one file after another, and reports what that took and what it touched.

`Runner` is the side of the tests. The other side reads a request from each line of its input and answers with a line:
{"do": "convert", "inspect", "load" or "misbehave", "path", "options", "folder"} -> {"status", "out", "error",
"seconds", "before", "peak", "events"}. An audit hook notes every event of the interpreter but the harmless ones.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import gc
import io
import json
import os
import resource
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
READ_ONLY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
# Events of looking at values and at the file system, and of the temporary file, whose name `opened_to_write` checks.
HARMLESS = {
    "builtins.id",
    "object.__getattr__",
    "object.__setattr__",
    "object.__delattr__",
    "os.chmod",
    "os.listdir",
    "os.remove",
    "os.scandir",
    "sys._getframe",
    "tempfile.mkstemp",
}


class Runner:
    """The process, and the way to talk to it; it is started anew when it does not answer."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, timeout: float = 60.0, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], timeout)[0], f"no answer in {timeout} s to {request}"
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait()} during {request}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Watch:
    """What happens while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event in HARMLESS or (event == "open" and not opened_to_write(*arguments)):
            return
        self.on = False  # what describing it does is not the file's doing
        self.events.append(f"{event} {arguments!r}"[:300])
        self.on = True


def opened_to_write(path: object, mode: str | None, flags: int) -> bool:
    """Whether a file was opened to be changed, or made; the temporary file of an output does not count."""
    if isinstance(path, int) or Path(os.fsdecode(path)).name.startswith(".zoo-"):  # type: ignore[arg-type]
        return False  # a descriptor was opened before, and noted then
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & ~READ_ONLY)


def resident() -> int:
    """MiB of this process in memory."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // MIB
    return peak()


def peak() -> int:
    """MiB of this process in memory at most, since `forget_peak` where the system can forget."""
    if sys.platform == "linux":
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 // MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MIB


def forget_peak() -> None:
    """Give free memory back, and start to measure its peak anew."""
    gc.collect()
    gc.freeze()  # what is left is there to stay, and takes long to look through again
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # of glibc alone
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Answer until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    codecs.lookup("cp437")  # zipfile reads names by it

    import zoo.convert

    watch = Watch()
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        path, options = request["path"], request.get("options", [])
        out, error = io.StringIO(), io.StringIO()
        forget_peak()
        before, start = resident(), time.perf_counter()
        watch.events, watch.on = [], True
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                status: object = 0
                if request["do"] == "misbehave":
                    exec(path, {})
                elif request["do"] == "load":
                    zoo.load(path)
                else:
                    more = ["--inspect"] if request["do"] == "inspect" else ["-o", "out.safetensors"]
                    status = zoo.convert.main([path, *more, *options])
            except zoo.ZooError as refusal:
                status = f"ZooError {refusal}"
            except BaseException as other:  # the tests say that it must not be
                status = f"{type(other).__name__} {other}"
        watch.on = False
        answer = {
            "status": status,
            "out": out.getvalue()[:10_000],
            "error": error.getvalue()[:10_000],
            "seconds": time.perf_counter() - start,
            "before": before,
            "peak": peak(),
            "events": watch.events,
        }
        os.chdir("/")
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
