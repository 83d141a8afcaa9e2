"""What must not move unannounced: names, configurations, bytes, frame counts, command lines, signatures.

Each is a file in `snapshots`. `snapshots/ledger.json` lists their changes: the sentence of CHANGELOG.md that announced
it, and the hashes of the files it moved. So a plain checkout shows a change that nobody announced. To change one, write
a sentence under "Numerics" or "API" of [Unreleased] and run

    ZOO_UPDATE_SNAPSHOTS=1 ZOO_CHANGE="that sentence" python -m pytest tests/test_frozen.py

Text of other libraries, which differs between their versions, is left out: of a command line the options are kept, not
argparse's page; of a function its parameters, not inspect's way to print them.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import zoo
import zoo.__main__
import zoo.benchmark.__main__
import zoo.convert
import zoo.errors
from tests.families import BASELINES, KINDS, tiny
from tests.golden import generator
from zoo._registry import families
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOTS = ROOT / "tests" / "snapshots"
LEDGER = SNAPSHOTS / "ledger.json"
CHANGELOG = ROOT / "CHANGELOG.md"
BUNDLED = ROOT / "examples" / "hubert_tiny.pt"
DATA = ROOT / "tests" / "data"
UPDATE = "ZOO_UPDATE_SNAPSHOTS" in os.environ
# Sentences of refusals, which may be made clearer at any time; tests/test_bad_input.py keeps them.
NOT_FROZEN = {"bad_input.json", "bad_input_benchmark.json", "ledger.json"}
WAVEC_U = ("wav2vec_u", "wav2vec_u2")


pytestmark = pytest.mark.usefixtures("one_thread")


# --- what is held ------------------------------------------------------------------------------------------------


def parameter_names() -> object:
    """Native files, optimiser states and other people's code rely on them."""
    found = {}
    with torch.device("meta"):
        for name in (
            "wav2vec2_base_960", "wav2vec2_large_ll60k", "hubert_base", "hubert_large_ll60k", "distilhubert_base",
            "mms_1b_all", "wav2vec2_conformer_relpos", "wav2vec2_conformer_rope", "data2vec2_base_960", "tera", "mel",
        ):  # fmt: skip
            found[name] = sorted(zoo.build(name, **({} if name == "mel" else {"num_layers": 1})).state_dict())
        for name in ("data2vec_base_960", "wavlm_base", "wavlm_large", "unispeech_large_en", "unispeech_sat_base"):
            found[name] = sorted(zoo.build(name, num_layers=1).state_dict())
        for name in WAVEC_U:
            found[name] = sorted(zoo.build(name).state_dict())
        found["audio_albert, two layers"] = sorted(zoo.build("audio_albert", num_layers=2).state_dict())
        found["tera, norms first"] = sorted(zoo.build("tera", num_layers=1, norm_first=True).state_dict())
        found["hubert batch norm"] = sorted(zoo.build("hubert_base", num_layers=1, pos_conv_norm="batch").state_dict())
    return found


def configurations() -> object:
    """Fields and defaults: a native file holds every field; other people's code relies on the defaults."""
    return {
        family.config.__name__: {f.name: f.default for f in dataclasses.fields(family.config) if f.name != "family"}
        for family in families().values()
    }


def registry_names() -> object:
    """Name -> aliases and family; what a program or a script on a cluster spells."""
    return {name: {"aliases": zoo.info(name).aliases, "family": zoo.info(name).family} for name in zoo.list_models()}


