"""`python -m zoo verify`: whether a checkpoint is whole, fits its model, and computes what was recorded of it."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from zoo import _cache, list_models, load, testing
from zoo._cli import Commands
from zoo._digest import Digest
from zoo._registry import find
from zoo._repository import PREFIX, parse
from zoo.converters import match, open_conversion
from zoo.errors import DownloadError, InputError, UnknownModelError, ZooError, printable
from zoo.models._family import Source

BESIDE = ".fingerprint.json"  # behind the name of a checkpoint
WEIGHTS = (".safetensors", ".bin")  # of a folder
OK, FAILED, UNCHECKED = "ok", "failed", "not checked"


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "verify", help="check a checkpoint's hash, its tensors, and what it computes", description=__doc__
    )
    command.add_argument("model", metavar="NAME|PATH", help="checkpoint, or name of a model in the cache")
    command.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="FILE",
        help=f"write what it computes instead of comparing it (default: PATH{BESIDE}, or fingerprints/NAME.json in the "
        "cache)",
    )
    command.add_argument("--against", type=Path, metavar="FILE", help="what to compare with, as --record wrote it")
    command.add_argument("--force", action="store_true", help="let --record replace a file")
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="the cache (default: see python -m zoo doctor)")
    command.set_defaults(run=_verify)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and how it ended."""

    what: str
    result: str
    detail: str


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        files: to be hashed.
        checkpoints: whose tensors are matched, each with the language to take of it.
        fingerprint: where its fingerprint is expected.
        anew: how a damaged file is replaced.
    """

    files: tuple[Path, ...]
    checkpoints: tuple[tuple[Path, str], ...]
    fingerprint: Path
    anew: str


def _verify(args: argparse.Namespace) -> int:
    if args.record is not None and args.against is not None:
        raise InputError("--record and --against were both given; give one")
    path, root = Path(args.model), _cache.root(args.cache_dir)
    subject = _file(path) if path.exists() else _name(args.model, args.cache_dir)
    target = _target(args, subject)
    known, checks = _known(root), list[Check]()

    def say(check: Check) -> None:
        checks.append(check)
        if not args.json:
            print(printable(f"{check.what}: {check.result}; {check.detail}"), flush=True)

    hashes = {file: Digest(file).result() for file in subject.files}
    for file, sha256 in hashes.items():
        say(_hash(file, sha256, known, subject))
    for file, language in subject.checkpoints:
        say(_keys(file, language, known))
    if not hashes:
        say(Check("hash", UNCHECKED, "it has no weights, so no file"))
    if any(check.result == FAILED for check in checks):
        say(Check("fingerprint", UNCHECKED, "what is damaged or does not fit is not run"))
    else:
        say(_fingerprint(args, subject, target))
    ok = all(check.result != FAILED for check in checks)
    if args.json:
        names = sorted({name for sha256 in hashes.values() for name in known.get(sha256, ())})
        record = {"model": args.model, "is": names, "ok": ok, "checks": [asdict(check) for check in checks]}
        print(json.dumps(record, indent=1))
    return 0 if ok else 1


def _file(path: Path) -> Subject:
    """A checkpoint that the user has: a file, or a folder with weights."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    beside = path.with_name(f"{path.name or path.resolve().name}{BESIDE}")
    return Subject(tuple(files), ((path, ""),), beside, "fetch or convert it again")


def _name(name: str, cache_dir: Path | None) -> Subject:
    """A model of the cache: the native file that is loaded, and what it was made from."""
    from zoo import _hub

    options = _hub.Options(cache_dir)
    fingerprints = options.root / "fingerprints"
    if name.startswith(PREFIX):
        repository = parse(name)
        sources: tuple[Source, ...] = (Source("huggingface", name),)
        natives = sorted((options.native / "hf" / repository.org / repository.name).glob("*.safetensors"))
        fingerprint = (
            fingerprints / "hf" / repository.org / f"{repository.name}@{quote(repository.revision, safe='')}.json"
        )
    else:
        try:
            named = _hub.Named(name, options)
        except UnknownModelError as error:
            raise UnknownModelError(f"{name} does not exist as a path, and {error}") from None
        sources, natives = named.preset.sources, [named.target]
        fingerprint = fingerprints / f"{named.preset.name}.json"
        if not named.preset.parameters:
            return Subject((), (), fingerprint, "")
    files = [native for native in natives if native.is_file() and _cache.read_record(native) is not None]
    checkpoints = [(file, "") for file in files]
    for source in sources:
        originals = _recorded(source, options.root)
        files += originals
        wholes = {file.parent if source.url.startswith(PREFIX) else file for file in originals}
        checkpoints += [(whole, source.language) for whole in sorted(wholes)]
    if not files:
        raise DownloadError(
            f"{name} is not in the cache ({options.root}): there is nothing to verify; fetch it with python -m zoo "
            f"fetch {name}, or give the path of a file"
        )
    return Subject(tuple(files), tuple(checkpoints), fingerprint, f"python -m zoo fetch {name} --refresh")


