"""From a name to numbers, for every kind of source; every source of a name gives the same ones bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import zoo
from tests.exporting import DATA
from tests.hub import models
from tests.hub import server as twists
from tests.hub.models import HUBERT, WAVLM, Files, config_of, registered, same_weights, tiny
from tests.hub.server import Repository, Server
from zoo._registry import find
from zoo.errors import DownloadError
from zoo.models._family import Model, Source

FAIRSEQ = Source("fairseq", "https://dl.fbaipublicfiles.com/hubert/tiny_hubert.pt")
ARCHIVE = Source("fairseq", "https://dl.fbaipublicfiles.com/voxpopuli/models/vp_asr/tiny.tar")
MICROSOFT = Source("microsoft", "https://huggingface.co/s3prl/converted_ckpts/resolve/main/tiny_wavlm.pt")
CONVERTED = Source("s3prl_converted", "https://huggingface.co/s3prl/converted_ckpts/resolve/main/tiny_hubert.pt")
TORCHAUDIO = Source("torchaudio", "https://download.pytorch.org/torchaudio/models/tiny_hubert.pth")
HUGGINGFACE = Source("huggingface", "hf:someone/tiny")


def one(content: bytes) -> Files:
    return {"": content}


# Sources of two models, and what is there; a repository's files by name.
KINDS: dict[str, tuple[Path, Source, Callable[[Path], Files]]] = {
    "fairseq": (HUBERT, FAIRSEQ, lambda work: one(HUBERT.read_bytes())),
    "fairseq, exported": (HUBERT, FAIRSEQ, lambda work: one(models.exported(HUBERT, "fairseq", work))),
    "fairseq, in an archive": (HUBERT, ARCHIVE, lambda work: one(models.tarred(HUBERT))),
    "s3prl": (HUBERT, CONVERTED, lambda work: one(models.exported(HUBERT, "s3prl", work))),
    "torchaudio": (HUBERT, TORCHAUDIO, lambda work: one(models.torchaudio(HUBERT, work))),
    "safetensors": (HUBERT, HUGGINGFACE, lambda work: models.huggingface(HUBERT, work)),
    "sharded": (
        HUBERT, HUGGINGFACE, lambda work: models.sharded(models.huggingface(HUBERT, work), work, "safetensors")
    ),
    "bin": (HUBERT, HUGGINGFACE, lambda work: models.pickled(models.huggingface(HUBERT, work), work)),
    "bin, sharded": (HUBERT, HUGGINGFACE, lambda work: models.sharded(models.huggingface(HUBERT, work), work, "bin")),
    "Microsoft": (WAVLM, MICROSOFT, lambda work: one(WAVLM.read_bytes())),
    "Microsoft, exported": (WAVLM, MICROSOFT, lambda work: one(models.exported(WAVLM, "s3prl", work))),
    "WavLM, torchaudio": (WAVLM, TORCHAUDIO, lambda work: one(models.torchaudio(WAVLM, work))),
    "WavLM, safetensors": (WAVLM, HUGGINGFACE, lambda work: models.huggingface(WAVLM, work)),
    "WavLM, bin": (WAVLM, HUGGINGFACE, lambda work: models.pickled(models.huggingface(WAVLM, work), work)),
}  # fmt: skip


def serve(server: Server, source: Source, files: Files, mirror: bool) -> None:
    """Put files where a source says they are: into a mirror of every host, or a hub."""
    if source.url.startswith("hf:"):
        name = source.url.removeprefix("hf:")
        if mirror:
            base = f"/huggingface.co/{name}/resolve/main"
            server.files |= {f"{base}/{file}": content for file, content in files.items()}
        else:
            server.repositories[name] = Repository(files)
    elif mirror:
        server.files["/" + source.url.removeprefix("https://")] = files[""]
    else:
        _, _, _, org, name, _, _, file = source.url.split("/")
        server.repositories[f"{org}/{name}"] = Repository({file: files[""]})


def numbers(model: Model) -> list[torch.Tensor]:
    """Every hidden state of a padded batch, in either way to pad."""
    waveforms = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1)) * 0.05 + 0.02
    found: list[torch.Tensor] = []
    for mode in ("exact", "reference"):
        model.padding = mode
        with torch.no_grad():
            found += model(waveforms, torch.tensor([4000, 2500])).hidden_states
    return found


@lru_cache
def expected(original: Path) -> list[torch.Tensor]:
    return numbers(zoo.load(original))


def of_hub(source: Source) -> bool:
    return "hf:" in source.url or "huggingface.co" in source.url


# Other hosts than the hub are reached through a mirror only.
WAYS = [(kind, way) for kind in KINDS for way in ("mirror", "hub") if way == "mirror" or of_hub(KINDS[kind][1])]


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_every_source_gives_the_numbers_of_the_original(
    server: Server, cache: Path, tmp_path: Path, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, source, make = KINDS[kind]
    mirror = way == "mirror"
    monkeypatch.setenv("ZOO_MIRROR" if mirror else "HF_ENDPOINT", server.url)
    serve(server, source, make(tmp_path), mirror)
    config = config_of(original)
    twin = config.from_dict({**config.to_dict(), "normalize": True, "num_heads": 4, "padding_rule": "length"})
    with registered(tiny("tiny", config, source), tiny("twin", twin)):  # which tensors alone do not tell apart
        model = zoo.load("tiny")
        asked = len(server.requests)
        again = zoo.load("tiny", local_files_only=True)
    assert asked and len(server.requests) == asked
    assert model.config == again.config == config, "the preset's, whatever the source says"
    same_weights(model, original)
    same_weights(again, original)
    got, want = numbers(model), expected(original)
    assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want))
    assert model.provenance["name"] == "tiny" and model.provenance["url"] == source.url
    assert model.provenance["sha256"] and model.provenance["dialect"]
    assert (cache / "native").is_dir()


# One of each family, from the file of its own toolkit.
OWN = {
    "data2vec.pt": "fairseq", "data2vec2.pt": "fairseq", "conformer_relative.pt": "fairseq", "mms_lid.pt": "fairseq",
    "ctc_wav2vec2.pt": "fairseq", "converted_data2vec.pt": "s3prl_converted", "unispeech_sat.pt": "microsoft",
    "distilhubert.pt": "s3prl_distiller", "s3prl/tera.ckpt": "s3prl", "s3prl/audio_albert.ckpt": "s3prl",
}  # fmt: skip


@pytest.mark.parametrize("file", OWN)
def test_every_family_by_name(server: Server, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    source = Source(OWN[file], f"https://example.org/{file}")
    server.files[f"/example.org/{file}"] = (DATA / file).read_bytes()
    with registered(tiny("tiny", config_of(DATA / file), source)):
        same_weights(zoo.load("tiny"), DATA / file)
        model = zoo.load("tiny", heads=True)
    heads = {name for name in models.tensors(DATA / file) if name.startswith("heads.")}
    assert {name for name in model.state_dict() if name.startswith("heads.")} == heads


def test_sources_fail_one_after_the_other(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    urls = [f"https://{host}/tiny.pt" for host in ("a.org", "b.org", "c.org", "d.org", "e.org")]
    server.always("/b.org/tiny.pt", twists.page())
    server.files["/c.org/tiny.pt"] = b"not a checkpoint, but " + bytes(1000)
    server.files["/d.org/tiny.pt"] = WAVLM.read_bytes()  # another model
    server.files["/e.org/tiny.pt"] = HUBERT.read_bytes()
    with registered(tiny("tiny", config_of(HUBERT), *(Source("fairseq", url) for url in urls))):
        model = zoo.load("tiny")
    same_weights(model, HUBERT)
    assert model.provenance["url"] == urls[-1]
    assert [request.path for request in server.requests if request.status == 200][-1] == "/e.org/tiny.pt"


def test_all_sources_fail(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    server.always("/b.org/tiny.pt", twists.page())
    server.files["/c.org/tiny.pt"] = WAVLM.read_bytes()
    sources = [Source("fairseq", f"https://{host}/tiny.pt") for host in ("a.org", "b.org", "c.org")]
    with registered(tiny("tiny", config_of(HUBERT), *sources)), pytest.raises(DownloadError) as caught:
        zoo.load("tiny")
    sentence = str(caught.value)
    assert "\n" not in sentence
    for words in ("tiny", "a.org", "404", "b.org", "web page", "c.org", "wavlm"):
        assert words in sentence
    assert not list((cache / "native").rglob("*.safetensors*.json")) and not list(cache.rglob("tiny.safetensors"))


def test_another_width_is_another_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    server.files["/a.org/tiny.pt"] = HUBERT.read_bytes()
    config = config_of(HUBERT)
    other = config.from_dict({**config.to_dict(), "num_heads": 4})
    preset = tiny("tiny", other, Source("fairseq", "https://a.org/tiny.pt"))
    with registered(preset), pytest.raises(DownloadError, match="num_heads 2 instead of 4"):
        zoo.load("tiny")


def test_the_preset_decides_on_normalisation(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's folder says something else of every setting that the preset fixes."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    files = models.huggingface(HUBERT, tmp_path)
    server.repositories["someone/tiny"] = Repository(files)
    own = zoo.load("hf:someone/tiny")
    with registered(tiny("tiny", config_of(HUBERT), HUGGINGFACE)):
        named = zoo.load("tiny")
    assert own.config.normalize != named.config.normalize
    assert (own.config.normalize_eps, named.config.normalize_eps) == (1e-7, 1e-5)
    assert (own.config.padding_rule, named.config.padding_rule) == ("length", "reshape")
    assert not torch.equal(numbers(own)[-1], numbers(named)[-1])


@pytest.mark.slow
def test_a_model_of_full_size(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HuBERT Base by its own name and address, with random weights, whose hash is not that of the released ones."""
    monkeypatch.setenv("ZOO_MIRROR", server.url)
    built = zoo.build("hubert_base")
    native, checkpoint = tmp_path / "native.safetensors", tmp_path / "hubert_base_ls960.pt"
    zoo.save(built, native)
    models.write(native, checkpoint, "fairseq")
    native.unlink()
    preset = find("hubert_base")[1]
    unhashed = dataclasses.replace(preset.sources[0], sha256=None, size=None)
    path = "/" + unhashed.url.removeprefix("https://")
    server.files[path] = checkpoint
    server.twist(path, twists.cut(100_000_000))
    with registered(dataclasses.replace(preset, sources=(unhashed,))):
        model = zoo.load("hubert_base")
    assert [request.headers["Range"] for request in server.requests] == [None, "bytes=100000000-"]
    assert model.config == built.config
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in built.state_dict().items())
