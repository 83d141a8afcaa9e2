"""The registry: names, sources, licences, what is known to be dead or not supported, and the tables made from it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from scripts import model_table
from zoo import __main__ as command_line
from zoo._registry import families, find
from zoo.converters import dialects
from zoo.errors import UnknownModelError
from zoo.models._family import NO_LINK, SOURCE_CODES, Source, source, sources
from zoo.models._unsupported import UNSUPPORTED

ROOT = Path(__file__).resolve().parent.parent
PRESETS = {preset.name: preset for family in families().values() for preset in family.presets}
SOURCES = [(preset.name, source) for preset in PRESETS.values() for source in preset.sources]
# Of https://spdx.org/licenses; "NOASSERTION" is what the standard has for "not stated".
SPDX = {"MIT", "Apache-2.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-SA-3.0", "NOASSERTION"}
INVENTORY = [
    tuple(line.split(" "))
    for line in (ROOT / "tests" / "data" / "inventory.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_a_name_or_alias_means_one_model() -> None:
    counted = Counter(name for preset in PRESETS.values() for name in (preset.name, *preset.aliases))
    counted.update(name for model in UNSUPPORTED for name in model.names)
    assert [name for name, times in counted.items() if times > 1] == []
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in counted)
    assert len(PRESETS) == sum(len(family.presets) for family in families().values()) > 200
    for preset in PRESETS.values():
        for name in (preset.name, *preset.aliases):
            assert find(name)[1] is preset
            assert zoo.list_models(name) == [name]


# --- sources -----------------------------------------------------------------------------------------------------


def complaints(url: str) -> Iterator[str]:
    """What is wrong with the address of a source."""
    if url.startswith("hf:"):
        if not re.fullmatch(r"hf:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", url):
            yield "no repository of Hugging Face"
        return
    if not re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]+(/[\w.+-]+)+(\?dl=1)?", url):
        yield "no plain https address of a file"
    if "//" in url.removeprefix("https://") or "/../" in url:
        yield "an address with an empty or a relative part"


@pytest.mark.parametrize(
    "url",
    [
        "http://dl.fbaipublicfiles.com/a.pt",
        "https://dl.fbaipublicfiles.com/a b.pt",
        "https://dl.fbaipublicfiles.com//a.pt",
        "https://dl.fbaipublicfiles.com/../a.pt",
        "https://user:password@example.com/a.pt",
        "https://example.com/a.pt?sig=secret",
        "https://example.com/",
        "hf:facebook",
        "hf:facebook/../x",
        "hf:facebook/a b",
    ],
)
def test_a_bad_address_is_noticed(url: str) -> None:
    assert list(complaints(url))


def test_sources_are_well_formed() -> None:
    for _, where in SOURCES:
        assert list(complaints(where.url)) == [], where
        assert where.dialect in dialects(), where
        assert where.url.startswith("hf:") == (where.dialect == "huggingface"), where
        stated = where.sha256 is not None or where.size is not None
        assert where.cited.startswith("https://") if stated else where.cited == "", where
        assert where.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", where.sha256), where
        assert where.dead == where.dead.strip(" ."), where


def test_no_two_models_share_a_source() -> None:
    assert [url for url, times in Counter(where.url for _, where in SOURCES).items() if times > 1] == []


def test_sources_that_work_come_first() -> None:
    dead = source("FBH:a.pt", dead="gone")
    assert sources(dead, "FBH:b.pt", "HF:a/b") == (*sources("FBH:b.pt", "HF:a/b"), dead)
    for preset in PRESETS.values():
        marks = [bool(where.dead) for where in preset.sources]
        assert marks == sorted(marks), preset.name


def test_every_short_form_is_used() -> None:
    used = {code for code, (_, base) in SOURCE_CODES.items() if any(w.url.startswith(base) for _, w in SOURCES)}
    assert used == SOURCE_CODES.keys()


def test_an_mms_file_of_many_languages_says_which_one_is_meant() -> None:
    many = {name for name, where in SOURCES if "/mms/asr/" in where.url}
    assert many == {name for name, where in SOURCES if where.language} == set(zoo.list_models("mms_1b_*"))


# --- facts -------------------------------------------------------------------------------------------------------


def test_facts_of_every_model() -> None:
    for name in PRESETS:
        info = zoo.info(name)
        assert info.licence in SPDX, name
        assert info.licence != "NOASSERTION" or info.licence_notes, f"{name}: who states nothing, who contradicts whom?"
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", info.paper), name
        assert info.hop > 0 and info.sample_rate >= 0 and info.data, name
        assert info.parameters or not info.sources, name
        assert json.loads(json.dumps(dataclasses.asdict(info)))["name"] == name
        first = info.sources[0] if info.sources else Source("", "")
        assert (info.sha256, info.size) == (first.sha256, first.size), name


def test_contradictions_about_licences_are_stated() -> None:
    for name in ("wav2vec2_base_960", "hubert_base"):
        assert zoo.info(name).licence == "MIT" and "Apache-2.0" in zoo.info(name).licence_notes
    assert {"CC-BY-SA-3.0", "MIT"} <= set(re.findall(r"[\w.-]+[\w]", zoo.info("wavlm_large").licence_notes))
    assert "does not mention the weights" in zoo.info("unispeech_large_en").licence_notes


def test_a_model_without_a_live_link_says_what_to_use() -> None:
    dead = {p.name: p for p in PRESETS.values() if p.sources and all(where.dead for where in p.sources)}
    assert {"unispeech_large_plus_fr", "unispeech_large_multi_ky", "wav2vec2_large_s2st_es_voxpopuli"} <= dead.keys()
    for preset in dead.values():
        assert preset.notes.startswith(NO_LINK), preset.name
        instead = re.match(r"\w+", preset.notes.removeprefix(NO_LINK))
        assert instead and not zoo.info(instead[0]).sources[0].dead
    assert not any(NO_LINK in p.notes for p in PRESETS.values() if p.name not in dead)


@pytest.mark.parametrize("name", [name for model in UNSUPPORTED for name in model.names])
def test_a_name_that_is_not_supported_says_why_and_what_to_use(name: str) -> None:
    (model,) = (model for model in UNSUPPORTED if name in model.names)
    for ask in (zoo.info, zoo.build, find):
        with pytest.raises(UnknownModelError) as caught:
            ask(name)
        text = str(caught.value)
        assert name in text and model.reason in text and "; use " in text and "\n" not in text
    named = re.findall(r"\b[a-z0-9]+_\w+|\bdistilhubert\b", model.instead)
    assert named and all(zoo.info(instead).parameters for instead in named)


# --- the inventory -----------------------------------------------------------------------------------------------


def known(address: str) -> set[str]:
    """Names of the models that have an address among their sources."""
    return {name for name, where in SOURCES if where.url.removeprefix("https://") == address}


def test_the_inventory_has_names() -> None:
    for name, address in INVENTORY:
        if address == "-":
            with pytest.raises(UnknownModelError, match="which is not supported, because"):
                zoo.info(name)
        else:
            found = known(address)
            assert len(found) == 1, f"{address} is no source"
            assert name == "-" or {zoo.info(name).name} == found, f"{name} is not the model of {address}"


def test_the_inventory_would_notice_what_is_missing() -> None:
    assert len(INVENTORY) > 400 and {len(entry) for entry in INVENTORY} == {2}
    assert known("dl.fbaipublicfiles.com/fairseq/wav2vec/wav2vec_large.pt") == set()
    assert known("hf:facebook/w2v-bert-2.0") == set()
    with pytest.raises(UnknownModelError):
        zoo.info("wav2vec_large")


# --- commands ----------------------------------------------------------------------------------------------------


def test_list_says_what_cannot_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list", "unispeech_large_*"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == set(zoo.list_models("unispeech_large_*"))
    for name, line in lines.items():
        assert ("no link works any more" in line) == ("_plus_" in name or name.endswith("multi_ky"))
        assert "CC-BY-SA-3.0" in line and "315.4 M" in line


def test_list_as_json_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == sorted(PRESETS)
    fields = {field.name for field in dataclasses.fields(zoo.ModelInfo)}
    assert all(record.keys() == fields for record in records)
    assert {tuple(where) for record in records for where in record["sources"]} == {
        tuple(field.name for field in dataclasses.fields(Source))
    }


def test_info_says_what_is_dead_and_who_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["info", "WAVLM_LARGE"]) == 0
    out = capsys.readouterr().out
    assert "name: wavlm_large\n" in out and "licence_notes: CC-BY-SA-3.0 by " in out
    url, dead = (line.strip() for line in out.split("WavLM-Large.pt")[1].splitlines()[:2])
    assert url == "" and dead.startswith("dead: ") and "issue 56" in dead
    assert command_line.main(["info", "hubert_base"]) == 0
    out = capsys.readouterr().out
    assert out.index("    sha256: 1703cf8d") < out.index("    cited: https://github.com/facebookresearch/textlesslib/")


WITHOUT = """
import importlib.abc, json, sys, torch, numpy, safetensors.torch

