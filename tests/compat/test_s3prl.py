"""s3prl's interface against values that s3prl itself gave, also where nothing is valid any more: frames of padding."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from tests.golden.compare import Comparison
from tests.golden.generator import waveform
from tests.trees import read
from zoo.compat import s3prl
from zoo.compat.s3prl import Featurizer, S3PRLUpstream
from zoo.errors import CheckpointError, InputError, UnknownModelError

HERE = Path(__file__).parent
TESTS = HERE.parent
FACTS = json.loads((HERE / "s3prl_upstream.json").read_text())
with np.load(HERE / "s3prl_upstream.npz") as recorded:
    ARRAYS: dict[str, np.ndarray] = dict(recorded)
CHANNELS = 3
CASES = tuple(FACTS["cases"])
SUMMED = FACTS["featurizer"]["case"]
# Below which key a file has what s3prl's upstream has below which prefix.
STATES = {
    "wav2vec2": ("model_weight", "upstream.model."),
    "conformer": ("model_weight", "upstream.model."),
    "hubert_pre_norm": ("model_weight", "upstream.model."),
    "data2vec": ("model_weight", "upstream.model."),
    "wavlm": ("model", "upstream.model."),
    "distilhubert": ("Distiller", "upstream.model.model."),
    "tera": ("Transformer", "upstream.transformer.model."),
    "hf_wav2vec2": ("", "upstream.model."),
}


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3prl, "_folder", None)


def upstream(case: str, **options: Any) -> S3PRLUpstream:
    facts = FACTS["cases"][case]
    path = facts["checkpoint"]
    return S3PRLUpstream(facts["upstream"], path and str(TESTS / path), **options)


def batch(name: str) -> tuple[Tensor, Tensor]:
    """The maker's."""
    lengths, size = FACTS["batches"][name]
    wavs = torch.full((len(lengths), size), 0.25)
    for row, spec, samples in zip(wavs, FACTS["utterances"], lengths):
        row[:samples] = torch.from_numpy(waveform({**spec, "samples": samples}))
    return wavs, torch.tensor(lengths)


