"""zoo.testing: what is recorded of a model notices every planted bug, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.families import BASELINES, KINDS, tiny
from tests.golden import generator
from tests.golden.compare import Case
from tests.golden.test_canaries import CANARIES
from zoo import testing
from zoo.errors import FingerprintError, InputError

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "hubert_tiny.pt"
CTC = Path(__file__).parent / "data" / "ctc_wav2vec2.pt"
# It scales a waveform of n samples by 1 - 1 / 2n: 2e-5 here, which no tolerance for other machines can show.
TOO_SMALL = "waveform normalisation with unbiased variance"
QUICK = (
    "query and key swapped",
    "tanh GELU in the feed-forward layers",
    "tanh GELU in the convolutions",
    "eps of a block's norm",
    "eps of the group norm",
    "final norm missing",
    "gradient of the keys lost",
    "group norm over the padding",
    "length rule instead of reshape rule",
    "hidden states off by one",
    "waveform normalisation over the padding",
)


def lively(name: str, **overrides: object) -> zoo.models._family.Model:
    """A model whose weights are large and uneven."""
    model = tiny(name, **overrides)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(generator.tensor(key, tensor.shape, 1, "lively")))
    return model


def planted(bug: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    name, plant = CANARIES[bug]
    model = zoo.load(Case.read(name).checkpoint(folder))
    zoo.testing.record(model, folder / "model.json")
    zoo.testing.check(model, folder / "model.json")
    plant(model, patch)
    with pytest.raises(FingerprintError, match="differs"):
        zoo.testing.check(model, folder / "model.json")


@pytest.mark.parametrize("bug", QUICK)
def test_planted_bug_is_caught(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(bug, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("bug", [bug for bug in CANARIES if bug not in (*QUICK, TOO_SMALL)])
def test_every_planted_bug_is_caught(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(bug, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "name",
    [
        "feature_extractor.conv_layers.3.conv.weight",
        "encoder.layers.1.feed_forward.output_dense.weight",
        "encoder.layer_norm.bias",
        "masked_spec_embed",
    ],
)
def test_one_weight_that_changed_is_named(name: str, tmp_path: Path) -> None:
    model = zoo.load(EXAMPLE)
    testing.record(model, tmp_path / "model.json")
    with torch.no_grad():
        model.state_dict()[name].view(-1)[7] += 1e-3
    with pytest.raises(FingerprintError, match=rf"^{name} differs by "):
        testing.check(model, tmp_path / "model.json")


def test_the_first_stage_that_differs_is_named(tmp_path: Path) -> None:
    model = tiny("hubert_base")
    testing.record(model, tmp_path / "model.json")
    model.encoder.layers[1].final_layer_norm.eps = 0.1
    with pytest.raises(FingerprintError, match="hidden state 2 of utterance 0") as caught:
        testing.check(model, tmp_path / "model.json")
    assert "zoo 0.1.0" in str(caught.value) and "5.0e-05 is allowed" in str(caught.value)


def test_another_configuration_is_named(tmp_path: Path) -> None:
    testing.record(tiny("hubert_base"), tmp_path / "model.json")
    with pytest.raises(FingerprintError, match="padding_rule of the configuration differs: 'length'"):
        testing.check(tiny("hubert_base", padding_rule="length"), tmp_path / "model.json")


@pytest.mark.parametrize("name", [*KINDS, *BASELINES])
def test_every_kind_of_model(name: str, tmp_path: Path) -> None:
    model = tiny(name) if name in BASELINES else lively(name)
    testing.record(model, tmp_path / "model.json")
    largest = testing.check(model, tmp_path / "model.json")
    assert set(largest) == {"weights", "states", "gradients"}
    content = json.loads((tmp_path / "model.json").read_text())
    assert len(content["exact"]) == len(content["reference"]) == model.num_layers + 1
    unused = ("masked_spec_embed", "encoder.pos_conv_embed") if "conformer" in name else ("masked_spec_embed",)
    trained = [key for key, _ in model.named_parameters() if not key.startswith(unused)]
    rows = content["weights and their gradients"]
    for key in trained:
        module, _, leaf = key.rpartition(".")
        assert len(rows[module][leaf]) == 5, key


def test_a_model_that_takes_features(tmp_path: Path) -> None:
    model = zoo.load(Path(__file__).parent / "data" / "wav2vec_u" / "plain.pt")
    testing.record(model, tmp_path / "model.json")
    testing.check(model, tmp_path / "model.json")
    assert list(json.loads((tmp_path / "model.json").read_text())["exact"]) == ["logits"]


@pytest.mark.parametrize("name", ["wav2vec2_base_960", "wavlm_large", "data2vec_base_960", "tera"])
def test_threads_and_precision_change_little(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp64 differs from fp32 as much as another machine may."""
    model = lively(name)
    threads = torch.get_num_threads()
    testing.record(model, tmp_path / "model.json")
    try:
        torch.set_num_threads(3 - threads)
        testing.check(model, tmp_path / "model.json")
    finally:
        torch.set_num_threads(threads)
    recorded = testing.read(tmp_path / "model.json")
    prepared = testing._prepared

    @testing.contextlib.contextmanager
    def in_double(model: zoo.models._family.Model) -> object:
        with prepared(model) as ready:
            yield testing.copy.deepcopy(ready).double()

    monkeypatch.setattr(testing, "_prepared", in_double)
    largest = testing.compare(testing.fingerprint(model), recorded)
    assert largest["states"] > 0 and largest["gradients"] > 0


