"""`python -m zoo doctor`: whether this machine has what the zoo needs, and what to do about what is missing."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from zoo import _cache, _download
from zoo._cli import Commands
from zoo.errors import DownloadError, printable

TIMEOUT_S = 3.0
RELEASES = "https://dl.fbaipublicfiles.com"  # where most original files are
OLDEST_TORCH = (2, 6)
ROOM_BYTES = 5 << 30  # a large model, as it was released and converted
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it where it is no good.

    Attributes:
        what: the part of the machine.
        result: "ok"; "note": something that one may want to know; "problem": it keeps models from being used.
    """

    what: str
    result: str
    detail: str
    advice: str = ""


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("doctor", help="check this machine", description=__doc__)
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="the cache (default: as described)")
    command.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    findings: list[Finding] = []
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _devices,
        _audio,
        lambda: _cached(args.cache_dir),
        lambda: _network(args.cache_dir),
    )
    for part in parts:
        for finding in part():
            findings.append(finding)
            if not args.json:
                advice = f"; {finding.advice}" if finding.advice else ""
                print(printable(f"{finding.what}: {finding.result}; {finding.detail}{advice}"), flush=True)
    ok = all(finding.result != PROBLEM for finding in findings)
    if args.json:
        print(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=1))
    return 0 if ok else 1


def _versions() -> Iterator[Finding]:
    from zoo import __version__

    yield Finding("zoo", OK, f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    if (hip := torch.version.hip) is not None:
        built = f"ROCm {hip}"
    detail = f"{torch.__version__}, built {built}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        needed = ".".join(map(str, OLDEST_TORCH))
        yield Finding("torch", PROBLEM, detail, f"install torch {needed} or newer: pip install 'torch>={needed}'")
    else:
        yield Finding("torch", OK, detail)
    limit = os.environ.get("OMP_NUM_THREADS")
    set_by = f", OMP_NUM_THREADS={limit}" if limit else ""
    yield Finding("threads", OK, f"{torch.get_num_threads()} of {os.cpu_count()} processors{set_by}")


def _devices() -> Iterator[Finding]:
    devices = {"cpu": platform.processor() or platform.machine()}
    devices |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        devices["mps"] = "Metal"
    for device, name in devices.items():
        failures = {dtype: failure for dtype in DTYPES if (failure := _failure(device, dtype))}
        works = ", ".join(_name(dtype) for dtype in DTYPES if dtype not in failures)
        detail = f"{name} multiplies {works or 'nothing'}"
        if torch.float32 in failures:
            reason = f"{detail} ({failures[torch.float32]})"
            yield Finding(device, PROBLEM, reason, "use another device, or install a torch that is built for this one")
        elif failures:
            missing = ", ".join(map(_name, failures))
            yield Finding(device, NOTE, detail, f"do not ask zoo.load for {missing} there")
        else:
            yield Finding(device, OK, detail)
    if torch.version.cuda and not torch.cuda.is_available():
        yield Finding("cuda", NOTE, "this torch is built for CUDA, but finds no device", "see what nvidia-smi says")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _failure(device: str, dtype: torch.dtype) -> str:
    """Why a matrix product does not work; empty when it does."""
    try:
        x = torch.arange(64, dtype=torch.float32).reshape(8, 8) / 64
        found = (x.to(device, dtype) @ x.to(device, dtype)).float().cpu()
        return "" if torch.allclose(found, x @ x, atol=0.05) else "it gives wrong numbers"
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return str(error).splitlines()[0]


def _audio() -> Iterator[Finding]:
    try:
        import soundfile

        formats = soundfile.available_formats()
        usual = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in formats]
        tone = np.sin(np.arange(800) / 5).astype(np.float32) / 2
        file = io.BytesIO()
        soundfile.write(file, tone, 8000, format="FLAC")
        file.seek(0)
        read, _ = soundfile.read(file, dtype="float32")
        detail = f"{soundfile.__libsndfile_version__} reads {len(formats)} formats, with {', '.join(usual)}"
        if np.abs(read - tone).max() > 1e-4:
            raise ValueError("a FLAC file comes back with other samples")
        yield Finding("libsndfile", OK, detail)
    except Exception as error:  # whatever a damaged library raises
        advice = "install it anew: pip install --force-reinstall soundfile"
        yield Finding("libsndfile", PROBLEM, f"audio cannot be read ({_short(error)})", advice)
        return
    try:
        import soxr

        if len(soxr.resample(tone, 8000, 16000)) != 1600:
            raise ValueError("it gives another number of samples")
        yield Finding("soxr", OK, f"{soxr.__version__} resamples")
    except Exception as error:
        advice = "install it anew: pip install --force-reinstall soxr"
        yield Finding("soxr", PROBLEM, f"audio cannot be resampled ({_short(error)})", advice)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _cached(cache_dir: Path | None) -> Iterator[Finding]:
    root = _cache.root(cache_dir)
    set_by = next((name for name in ("ZOO_CACHE", "XDG_CACHE_HOME") if os.environ.get(name)), "")
    why = "from --cache-dir" if cache_dir is not None else f"from {set_by}" if set_by else "the usual place"
    elsewhere = "name another folder with ZOO_CACHE"
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir():
        yield Finding("cache", PROBLEM, f"{root} ({why}) cannot be made: {there} is no folder", elsewhere)
        return
    writable = _is_writable(there)
    if there != root:
        detail = f"{root} ({why}) does not exist yet"
        if writable:
            yield Finding("cache", OK, detail)
        else:
            yield Finding("cache", PROBLEM, f"{detail}, and {there} cannot be written", elsewhere)
    else:
        files = [path for path in root.rglob("*") if path.is_file()]
        models = len(_models(root))
        size = sum(path.stat().st_size for path in files)
        detail = f"{root} ({why}) holds {models} models, {size / 1e9:.1f} GB"
        if writable:
            yield Finding("cache", OK, detail)
        else:
            yield Finding("cache", NOTE, f"{detail}, and cannot be written", f"to fetch other models, {elsewhere}")
        if parts := [path for path in files if path.name.endswith(".part")]:
            size = sum(path.stat().st_size for path in parts)
            detail = f"{len(parts)} unfinished downloads, {size / 1e9:.1f} GB, such as {parts[0]}"
            yield Finding("cache", NOTE, detail, "fetch those models again to continue, or delete the files")
    free = shutil.disk_usage(there).free
    if free < ROOM_BYTES:
        detail = f"{free / 1e9:.1f} GB are free where the cache is"
        yield Finding("disk", NOTE, detail, f"a large model needs {ROOM_BYTES / 1e9:.0f} GB: free some, or {elsewhere}")
    else:
        yield Finding("disk", OK, f"{free / 1e9:.1f} GB are free where the cache is")