def kept(*states: Tensor) -> Tensor:
    """(B, T, D) each -> (L, B, T, 1 + CHANNELS): norms of the frames, and some channels, as the maker keeps them."""
    channels = [state[..., :: state.shape[-1] // CHANNELS][..., :CHANNELS] for state in states]
    return torch.stack([torch.cat([x.norm(dim=-1, keepdim=True), c], -1) for x, c in zip(states, channels)])


def compare(name: str, *states: Tensor) -> None:
    comparison = Comparison()
    comparison.check(name, kept(*states), ARRAYS[name])
    assert not comparison.failures


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_are_s3prls(case: str) -> None:
    facts, model = FACTS["cases"][case], upstream(case).eval()
    assert (model.num_layers, model.hidden_sizes) == (facts["num_layers"], facts["hidden_sizes"])
    assert model.downsample_rates == facts["downsample_rates"]
    for name in FACTS["batches"]:
        wavs, lengths = batch(name)
        with torch.no_grad():
            states, counts = model(wavs[:, :, None] if name == "short" else wavs, lengths)
        assert isinstance(states, list) and isinstance(counts, list)
        assert [count.tolist() for count in counts] == facts["frames"][name]
        compare(f"{case}/{name}", *states)


def test_the_recorded_cases_would_show_another_order_and_a_missing_norm() -> None:
    """Canaries: what is compared above differs by far more than the tolerance from layer to layer."""
    states, _ = upstream(SUMMED).eval()(*batch("padded"))
    for wrong in (states[::-1], [*states[:-1], states[-2]]):
        comparison = Comparison()
        comparison.check("canary", kept(*wrong), ARRAYS[f"{SUMMED}/padded"])
        assert comparison.failures


@pytest.mark.parametrize("case", ["hubert_pre_norm", "tera"])
def test_states_are_normalised_when_asked(case: str) -> None:
    with torch.no_grad():
        states, _ = upstream(case, normalize=True).eval()(*batch("padded"))
    compare(f"{case}/normalised", *states)


@pytest.mark.parametrize("case", ["hubert", "data2vec", "tera", "mel"])
def test_exact_padding_gives_an_utterance_what_it_gives_alone(case: str) -> None:
    model = upstream(case, extra_conf={"padding": "exact"}).eval()
    wavs, lengths = batch("padded")
    with torch.no_grad():
        together, _ = model(wavs, lengths)
        for i, n in enumerate(lengths.tolist()):
            alone, _ = model(wavs[i : i + 1, :n], lengths[i : i + 1])
            frames = model.upstream.model.frame_count(n)
            for state, other in zip(together, alone):
                frames = min(frames, other.shape[1])
                torch.testing.assert_close(state[i, :frames], other[0, :frames], rtol=1.3e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "two", "norm"])
def test_sums_are_s3prls(name: str) -> None:
    facts, model = FACTS["featurizer"][name], upstream(SUMMED).eval()
    featurizer = Featurizer(model, **facts["options"])
    assert sorted(featurizer.state_dict()) == facts["state"] == ["weights"]
    assert (featurizer.output_size, featurizer.downsample_rate) == (model.hidden_sizes[0], model.downsample_rates[0])
    featurizer.load_state_dict({"weights": 0.5 * torch.arange(float(len(featurizer.weights)))})
    states, counts = model(*batch("padded"))
    result, frames = featurizer(states, counts)
    comparison = Comparison()
    comparison.check(name, kept(result)[0], ARRAYS[f"featurizer/{name}"])
    assert not comparison.failures
    assert frames.tolist() == counts[0].tolist()


def test_a_single_layer_is_itself() -> None:
    """Which s3prl itself refuses; ESPnet makes such a featurizer and does not call it."""
    model = upstream(SUMMED).eval()
    states, counts = model(*batch("padded"))
    for layers, layer in (([1], 1), ([-3], 0)):
        result, _ = Featurizer(model, layer_selections=layers)(states, counts)
        torch.testing.assert_close(result, states[layer], rtol=0, atol=0)
    last, _ = Featurizer(model)(states[-1:], counts[-1:])
    assert last is states[-1]
    single = Featurizer(upstream("fbank"))
    assert not list(single.parameters())


@pytest.mark.parametrize("layers", [[3], [0, 0], [], [-4]])
def test_layers_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(InputError, match=r"layer_selections is .*; give different numbers from 0 to 2"):
        Featurizer(upstream(SUMMED), layer_selections=layers)


def test_states_of_several_widths_are_not_summed() -> None:
    with pytest.raises(InputError, match="must be equally wide"):
        Featurizer(upstream("distilhubert"))


@pytest.mark.parametrize("scale", ["0.0", "0.25", "1.0"])
def test_gradients_are_s3prls(scale: str) -> None:
    want = FACTS["featurizer"]["gradients"][scale]
    model = upstream(SUMMED).eval()
    assert model.upstream.model.feature_grad_mult == 0.0
    model = copy.deepcopy(model)  # with the hook, which is then the copy's
    model.upstream.model.feature_grad_mult = float(scale)
    featurizer = Featurizer(model)
    result, _ = featurizer(*model(*batch("padded")))
    result.square().mean().backward()
    conv = model.upstream.model.feature_extractor.conv_layers[0].conv.weight
    assert (conv.grad is None) is (scale == "0.0")
    comparison = Comparison()
    comparison.check("weights", featurizer.weights.grad.norm(), want["weights"], "gradient", want["weights"])
    if conv.grad is not None:
        size = want["upstream.model.feature_extractor.conv_layers.0.0.weight"]
        comparison.check("conv", conv.grad.norm(), size, "gradient", size)
    assert not comparison.failures


def test_it_is_made_in_training_mode_without_layerdrop() -> None:
    model = upstream(SUMMED)
    assert all(module.training for module in model.modules())
    assert model.upstream.model.encoder.layerdrop == 0
    assert not any(module.training for module in model.eval().modules())


def saved(case: str) -> dict[str, Tensor]:
    """The state dict that s3prl's upstream has for a checkpoint, some constants aside, which are made up."""
    (key, prefix), path = STATES[case], TESTS / FACTS["cases"][case]["checkpoint"]
    content = read(path)[key] if key else load_file(path / "model.safetensors")
    state = {prefix + name: value for name, value in content.items() if isinstance(value, Tensor)}
    names = FACTS["cases"][case]["state"].split()
    state.update({name: torch.zeros(1) for name in names if ".extracter." in name})
    assert sorted(state) == sorted(names)
    return state


@pytest.mark.parametrize("case", STATES)
def test_state_dicts_of_s3prl_are_loaded(case: str) -> None:
    """As they stand in models that ESPnet trained with s3prl's front end."""
    wavs, lengths = batch("padded")
    with torch.no_grad():
        want, _ = upstream(case).eval()(wavs, lengths)
        model = nn.ModuleDict({"frontend": upstream(case, randomize=True).eval()})
        assert not any(torch.equal(a, b) for a, b in zip(model["frontend"](wavs, lengths)[0], want))
        model.load_state_dict({f"frontend.{name}": value for name, value in saved(case).items()})
        got, _ = model["frontend"](wavs, lengths)
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_a_state_dict_that_lacks_something_is_refused() -> None:
    state = saved(SUMMED)
    del state["upstream.model.encoder.layers.1.fc1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*: \"upstream.model.encoder.layers.1.feed_forward.inter"):
        upstream(SUMMED).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*: \"upstream.model.other"):
        upstream(SUMMED).load_state_dict({**saved(SUMMED), "upstream.model.other": torch.zeros(1)})


