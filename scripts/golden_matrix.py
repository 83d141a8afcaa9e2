"""The golden tests over versions of torch and Python.

    python scripts/golden_matrix.py 2.6.0 2.9.1 2.11.0 2.13.0
    python scripts/golden_matrix.py 2.6.0 2.13.0 --pythons 3.10 3.12

makes an environment for every version of torch, with what the package and its tests require, runs
`python -m pytest tests/golden` in it, and prints the largest differences from the references. Without `--pythons` each
torch has one Python, the oldest torch the oldest one found, and the next best where it has no wheel for it; an
environment that is there is used, whatever its Python. With `--pythons` each torch is run with each of them.

Everything goes to a folder (`--folder`, the variable MATRIX_DIR, or .matrix): environments `py<Python>-torch<torch>`,
beside each a .log and a .json, and `matrix.json` and `matrix.md`, the table. A cell that fails does not stop the
others; the exit status is 1 if one did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r"\d+(\.\d+)+")


def key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def interpreters() -> dict[str, str]:
    """Python version, such as 3.10 -> an interpreter that runs; this one goes first."""
    requires = key(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].lstrip(">="))
    found = {".".join(map(str, sys.version_info[:2])): sys.executable}
    folders = [*Path.home().glob(".pyenv/versions/*/bin"), *map(Path, os.get_exec_path())]
    for path in (path for folder in folders for path in sorted(folder.glob("python3.*"))):
        version = path.name.removeprefix("python")
        if not re.fullmatch(r"3\.\d+", version) or version in found or key(version) < requires:
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:  # a shim may point nowhere
            found[version] = str(path)
    return dict(sorted(found.items(), key=lambda item: key(item[0])))


def requirements() -> list[str]:
    """What the package and its golden tests need, torch apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [text for text in every if not re.match(r"torch\b", text)]


def run(command: Sequence[str | Path], log: Path, **environment: str) -> int:
    with log.open("a") as stream:
        print("$", *command, file=stream, flush=True)
        return subprocess.run(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        ).returncode


def install(name: str, python: str, torch: str, folder: Path) -> str:
    """Make or complete an environment; why it cannot be, or nothing."""
    place, log = folder / name, folder / f"{name}.log"
    interpreter, new = place / "bin" / "python", not place.exists()
    if new and run([python, "-m", "venv", place], log):
        shutil.rmtree(place, ignore_errors=True)
        return f"{python} could not make an environment; {log} says why"
    # What is there already is not asked for again, so that a finished environment needs no index.
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for packages in ([f"torch=={torch}"], requirements()):
        if run([*pip, *packages], log):
            if new:
                shutil.rmtree(place)
            return f"pip could not install {' '.join(packages)} for {python}; {log} says why"
    return ""


def cells(versions: Sequence[str], pythons: Sequence[str], folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each torch, and the names of Pythons to try for it in this order; one after the other where all are asked for."""
    if pythons:
        yield from ((torch, [python]) for torch in versions for python in pythons)
        return
    found = list(interpreters())
    for i, torch in enumerate(versions):
        there = [path.name.removeprefix("py").split("-")[0] for path in sorted(folder.glob(f"py*-torch{torch}/"))]
        best = i * (len(found) - 1) / max(1, len(versions) - 1)
        yield torch, there or sorted(found, key=lambda python: abs(found.index(python) - best))


def cell(torch: str, pythons: Sequence[str], folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run the tests with the first Python that this torch can be had for."""
    known = interpreters()
    why = f"no Python {' or '.join(pythons)} was found that is new enough for the package"
    for python in pythons:
        name = f"py{python}-torch{torch}"
        if python not in known and not (folder / name).exists():
            continue
        (folder / f"{name}.log").unlink(missing_ok=True)
        why = install(name, known.get(python, ""), torch, folder)
        if not why:
            break
    else:
        return {"name": f"torch {torch}, Python {' or '.join(pythons)}", "failure": why}
    report, log = folder / f"{name}.json", folder / f"{name}.log"
    report.unlink(missing_ok=True)
    tests = ["-m", "pytest", "tests/golden", "-q", "-p", "no:cacheprovider", "--differences", report, *options]
    status = run([folder / name / "bin" / "python", *tests], log, PYTHONDONTWRITEBYTECODE="1")
    label, when = f"torch {torch}, Python {python}", date.today().isoformat()
    if not report.exists():
        return {"name": label, "date": when, "failure": f"the tests did not run to their end; {log} says why"}
    result = {"name": label, "date": when, **json.loads(report.read_text())}
    if status:
        result["failure"] = f"{result['failed'] + result['error']} tests fail; {log} says which"
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, a row for each family or condition; in it the largest difference, gradients behind a slash."""
    every = [item for result in results for item in result.get("differences", {}).items()]
    conditions = {name for name, stages in every if "forward" in stages}  # of test_conditions.py, below the families
    rows = sorted({name for name, _ in every}, key=lambda name: (name in conditions, name))
    lines = ["| | " + " | ".join(result["name"] for result in results) + " |", "|---" * (len(results) + 1) + "|"]
    for family in rows:
        texts = []
        for result in results:
            stages = result.get("differences", {}).get(family, {})
            back = [value for stage, value in stages.items() if stage in BACKWARD]
            there = [value for stage, value in stages.items() if stage not in BACKWARD]
            texts.append(" / ".join(f"{max(values):.1e}" for values in (there, back) if values) or "-")
        lines.append(f"| {family} | " + " | ".join(texts) + " |")
    counts = [f"{r['passed']} of {r['passed'] + r['failed'] + r['error']}" if "passed" in r else "-" for r in results]
    lines += ["| passed | " + " | ".join(counts) + " |"]
    lines += ["| date | " + " | ".join(result.get("date", "-") for result in results) + " |"]
    failures = [f"- {result['name']}: {result['failure']}" for result in results if "failure" in result]
    return "\n".join([*lines, *([""] if failures else []), *failures]) + "\n"


BACKWARD = {"backward", "gradient", "loss"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="of torch, such as 2.6.0")
    parser.add_argument("--pythons", nargs="*", default=[], metavar="VERSION", help="run each torch with each of these")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("MATRIX_DIR", ROOT / ".matrix")))
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time (1)")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, default=[], help="all that follows goes to pytest")
    arguments = parser.parse_args(argv)
    for version in (*arguments.versions, *arguments.pythons):
        if not VERSION.fullmatch(version):
            parser.error(f"{version!r} is no version; give some such as 2.6.0, separated by blanks")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    versions = sorted(dict.fromkeys(arguments.versions), key=key)
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        every = cells(versions, arguments.pythons, folder)
        for result in pool.map(lambda one: cell(*one, folder, arguments.tests), every):
            results.append(result)
            print(result["name"], result.get("failure", "passed"), sep=": ", file=sys.stderr, flush=True)
            (folder / "matrix.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            (folder / "matrix.md").write_text(table(results))
    print(table(results), end="")
    return int(any("failure" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