def preset_configurations() -> object:
    """Name -> what its configuration says beside the defaults."""
    found = {}
    for name in zoo.list_models():
        config = zoo.info(name).config
        default = {field.name: field.default for field in dataclasses.fields(config)}
        found[name] = {field: value for field, value in config.to_dict().items() if value != default[field]}
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def filled(model: Model) -> Model:
    """The model with generated weights, which are the same everywhere."""
    state = {
        name: torch.from_numpy(generator.tensor(name, value.shape, 7, "usual"))
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def small(name: str) -> Model:
    """A tiny model of a kind; wav2vec-U is small as it is."""
    return zoo.build(name, input_dim=16, discriminator_dim=16) if name in WAVEC_U else tiny(name)


def checkpoints() -> dict[str, Path]:
    """Every genuine checkpoint in the repository that is converted without a question."""
    found = [BUNDLED, *DATA.glob("*.pt"), *DATA.glob("s3prl/*.ckpt"), *DATA.glob("wav2vec_u/*.pt")]
    found += [path for path in DATA.glob("hf/*") if path.is_dir()]
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(found)}


def native_files(folder: Path) -> object:
    """SHA-256 of what `zoo.save` and `zoo.convert` write: caches and fingerprints rely on the bytes."""
    found = {}
    target = folder / "model.safetensors"
    for name in (*KINDS, *BASELINES, *WAVEC_U):
        zoo.save(filled(small(name)), target)
        found[f"zoo.save of a tiny {name}"] = sha256(target)
    for name, path in checkpoints().items():
        assert zoo.convert.main([str(path), "-o", str(target), "--force"]) == 0
        found[name] = sha256(target)
    return found


COUNTS = (400, 401, 559, 560, 719, 720, 721, 799, 800, 879, 880, 1039, 1040, 1041, 4079, 4080, 8001)
FEATURES = (1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 30, 31, 32, 33)  # frames that wav2vec-U is given
LONG = (160_000, 1_234_567, 57_600_000)


@torch.no_grad()
def frame_counts() -> object:
    """Frames of utterances of some lengths, alone and by the reference's rule in one padded batch."""
    found: dict[str, Any] = {}
    for name in (*KINDS, *BASELINES, *WAVEC_U):
        model = small(name).eval()
        counts = [n for n in (FEATURES if model.takes == "features" else COUNTS) if n >= model.min_samples]
        draw = torch.Generator().manual_seed(0)
        shape = (model.config.width,) if model.takes == "features" else ()
        items = [0.1 * torch.randn(n, *shape, generator=draw) for n in counts]
        rows: dict[str, list[int]] = {}
        for mode in Model.PADDING_MODES:
            model.padding = mode
            out = model(items)
            rows[mode] = out.lengths.tolist()
            widest = out.hidden_states[0] if out.hidden_states else out.logits
            rows[f"{mode}, of the batch"] = [widest.shape[1]]
        assert rows["exact"] == [model.frame_count(n) for n in counts]
        found[name] = {"samples": counts, **rows, "min_samples": model.min_samples, "hop_length": model.hop_length}
        found[name]["long"] = {str(n): model.frame_count(n) for n in LONG}
    return found