def test_a_state_dict_of_constants_is_loaded() -> None:
    names = FACTS["cases"]["mel"]["state"].split()
    assert names
    upstream("mel").load_state_dict({name: torch.zeros(1) for name in names})


def test_every_name_of_s3prls_is_there() -> None:
    """Of the upstreams that the zoo has; a YAML file with the settings of a baseline is not taken."""
    names = {name for listed in FACTS["names"].values() for name in listed.split()}
    assert names - set(S3PRLUpstream.available_names()) == {"baseline_local"}
    registered = set(S3PRLUpstream.available_names(only_registered_ckpt=True))
    assert {name for name in names if name in FACTS["registered"].split()} <= registered
    assert not registered & s3prl.GENERIC.keys()
    assert "w2vu" not in registered  # takes features


def test_registered_names_are_loaded_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    def load_named(name: str, heads: bool, options: Any) -> Any:
        asked.append((name, options))
        return zoo.build("hubert_base", num_layers=2, width=32, ffn_width=32, num_heads=2)

    monkeypatch.setattr(s3prl, "load_named", load_named)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubert").mkdir()  # which is not what is meant
    s3prl.set_dir(tmp_path)
    assert S3PRLUpstream("hubert").num_layers == 3
    S3PRLUpstream("hubert_large_ll60k", refresh=True)
    S3PRLUpstream("hf_hubert_custom", "org/name")
    S3PRLUpstream("hf_hubert_custom", "hf:org/name@main")
    names = ["hubert", "hubert_large_ll60k", "hf:org/name", "hf:org/name@main"]
    assert [name for name, _ in asked] == names
    assert [options.refresh for _, options in asked] == [False, True, False, False]
    assert all(options.cache_dir == tmp_path for _, options in asked)


def test_baselines_have_nothing_to_fetch(tmp_path: Path) -> None:
    s3prl.set_dir(tmp_path / "gone")
    assert S3PRLUpstream("fbank", refresh=True).hidden_sizes == [240]


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """tests/data over HTTP, and the paths that were asked for."""
    paths: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            paths.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(TESTS / "data")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


def test_urls_are_fetched_once(served: tuple[str, list[str]], tmp_path: Path) -> None:
    url, paths = served
    s3prl.set_dir(tmp_path)
    first = S3PRLUpstream("hubert_url", f"{url}/converted_hubert.pt").eval()
    S3PRLUpstream("hubert_custom", f"{url}/converted_hubert.pt")
    assert paths == ["/converted_hubert.pt"]
    S3PRLUpstream("hubert_custom", f"{url}/converted_hubert.pt", refresh=True)
    assert len(paths) == 2
    with torch.no_grad():
        compare("hubert/padded", *first(*batch("padded"))[0])


def test_the_options_of_fairseqs_files_change_nothing() -> None:
    """s3prl has to be told; here the original file, before s3prl's converter, gives the same numbers."""
    for options in ({"fairseq": True}, {"legacy": True}):
        model = S3PRLUpstream("hubert_local", TESTS / "data/e3_resolved.pt", extra_conf=options).eval()
        with torch.no_grad():
            compare("hubert/padded", *model(*batch("padded"))[0])