def _recorded(source: Source, root: Path) -> list[Path]:
    """The files of a source that are in the cache."""
    if source.url.startswith(PREFIX):
        folder = parse(source.url).folder(root)
        files = [file for file in sorted(folder.glob("*/*")) if file.suffix in WEIGHTS]
    else:
        files = [_cache.place(root, source.url)] if source.url else []
    return [file for file in files if file.is_file() and _cache.read_record(file) is not None]


def _known(root: Path) -> Mapping[str, list[str]]:
    """SHA-256 -> names of the models whose released file has it, by the registry or by what was once fetched."""
    known: dict[str, list[str]] = defaultdict(list)
    for name in list_models():
        for source in find(name)[1].sources:
            records = map(_cache.read_record, _recorded(source, root))
            for sha256 in {source.sha256, *(record.sha256 for record in records if record is not None)}:
                if sha256 is not None:
                    known[sha256].append(name)
    return known


def _hash(file: Path, sha256: str, known: Mapping[str, list[str]], subject: Subject) -> Check:
    """Hold the hash of a file against the cache's record of it and against the registry's."""
    record = _cache.read_record(file)
    if record is not None and record.sha256 != sha256:
        return Check(
            "hash",
            FAILED,
            f"{file} is damaged or replaced: its sha256 is {sha256} instead of the {record.sha256} that was recorded; "
            f"{subject.anew}",
        )
    if record is not None:
        for name in list_models():
            for source in find(name)[1].sources:
                if source.url == record.url and source.sha256 not in (None, sha256):
                    return Check(
                        "hash",
                        FAILED,
                        f"{file} has the sha256 {sha256} instead of the {source.sha256} that {source.cited} states; "
                        f"{subject.anew}",
                    )
    of = f"this is {' or '.join(known[sha256])}; " if sha256 in known else ""
    if of or record is not None:
        recorded = "" if record is None else ", as recorded"
        return Check("hash", OK, f"{of}{file} has the sha256 {sha256}{recorded}")
    return Check("hash", UNCHECKED, f"{file} has the sha256 {sha256}, and no known one to compare with")


def _keys(path: Path, language: str, known: Mapping[str, list[str]]) -> Check:
    """Match every tensor of a checkpoint with a parameter."""
    try:
        with open_conversion(path, language=language or None) as conversion:
            if conversion.dialect == "zoo":
                match(conversion.reading, optional=False)  # as zoo.load does
            found = conversion.assignment
            heads = sum(name.startswith(testing.HEADS) for name in found.filled)
            counts = (
                f"{len(found.filled) + len(found.dropped)} tensors ({conversion.dialect}): {len(found.filled) - heads} "
                f"fill a parameter each, {heads} belong to heads, {len(found.dropped)} are dropped with a reason; "
                f"{len(found.made_up)} parameters are made up"
            )
            names = known.get(str(conversion.provenance().get("sha256")), ())
            made = f"; it says that it was made from {' or '.join(names)}" if names else ""
            return Check("tensors", OK, f"{path} has {counts}{made}")
    except ZooError as error:
        return Check("tensors", FAILED, str(error))


def _target(args: argparse.Namespace, subject: Subject) -> Path | None:
    """Where to write the fingerprint, if it is to be written."""
    if args.record is None:
        return None
    target = Path(args.record) if args.record else subject.fingerprint
    if target.exists() and not args.force:
        raise InputError(f"{target} exists already; replace it with --force or name another file with --record FILE")
    if not args.record:
        target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.is_dir():
        raise InputError(f"{target} cannot be written: the folder {target.parent} does not exist")
    return target


def _fingerprint(args: argparse.Namespace, subject: Subject, target: Path | None) -> Check:
    """Run the model, and compare what it computes or write it."""
    what, against = "fingerprint", args.against or subject.fingerprint
    if target is None and args.against is None and not against.exists():
        return Check(what, UNCHECKED, "no recorded values: nothing to compare with; --record writes them")
    try:
        model = load(args.model, heads=True, cache_dir=args.cache_dir, local_files_only=True)
        if target is not None:
            testing.record(model, target)
            return Check(what, OK, f"written to {target}; nothing was compared")
        largest = testing.check(model, against)
    except ZooError as error:
        return Check(what, FAILED, str(error))
    differences = ", ".join(f"{kind} {value:.1e}" for kind, value in largest.items())
    return Check(what, OK, f"as recorded in {against}; largest differences: {differences}")