def test_the_input_never_changes() -> None:
    """A file of today has to hold tomorrow, everywhere."""
    model = tiny("hubert_base")
    long, short = testing._inputs(model)
    assert torch.equal(short, long[-len(short) :]) and len(long) % model.hop_length and len(short) % model.hop_length
    integers = (long * 2**15).to(torch.int16).numpy().astype("<i2")
    assert torch.equal(torch.from_numpy(integers.astype(np.float32)) / 2**15, long)
    assert hashlib.sha256(integers.tobytes()).hexdigest() == SPEECH
    signs = testing._signs().to(torch.int8).numpy().tobytes()
    assert hashlib.sha256(signs).hexdigest() == SIGNS
    features, _ = testing._inputs(zoo.load(Path(__file__).parent / "data" / "wav2vec_u" / "plain.pt"))
    assert hashlib.sha256(features.numpy().astype("<f4").tobytes()).hexdigest() == FEATURES
    assert 0.005 < long.mean() < 0.02 and 0.01 < long.std() < 0.03  # off centre, quiet
    assert long.unfold(0, 400, 400).std(1).min() > 1e-3  # never silent


SPEECH = "91f78a593142cf4e33e1e5e57cfab6b5a61935b1d4da89de079fdea24fd6926d"
SIGNS = "1bf73f1844873a4876d12704f729189cd823909f396a809447da30894a6b3340"
FEATURES = "9e911ee586a6a4d39b56bd31b60700752cc44bcbcaa1e4d917cb661b0ef84eb4"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = zoo.load(EXAMPLE)
    for name in ("a", "b"):
        testing.record(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["wav2vec2_large_ll60k", "wavlm_large"])