CONVERTED = str(TESTS / "data/converted_hubert.pt")
REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": "apc"}, UnknownModelError, "there is no model named 'apc'"),
    ({"name": "hubert_local"}, InputError, "'hubert_local' was asked for without a checkpoint; give its path or URL"),
    ({"name": "hubert_base", "path_or_url": "a.pt"}, InputError, "'hubert_base' has a checkpoint of its own, but a.pt"),
    ({"name": "hubert_local", "path_or_url": "gone.pt"}, CheckpointError, "gone.pt does not exist"),
    (
        {"name": "wavlm_local", "path_or_url": CONVERTED},
        CheckpointError,
        f"'wavlm_local' was asked for, but {CONVERTED} holds a model of the family hubert",
    ),
    (
        {"name": "hubert_local", "path_or_url": CONVERTED, "extra_conf": {"feature_selection": "fairseq_layers"}},
        InputError,
        "with the option feature_selection, which the zoo does not have; it has fairseq, legacy, padding and refresh",
    ),
    ({"name": "fbank", "extra_conf": {"padding": "none"}}, InputError, "padding='none'"),
    (
        {"name": "distiller_local", "path_or_url": str(TESTS / "data/hf/distilhubert")},
        CheckpointError,
        "holds no predictions of DistilHuBERT",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_what_cannot_be_had_is_refused_in_a_sentence(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        S3PRLUpstream(**arguments)
    assert message in str(raised.value)


def test_lengths_rounded_up_are_taken() -> None:
    """ESPnet's resampling front end computes them in floating point: one sample more than there is."""
    wavs, model = torch.randn(2, 4800), upstream("fbank").eval()
    states, counts = model(wavs, torch.tensor([4801, 4000]))
    want, _ = model(wavs, torch.tensor([4800, 4000]))
    assert [count.tolist() for count in counts] == [[31, 25]]
    assert torch.equal(states[0][:, :30], want[0]) and torch.equal(states[0][:, 30], want[0][:, 29])


@pytest.mark.parametrize("lengths", [[4000, 10000], [4000], [0, 4000]])
def test_lengths_that_the_waveforms_do_not_have_are_refused(lengths: list[int]) -> None:
    with pytest.raises(InputError, match="wavs_len is"):
        upstream("fbank")(torch.zeros(2, 5000), torch.tensor(lengths))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *([] if script.endswith(".py") else ["-c"]), script, *arguments],
        cwd=TESTS.parent,
        env={"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_espnets_front_end_runs_unchanged(tmp_path: Path) -> None:
    wavs, lengths = batch("padded")
    facts = FACTS["cases"][SUMMED]
    conf = {"upstream": facts["upstream"], "path_or_url": str(TESTS / facts["checkpoint"])}
    options = {"conf": conf, "download_dir": str(tmp_path), "speech": wavs.tolist(), "lengths": lengths.tolist()}
    (tmp_path / "options.json").write_text(json.dumps(options))
    done = run("tests/compat/espnet_front_end.py", str(tmp_path / "options.json"), str(tmp_path / "found.pt"))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    states = ARRAYS[f"{SUMMED}/padded"]
    wanted = {"last": states[2], "one": states[1], "third": states[0], "summed": ARRAYS["featurizer/all"]}
    comparison = Comparison()
    for name, want in wanted.items():
        comparison.check(name, kept(found[name])[0], want)
        assert found[f"{name}_lengths"].tolist() == facts["frames"]["padded"][0]
    assert not comparison.failures
    assert found["size"] == [facts["hidden_sizes"][0], facts["downsample_rates"][0]]
    assert found["gradient"].abs().min() > 0


def test_hub_entries_are_there_after_installing() -> None:
    script = f"""
import sys, torch
import zoo.compat.s3prl
assert "s3prl" not in sys.modules
zoo.compat.s3prl.install()
import s3prl.hub as hub, s3prl.nn.upstream
from s3prl.hub import hubert_local, options
expert = getattr(hub, "hubert_local")({CONVERTED!r}).eval()
out = expert([torch.ones(4000), torch.ones(3000)])
assert len(out["hidden_states"]) == 2 and out["last_hidden_state"] is out["hidden_states"][1]
assert out["hidden_state_0"].shape == (2, 12, 16) and expert.get_downsample_rates("hidden_states") == 320
assert hub.fbank()([torch.ones(4000)])["hidden_states"][0].shape == (1, 23, 240)
assert "wavlm_large" in options() and callable(hub.wavlm_large)
import importlib.util
assert importlib.util.find_spec("s3prl") is not None
try:
    import s3prl.upstream
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("s3prl.upstream is there")
"""
    done = run(script)
    assert done.returncode == 0, done.stderr


def test_s3prl_itself_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "s3prl").mkdir()
    (tmp_path / "s3prl" / "__init__.py").write_text("")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    for before in ("", "import s3prl; "):
        done = run(script + before + "from zoo.compat.s3prl import install; install()")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("zoo.errors.ZooError: s3prl itself is installed here")