def _models(root: Path) -> list[Path]:
    """Converted files in the cache."""
    return [path for path in (root / "native").rglob("*.safetensors") if _cache.record_path(path).is_file()]


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(prefix=".zoo-", dir=folder):
            return True
    except OSError:
        return False


def _network(cache_dir: Path | None) -> Iterator[Finding]:
    for kind, value in sorted(urllib.request.getproxies().items()):
        if kind in ("http", "https", "all"):
            yield Finding("proxy", OK, f"{kind} goes through {_cache.shown_url(value)}")
        elif kind == "no":
            yield Finding("proxy", OK, f"none is used for {value}")
    try:
        given = "is set" if _download.token() else "is not set: repositories that are private or gated are not seen"
        yield Finding("HF_TOKEN", OK, given)
    except DownloadError as error:
        yield Finding("HF_TOKEN", PROBLEM, str(error))
    if reason := _cache.offline():
        yield Finding("network", NOTE, f"{reason} forbids it; only what is in the cache is used")
        return
    try:
        addresses = [*_download.addresses(f"{_download.HUB}/"), *_download.addresses(f"{RELEASES}/")]
    except DownloadError as error:
        yield Finding("network", PROBLEM, str(error), "set it to an address, or unset it")
        return
    useful = bool(_models(_cache.root(cache_dir)))
    for address in dict.fromkeys(map(_download.served_by, addresses)):
        failure = _unreachable(address)
        if not failure:
            yield Finding("network", OK, f"{address} can be reached")
        else:
            advice = "set ZOO_MIRROR or a proxy, or fetch models elsewhere and set ZOO_CACHE and ZOO_OFFLINE=1"
            yield Finding("network", NOTE if useful else PROBLEM, f"{address} cannot be reached ({failure})", advice)


def _unreachable(address: str) -> str:
    """Why nobody answers there; empty when somebody does, whatever the answer."""
    import requests

    try:
        requests.head(f"{address}/", timeout=TIMEOUT_S, auth=_download.no_netrc).close()  # follows no redirect
    except (requests.RequestException, OSError, ValueError) as error:
        return _download.innermost_reason(error)
    return ""