def test_a_large_model_has_a_small_file(name: str, tmp_path: Path) -> None:
    narrow = {"width": 32, "ffn_width": 64, "num_heads": 4, "conv_layers": tiny(name).config.conv_layers}
    model = zoo.build(name, **narrow)
    assert model.num_layers == 24
    testing.record(model, tmp_path / "model.json")
    assert (tmp_path / "model.json").stat().st_size < 50_000
    assert max(map(len, (tmp_path / "model.json").read_text().splitlines())) < 600


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = tiny("wav2vec2_base_960", dropout=0.5)
    model.train()
    model.encoder.eval()
    model.freeze_feature_extractor()
    model.padding = "reference"
    model(torch.rand(1, 8000)).hidden_states[-1].sum().backward()
    parts = {
        "modes": lambda: [module.training for module in model.modules()],
        "frozen": lambda: [p.requires_grad for p in model.parameters()],
        "values": lambda: [p.detach().clone() for p in model.parameters()],
        "gradients": lambda: [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "padding": lambda: model.padding,
    }
    before = {name: part() for name, part in parts.items()}
    testing.record(model, tmp_path / "model.json")
    testing.check(model, tmp_path / "model.json")
    after = {name: part() for name, part in parts.items()}
    for name in ("modes", "frozen", "padding"):
        assert before[name] == after[name]
    for name in ("values", "gradients"):
        assert all((a is b is None) or torch.equal(a, b) for a, b in zip(before[name], after[name]))
    model.eval().requires_grad_(True)
    testing.check(model, tmp_path / "model.json")


def test_the_model_is_left_as_it_was_after_an_error(tmp_path: Path) -> None:
    model = tiny("hubert_base").train()
    with torch.no_grad():
        model.encoder.layers[1].layer_norm.weight.fill_(float("nan"))
    with pytest.raises(FingerprintError, match="hidden state 2 is not finite"):
        testing.record(model, tmp_path / "model.json")
    assert list(tmp_path.iterdir()) == []
    assert all(module.training for module in model.modules()) and model.padding == "exact"


def test_dtypes_and_contexts(tmp_path: Path) -> None:
    """What is stored in bfloat16 gives the same file on its way as in fp32."""
    model = zoo.load(EXAMPLE, dtype=torch.bfloat16)
    testing.record(model, tmp_path / "half.json")
    assert next(model.parameters()).dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        testing.check(zoo.load(EXAMPLE, dtype=torch.bfloat16).float(), tmp_path / "half.json")
    with torch.inference_mode():
        testing.check(model, tmp_path / "half.json")
    with pytest.raises(FingerprintError, match="differs"):  # bfloat16 loses digits
        testing.check(zoo.load(EXAMPLE), tmp_path / "half.json")


def test_heads_are_left_out_but_for_logits(tmp_path: Path) -> None:
    with_head, without = zoo.load(CTC, heads=True), zoo.load(CTC)
    testing.record(without, tmp_path / "encoder.json")
    testing.check(with_head, tmp_path / "encoder.json")
    testing.record(with_head, tmp_path / "model.json")
    testing.check(with_head, tmp_path / "model.json")
    with pytest.raises(FingerprintError, match="heads=True"):
        testing.check(without, tmp_path / "model.json")
    with torch.no_grad():
        dict(with_head.heads.named_parameters())["ctc_proj.weight"].mul_(1.01)
    with pytest.raises(FingerprintError, match="logits of utterance 0"):
        testing.check(with_head, tmp_path / "model.json")


def test_a_wider_tolerance_of_the_file_counts(tmp_path: Path) -> None:
    model, path = zoo.load(EXAMPLE), tmp_path / "model.json"
    testing.record(model, path)
    model.encoder.layers[0].layer_norm.eps = 1e-3
    with pytest.raises(FingerprintError, match="differs"):
        testing.check(model, path)
    content = json.loads(path.read_text())
    content["tolerances"] = {"weights": 1e-6, "states": 0.1, "gradients": 1.0}
    path.write_text(json.dumps(content))
    assert testing.check(model, path)["states"] > 5e-5


Change = Callable[[dict], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("tolerances"),
        lambda content: content.pop("exact"),
        lambda content: content.pop("config"),
        lambda content: content.update(exact=5),
        lambda content: content["tolerances"].update(states="wide"),
        lambda content: content["exact"].update({"hidden state 1": None}),
        lambda content: content["exact"]["hidden state 1"].pop(),
        lambda content: content["exact"]["hidden state 1"][0].update(seen=[]),
        lambda content: content["exact"]["hidden state 1"][0].update(seen=["a"] * 6),
        lambda content: content["exact"]["hidden state 1"][0].update(seen=[float("nan")] * 6),
        lambda content: content.update({"gradient of the input": 1}),
        lambda content: content.update({"weights and their gradients": []}),
        lambda content: content["weights and their gradients"][""].clear(),
    ],
)
def test_a_damaged_file_is_refused(change: Change, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    model = zoo.load(EXAMPLE)
    testing.record(model, path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FingerprintError):
        testing.check(model, path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"zoo.fingerprint": 2}', "\0", "[" * 100_000])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(FingerprintError, match=r"holds no fingerprint of format 1; give a file"):
        testing.check(tiny("hubert_base"), tmp_path / "other.json")


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FingerprintError, match="No such file"):
        testing.check(tiny("hubert_base"), tmp_path / "none.json")
    with pytest.raises(InputError, match="a model of the zoo; found Linear"):
        testing.record(torch.nn.Linear(2, 2), tmp_path / "model.json")
    with pytest.raises(InputError, match="cannot be written"):
        testing.record(tiny("hubert_base"), tmp_path / "missing" / "model.json")
    with torch.device("meta"):
        model = tiny("hubert_base")
    with pytest.raises(InputError, match="meta device"):
        testing.record(model, tmp_path / "model.json")
    assert list(tmp_path.iterdir()) == []