def options(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What a parser takes and says of it, without argparse's layout."""
    found: dict[str, Any] = {"description": parser.description, "arguments": {}}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            words = {choice.dest: choice.help for choice in action._choices_actions}
            found["commands"] = {name: {"help": words[name], **options(p)} for name, p in action.choices.items()}
            continue
        facts = {
            "action": type(action).__name__.strip("_"),
            "type": getattr(action.type, "__name__", None),
            "metavar": action.metavar,
            "nargs": action.nargs or None,
            "const": action.const,
            "default": action.default,
            "choices": action.choices and [str(choice) for choice in action.choices],
            "required": action.required,
            "help": action.help,
        }
        plain = {key: value for key, value in facts.items() if value is not None and value is not False}
        found["arguments"][", ".join(action.option_strings) or action.dest] = plain
    return found


class Caught(Exception):
    """Carries the parser out of a program's `main`."""


def parser_of(program: ModuleType) -> argparse.ArgumentParser:
    def caught(parser: argparse.ArgumentParser, *rest: Any) -> int:
        raise Caught(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", caught)
        with pytest.raises(Caught) as holder:
            program.main([])
    parser: argparse.ArgumentParser = holder.value.args[0]
    return parser


PROGRAMS = {"zoo": zoo.__main__, "zoo.convert": zoo.convert, "zoo.benchmark": zoo.benchmark.__main__}


def command_lines() -> object:
    """Options, defaults and help of every command."""
    return {name: options(parser_of(program)) for name, program in PROGRAMS.items()}


COMMANDS = [
    "zoo list hubert_base",
    "zoo list *_ft_960h",
    "zoo list hubert_base --json",
    "zoo info hubert_base",
    "zoo info hubert_base --json",
    "zoo info tera",
    "zoo.convert BUNDLED -o out.safetensors",
    "zoo.convert BUNDLED -o out.safetensors --force --json",
    "zoo.convert BUNDLED --inspect",
    "zoo.convert BUNDLED --inspect --json",
    *(f"zoo.convert BUNDLED --dry-run --to {target}" for target in zoo.convert.SUFFIXES),
    "zoo.convert BUNDLED --dry-run --json",
    "zoo.convert BUNDLED --dry-run --to hf --json",
    "zoo.convert BUNDLED -o out.hf --to hf --json",
    "zoo extract AUDIO -o features --model BUNDLED --layers 0,-1",
    "zoo extract AUDIO -o features --model BUNDLED --force --json",
    "zoo verify out.safetensors",
    "zoo verify out.safetensors --json",
]


def steady(text: str, folder: Path) -> str:
    """Output without what differs between machines, versions and runs."""
    text = text.replace(str(folder), "FOLDER").replace(str(ROOT), "ROOT").replace(zoo.__version__, "VERSION")
    text = text.replace(torch.__version__, "TORCH").replace(os.sep, "/")
    return re.sub(r"\b\d+(\.\d+)?(?= s\b)", "N", text)


def command_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> object:
    """What commands print: other people's programs read it."""
    found: dict[str, Any] = {}
    words = {"BUNDLED": str(BUNDLED), "AUDIO": str(ROOT / "examples" / "audio" / "0_theo_0.wav")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ZOO_CACHE", str(folder / "cache"))
        patch.setenv("ZOO_OFFLINE", "1")
        for line in COMMANDS:
            program, *arguments = (words.get(word, word) for word in line.split())
            capsys.readouterr()
            status = PROGRAMS[program].main(arguments)
            text = steady(capsys.readouterr().out, folder)
            printed = json.loads(text) if "--json" in arguments else text.splitlines()
            found[line] = {"status": status, "stdout": printed}
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    found["written"] = sorted(name for name in written if not name.startswith("cache/"))
    found["index.jsonl"] = steady((folder / "features" / "index.jsonl").read_text(), folder).splitlines()
    return found


def annotation(value: object) -> str:
    """As it stands in the source, which `from __future__ import annotations` keeps."""
    value = getattr(value, "__forward_arg__", value)
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def signature(function: Callable[..., object]) -> list[str]:
    """One entry for each parameter, and what is returned."""
    marks = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**", "KEYWORD_ONLY": "keyword ", "POSITIONAL_ONLY": "place "}
    found = []
    for parameter in inspect.signature(function).parameters.values():
        text = marks.get(parameter.kind.name, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            default = parameter.default
            text += f" = {default.__name__ if inspect.isroutine(default) else default!r}"
        found.append(text)
    returned = inspect.signature(function).return_annotation
    return [*found, f"-> {annotation(returned)}" if returned is not inspect.Signature.empty else "-> ?"]


def members(cls: type) -> dict[str, Any]:
    """The public attributes that a class defines itself, and its constructor."""
    found: dict[str, Any] = {"bases": [base.__name__ for base in cls.__bases__]}
    if issubclass(cls, tuple):
        return found | {
            "fields": [f"{name}: {annotation(cls.__annotations__[name])}" for name in cls._fields],  # type: ignore[attr-defined]
            "defaults": {name: repr(value) for name, value in cls._field_defaults.items()},  # type: ignore[attr-defined]
        }
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property | cached_property):
            found[name] = "property" + (", can be set" if getattr(value, "fset", None) else "")
        elif isinstance(value, staticmethod | classmethod):
            found[name] = [type(value).__name__, *signature(value.__func__)]
        elif inspect.isfunction(value):
            found[name] = signature(value)
        elif not dataclasses.is_dataclass(cls):
            found[name] = repr(value)
    return found


def public(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that a module defines itself, or exports."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in sorted(names)}


MODULES = ("zoo", "zoo.testing", "zoo.compat.s3prl", "zoo.compat.mteb", "zoo.compat.xares")


def public_interface() -> object:
    """Parameters, defaults and annotations of what is public; methods and properties of the model classes."""
    found: dict[str, Any] = {}
    objects = {f"{name}.{key}": value for name in MODULES for key, value in public(import_module(name)).items()}
    objects["zoo.convert.main"] = zoo.convert.main
    objects |= {f"zoo.errors.{k}": v for k, v in public(zoo.errors).items() if inspect.isclass(v)}
    for family in families().values():
        for cls in reversed(family.model.__mro__):
            if cls.__module__.startswith("zoo."):
                objects[f"{cls.__module__}.{cls.__name__}"] = cls
    for name, value in objects.items():
        if inspect.isclass(value):
            found[name] = members(value)
        elif inspect.isroutine(value):
            found[name] = signature(value)
    return found


FROZEN: dict[str, Callable[..., object]] = {
    make.__name__: make
    for make in (
        parameter_names, configurations, registry_names, preset_configurations, native_files, frame_counts,
        command_lines, command_output, public_interface,
    )
}  # fmt: skip

# --- files, and the sentences that announce their changes --------------------------------------------------------


def written(found: object) -> str:
    """As it is committed: what is short on one line, so that a difference reads well."""
    return rendered(json.loads(json.dumps(found)), "") + "\n"


def rendered(value: Any, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False)
    numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    if not isinstance(value, dict | list) or numbers or len(line) < 80:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(name, ensure_ascii=False)}: {rendered(item, inner)}" for name, item in value.items()]
    else:
        items = [rendered(item, inner) for item in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return begin + "\n" + ",\n".join(inner + item for item in items) + f"\n{indent}{end}"


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from leaves(value, f"{path}/{name}")
    elif isinstance(tree, list) and any(isinstance(value, dict | str) for value in tree):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}/{i}")
    else:
        yield path, tree


def moved(before: str, after: str) -> str:
    """What differs between two states of a snapshot, a line each."""
    old, new = (dict(leaves(json.loads(text))) for text in (before, after))
    lines = [f"  gone: {name}" for name in old if name not in new]
    lines += [f"  new: {name} = {new[name]!r}" for name in new if name not in old]
    lines += [f"  {name}: {old[name]!r} -> {new[name]!r}" for name in old if name in new and old[name] != new[name]]
    more = [f"  and {len(lines) - 30} more"] if len(lines) > 30 else []
    return "\n".join([line[:300] for line in lines[:30]] + more) or "  the order or the layout of the file"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def announcements(changelog: str) -> dict[str, list[str]]:
    """Release -> its text under "Numerics" and "API", line breaks aside."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        release, *sections = re.split(r"^### ", part, flags=re.MULTILINE)
        kept = [section for section in sections if section.split("\n")[0].strip() in ("Numerics", "API")]
        found[release.split("\n")[0].strip()] = [" ".join(section.split()) for section in kept]
    return found


def said(sentence: str, changelog: str, release: str = "") -> bool:
    """Whether a sentence stands under "Numerics" or "API" of a release that begins so."""
    parts = [text for name, texts in announcements(changelog).items() if name.startswith(release) for text in texts]
    return len(sentence) >= 20 and any(" ".join(sentence.split()) in text for text in parts)


def complaints(snapshots: Path, changelog: str) -> list[str]:
    """What is wrong between snapshots, ledger and changelog."""
    ledger = json.loads((snapshots / "ledger.json").read_text(encoding="utf-8"))
    known = {name: sha256 for change in ledger for name, sha256 in change["moved"].items()}  # the last ones
    files = {path.name for path in snapshots.glob("*.json")} - NOT_FROZEN
    found = [f"{name} is in the ledger or in the folder, but not in both" for name in sorted(files ^ known.keys())]
    for name in sorted(files & known.keys()):
        if known[name] != digest((snapshots / name).read_text(encoding="utf-8")):
            found.append(f"{name} was changed without an announcement")
    sentences = collections.Counter(change["announced"] for change in ledger)
    for sentence, count in sentences.items():
        if not said(sentence, changelog):
            found.append(f'"{sentence}" stands in the ledger, but not under Numerics or API of CHANGELOG.md')
        if count > 1:
            found.append(f'two changes are announced by one sentence, "{sentence}"')
    return found


HOW = (
    "If this is not meant, undo it. If it is, say what a caller will notice in a sentence under Numerics or API of\n"
    "[Unreleased] in CHANGELOG.md, a new one for each change, and run\n"
    '  ZOO_UPDATE_SNAPSHOTS=1 ZOO_CHANGE="that sentence" python -m pytest tests/test_frozen.py'
)


def update(name: str, text: str, snapshots: Path, changelog: str, sentence: str) -> None:
    """Write a snapshot that moved and the announcement of it, or say why not."""
    path, ledger_path = snapshots / f"{name}.json", snapshots / "ledger.json"
    before = path.read_text(encoding="utf-8") if path.exists() else "{}"
    ledger = json.loads(ledger_path.read_text(encoding="utf-8")) if ledger_path.exists() else []
    states = [change["moved"][path.name] for change in ledger if path.name in change["moved"]]
    if states[-1:] == [digest(text)] and before == text:
        return
    sentence = " ".join(sentence.split())
    change = next((change for change in ledger if change["announced"] == sentence), None)
    why = ""
    if not sentence:
        why = "ZOO_CHANGE says nothing"
    elif not said(sentence, changelog, "[Unreleased]"):
        why = f"{sentence!r} of ZOO_CHANGE does not stand there, or is too short"
    elif change and (change is not ledger[-1] or path.name in change["moved"]):
        why = f"{sentence!r} of ZOO_CHANGE has announced an earlier change (before a commit, take that back first)"
    if why:
        pytest.fail(f"{path.name} was not written: {why}.\n{moved(before, text)}\n{HOW}", pytrace=False)
    print(f"{path.name} is written anew:\n{moved(before, text)}")
    if change is None:
        ledger.append(change := {"announced": sentence, "moved": {}})
    change["moved"] = dict(sorted({**change["moved"], path.name: digest(text)}.items()))
    path.write_text(text, encoding="utf-8")
    ledger_path.write_text(written(ledger), encoding="utf-8")


@pytest.mark.parametrize("name", FROZEN)
def test_nothing_moved(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make = FROZEN[name]
    given = {"folder": tmp_path}
    if "capsys" in inspect.signature(make).parameters:
        given["capsys"] = request.getfixturevalue("capsys")
    text = written(make(**{key: value for key, value in given.items() if key in inspect.signature(make).parameters}))
    path = SNAPSHOTS / f"{name}.json"
    if UPDATE:
        update(name, text, SNAPSHOTS, CHANGELOG.read_text(encoding="utf-8"), os.environ.get("ZOO_CHANGE", ""))
    committed = path.read_text(encoding="utf-8")
    if text != committed:
        pytest.fail(f"{path.name} has moved:\n{moved(committed, text)}\n{HOW}", pytrace=False)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Of every command, whatever argparse's layout is."""
    for program in PROGRAMS.values():
        tree = options(parser_of(program))
        for name, command in {"": tree, **tree.get("commands", {})}.items():
            assert program.main([*filter(None, [name]), "--help"]) == 0
            printed = capsys.readouterr().out
            words = {word for argument in command["arguments"] for word in argument.split(", ")}
            assert {word for word in words if word.startswith("-") and word not in printed} == set()


def test_every_change_is_announced() -> None:
    found = complaints(SNAPSHOTS, CHANGELOG.read_text(encoding="utf-8"))
    if found:
        pytest.fail("\n".join([*found, HOW]), pytrace=False)


def test_every_snapshot_is_made_by_a_test() -> None:
    assert {f"{name}.json" for name in FROZEN} | NOT_FROZEN == {path.name for path in SNAPSHOTS.glob("*.json")}


# --- the demand itself -------------------------------------------------------------------------------------------

FIRST, SECOND = "Registry names are frozen from here on.", "`hubert` now means another model."
LOG = """# Changelog

## [Unreleased]

### Added

- {added}

### API

- {api}

## [0.1.0]

### Numerics

- {old}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    update("names", '{"a": 1}\n', tmp_path, LOG.format(added="", api=FIRST, old=""), FIRST)
    return tmp_path


def test_what_is_announced_is_accepted(folder: Path) -> None:
    later = LOG.format(added="", api=SECOND.replace(" now ", "\n  now "), old=FIRST)
    assert not complaints(folder, later)
    update("names", '{"a": 2}\n', folder, later, SECOND)
    update("others", "{}\n", folder, later, SECOND)
    assert not complaints(folder, later)
    first, second = json.loads((folder / "ledger.json").read_text())
    assert first["announced"] == FIRST and first["moved"].keys() == {"names.json"}
    assert second["announced"] == SECOND and second["moved"].keys() == {"names.json", "others.json"}


@pytest.mark.parametrize(
    ("log", "sentence", "why"),
    [
        (LOG.format(added=SECOND, api=FIRST, old=""), SECOND, "does not stand there"),
        (LOG.format(added="", api=FIRST, old=SECOND), SECOND, "does not stand there"),  # of an earlier release
        (LOG.format(added="", api=FIRST, old=""), FIRST, "announced an earlier change"),
        (LOG.format(added="", api=FIRST, old=""), "", "says nothing"),
    ],
)
def test_an_update_without_a_new_sentence_is_refused(log: str, sentence: str, why: str, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(pytest.fail.Exception, match=f"(?s){why}.*/a: 1 -> 2.*ZOO_CHANGE="):
        update("names", '{"a": 2}\n', folder, log, sentence)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_change_that_nobody_announced_is_seen(folder: Path) -> None:
    log = LOG.format(added="", api=FIRST, old="")
    (folder / "names.json").write_text('{"a": 2}\n')
    assert complaints(folder, log) == ["names.json was changed without an announcement"]
    (change,) = json.loads((folder / "ledger.json").read_text())
    forged = {"announced": FIRST, "moved": {"names.json": digest('{"a": 2}\n')}}
    (folder / "ledger.json").write_text(json.dumps([change, forged]))
    assert complaints(folder, log) == [f'two changes are announced by one sentence, "{FIRST}"']
    (folder / "ledger.json").write_text(json.dumps([change, forged | {"announced": SECOND}]))
    assert "not under Numerics or API" in complaints(folder, log)[0]
    assert not complaints(folder, LOG.format(added="", api=f"{FIRST} {SECOND}", old=""))
    (folder / "other.json").write_text("{}")
    assert complaints(folder, log)[0] == "other.json is in the ledger or in the folder, but not in both"


def test_the_list_of_what_moved() -> None:
    before, after = '{"a": {"b": [1, 2], "c": ["x", "y"]}, "d": 1}', '{"a": {"b": [1, 3], "c": ["x", "z"]}, "e": null}'
    assert moved(before, after).splitlines() == [
        "  gone: /d", "  new: /e = None", "  /a/b: [1, 2] -> [1, 3]", "  /a/c/1: 'y' -> 'z'",
    ]  # fmt: skip


def test_a_file_as_it_is_committed_is_what_was_found() -> None:
    for make in (configurations, registry_names, command_lines):
        found = make()
        assert json.loads(written(found)) == json.loads(json.dumps(found))