allowed = set(sys.stdlib_module_names) | {"zoo", "torch", "numpy", "safetensors"}
allowed |= {name.partition(".")[0] for name in sys.modules} - set(json.loads(sys.argv[1]))

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is blocked")

for name in [name for name in sys.modules if name.partition(".")[0] in json.loads(sys.argv[1])]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
for name in json.loads(sys.argv[1]):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can still be imported")
import zoo, zoo.__main__
print(json.dumps([zoo.list_models(), zoo.list_models("*hubert*"), [zoo.info(n).hop for n in zoo.list_models()]]))
sys.exit(zoo.__main__.main(["list", "--json"]) or zoo.__main__.main(["info", "hubert"]))
"""


def test_the_registry_needs_no_other_package() -> None:
    optional = ["requests", "urllib3", "tqdm", "filelock", "soundfile", "soxr", "onnx", "onnxscript", "packaging"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(optional)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    names, some, hops = json.loads(done.stdout.splitlines()[0])
    assert names == zoo.list_models() and some == zoo.list_models("*hubert*") and len(hops) == len(names)


# --- tables ------------------------------------------------------------------------------------------------------


def expanded(text: str) -> list[str]:
    """What a shell makes of a text with one pair of braces."""
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", text)
    return [found[1] + part + found[3] for part in found[2].split(",")] if found else [text]


def test_the_tables_are_what_the_registry_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert model_table.main(["--check"]) == 0, capsys.readouterr().out


def test_the_tables_have_every_name() -> None:
    cells = [line.split(" | ") for line in model_table.compact()][2:]
    names = [name for cell in cells if "**" not in cell[0] for name in expanded(cell[0].strip("|` "))]
    assert sorted(names) == zoo.list_models()
    aliases = [alias for cell in cells if len(cell) > 1 for alias in re.findall(r"`(\w+)`", cell[1])]
    assert sorted(aliases) == sorted(alias for preset in PRESETS.values() for alias in preset.aliases)
    every = [re.findall(r"`(\w+)`", line.split(" | ")[0]) for line in model_table.every()][2:]
    assert sorted(name for (name,) in every) == zoo.list_models()


def test_a_table_that_is_not_current_is_noticed_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    for file in ("README.md", "docs/models.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    readme = tmp_path / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text.replace("`hubert_fisher`", "`hubert_angler`"), encoding="utf-8")
    assert model_table.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out.startswith("README.md: table 'models' is not what the registry says; run ")
    assert "hubert_angler" in readme.read_text(encoding="utf-8")
    assert model_table.main([], tmp_path) == 0 == model_table.main(["--check"], tmp_path)
    assert readme.read_text(encoding="utf-8") == text
    readme.write_text(text.replace("<!-- /models -->", ""), encoding="utf-8")
    with pytest.raises(SystemExit, match="it must have one <!-- models -->"):
        model_table.main(["--check"], tmp_path)


def test_neighbours_share_a_row_only_when_they_are_alike() -> None:
    rows = [line for line in model_table.compact() if "no link works any more" in line]
    names = {name for line in rows for name in expanded(line.split(" | ")[0].strip("|` "))}
    assert names == {p.name for p in PRESETS.values() if p.sources and all(where.dead for where in p.sources)}
