"""wav2vec-U gives what fairseq gave: generator, head, discriminator, segmenters and phones. Planted bugs are caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.golden import generator, store
from tests.golden.compare import SLICE, Comparison, check_silence
from zoo.models import wav2vec_u
from zoo.models.wav2vec_u import WavVecU

DATA = Path(__file__).parent / "data" / "wav2vec_u"


@pytest.fixture(autouse=True)
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are drawn as torch drew them when fairseq was recorded: torch 2.6 makes others of the same seed."""

    def multinomial(weights: Tensor, count: int) -> Tensor:
        waiting = -torch.log1p(-torch.rand(weights.shape, dtype=torch.float64)).float()
        return (weights / waiting).topk(count).indices

    monkeypatch.setattr(Tensor, "multinomial", multinomial)


CASES = sorted(path.stem for path in DATA.glob("*.json") if path.stem != "segmenters")


@dataclass(frozen=True)
class Case:
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, name: str) -> Case:
        return cls(json.loads((DATA / f"{name}.json").read_text()), store.read(DATA / f"{name}.npz"))

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def features(self) -> list[Tensor]:
        return [self.tensor(f"feat{i}") for i in range(3)]

    def checkpoint(self, folder: Path) -> Path:
        made = generator.tensors(self.facts["state"], self.facts["seed"], self.facts["scale"])
        state = {name: torch.from_numpy(value) for name, value in made.items()}
        content = {"args": None, "cfg": self.facts["config"], "model": state, "extra_state": {}}
        torch.save(content, folder / "checkpoint.pt")
        return folder / "checkpoint.pt"

    def model(self, folder: Path) -> WavVecU:
        model = zoo.load(self.checkpoint(folder))
        model.symbols = self.facts["symbols"]
        return model


def compare(case: Case, model: WavVecU, result: Comparison | None = None) -> Comparison:
    result = result or Comparison()
    want, items = case.arrays, case.features()
    lengths = [len(item) for item in items]

    model.padding = "exact"
    with torch.no_grad():
        alone = [model(item[None]) for item in items]
        for value in (float("nan"), 1e9):
            out = model(torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=value), lengths)
            for i, single in enumerate(alone):
                n = int(single.lengths)
                result.check(f"single{i}", single.logits[0], want[f"single{i}/logits"])
                result.check(f"exact{i}", out.logits[i, :n], want[f"single{i}/logits"])
                if int(out.lengths[i]) != n or n != model.frame_count(lengths[i]) or out.logits[i, n:].any():
                    result.failures.append(f"exact{i}: {out.lengths[i]} frames, or padded frames that are not zero")
        model.padding = "reference"
        out = model(torch.nn.utils.rnn.pad_sequence(items, batch_first=True), lengths)
        result.check("padded", out.logits, want["padded/logits"])
        if out.lengths.tolist() != (~want["padded/mask"]).sum(1).tolist():
            result.failures.append(f"padded: {out.lengths.tolist()} frames")
    model.padding = "exact"

    x = items[0][None].clone().requires_grad_()
    _, mapped = model.generator(model.generator.normalise(x, None))
    check_gradients(result, case, model, "", model(x).logits.square().mean(), x)
    if "clusters" in want:
        result.check("clusters", model.decoder(mapped)[0], want["clusters"])

    x = case.tensor("discriminator/in").requires_grad_()
    score = model.discriminator(x, case.tensor("discriminator/mask"))
    result.check("discriminator/out", score, want["discriminator/out"])
    result.check("discriminator/unmasked", model.discriminator(x, None), want["discriminator/unmasked"])
    check_gradients(result, case, model, "discriminator/", score.square().sum(), x)

    for name, segmentation in (("own", model.segmenter), ("none", wav2vec_u.Segmenter(model.config))):
        own, model.segmenter = model.segmenter, segmentation
        found = []
        for item in items:
            torch.manual_seed(case.facts["random_seed"])
            found += model.transcribe(item[None])
        model.segmenter = own
        if found != case.facts["transcripts"][name]:
            result.failures.append(f"transcripts/{name}: {found}")
    return result


def check_gradients(result: Comparison, case: Case, model: WavVecU, prefix: str, loss: Tensor, x: Tensor) -> None:
    model.zero_grad()
    loss.backward()
    want = case.arrays
    unit = float(np.linalg.norm(want[f"{prefix}grad/input"]))
    result.check("gradient/input", x.grad[0], want[f"{prefix}grad/input"], "gradient", unit)
    found = {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}
    expected = {
        key.removeprefix(f"{prefix}grad/").removesuffix("/norm")
        for key in want
        if key.startswith(f"{prefix}grad/") and key.endswith("/norm")
    }
    if found.keys() != expected:
        result.failures.append(f"gradient: {sorted(found.keys() ^ expected)}")
    for name in found.keys() & expected:
        norm = want[f"{prefix}grad/{name}/norm"]
        part = found[name][:: max(1, len(found[name]) // SLICE)][:SLICE]
        result.check(f"gradient/{name}", part, want[f"{prefix}grad/{name}/slice"], "gradient", float(norm))
        result.check(f"gradient/{name}/norm", found[name].double().norm(), norm, "gradient", float(norm))


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path, record_differences) -> None:
    case = Case.read(name)
    model = case.model(tmp_path)
    result = compare(case, model)
    check_silence(result, model)
    record_differences("wav2vec_u", result.largest)
    assert not result.failures, "\n".join(result.failures)


@pytest.mark.parametrize("name", CASES)
def test_phones_of_the_recorded_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq's logits give fairseq's strings: nothing of the generator takes part."""
    case = Case.read(name)
    model = case.model(tmp_path)
    model.segmenter = wav2vec_u.Segmenter(model.config)
    found = []
    for i, item in enumerate(case.features()):
        logits = case.tensor(f"single{i}/logits")[None].clone()
        monkeypatch.setattr(model.generator, "forward", lambda x, logits=logits: (logits, None))
        found += model.transcribe(item[None])
    assert found == case.facts["transcripts"]["none"] and all(found)
    monkeypatch.setattr(model.generator, "forward", lambda x: (logits.flip(2), None))
    assert model.transcribe(item[None]) != found[-1:]


# --- segmenters --------------------------------------------------------------------------------------------------

SEGMENTERS = Case.read("segmenters")


def segmented(name: str, mode: str) -> dict[str, Tensor]:
    """What a segmenter gives for the recorded features and logits, under the names of the record."""
    options = dict(SEGMENTERS.facts["segmenters"][name])
    options["segmentation"] = options.pop("type")
    config = wav2vec_u.WavVecUConfig(family="wav2vec_u", **options)
    segmenter = wav2vec_u.SEGMENTERS[config.segmentation](config).train(mode == "train")
    torch.manual_seed(SEGMENTERS.facts["random_seed"])
    features, features_mask = segmenter.pre_segment(SEGMENTERS.tensor("features"), SEGMENTERS.tensor("mask"))
    torch.manual_seed(SEGMENTERS.facts["random_seed"])
    source = SEGMENTERS.tensor("logits").clone().requires_grad_()
    logits, logits_mask = segmenter.logit_segment(source, SEGMENTERS.tensor("mask"))
    (gradient,) = torch.autograd.grad(logits.pow(3).sum(), [source])
    return {
        "features": features,
        "features_mask": features_mask,
        "logits": logits.detach(),
        "logits_mask": logits_mask,
        "grad": gradient,
    }


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", SEGMENTERS.facts["segmenters"])
def test_segmenters(name: str, mode: str) -> None:
    """Forward and backward; what is drawn at random is drawn as fairseq draws it from the same seed."""
    for key, value in segmented(name, mode).items():
        want = SEGMENTERS.tensor(f"{name}/{mode}/{key}")
        torch.testing.assert_close(value, want, rtol=1.3e-6, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_the_recorded_segmenters_differ() -> None:
    """Or a test that confuses them could not fail."""
    for mode in ("train", "eval"):
        seen: list[tuple[str, Tensor]] = []
        for name in SEGMENTERS.facts["segmenters"]:
            both = [SEGMENTERS.tensor(f"{name}/{mode}/{key}").flatten() for key in ("features", "logits")]
            seen.append((name, torch.cat(both)))
        same = {(a, b) for i, (a, x) in enumerate(seen) for b, y in seen[:i] if torch.equal(x, y)}
        assert same <= ({("join_mean", "join")} if mode == "eval" else set())


# --- canaries ----------------------------------------------------------------------------------------------------

Plant = Callable[[WavVecU, pytest.MonkeyPatch], None]


def generator_part(name: str, value: object) -> Plant:
    return lambda model, patch: patch.setattr(model.generator, name, value)


def padding(value: int) -> Plant:
    return lambda model, patch: patch.setattr(model.generator.conv, "padding", (value,))


def norm_over_everything(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model.generator, "normalise", lambda x, padded: model.generator.bn(x.transpose(1, 2)).transpose(1, 2))


def no_residual_sum(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        mapped = model.generator.in_proj(x)
        return model.generator.proj(mapped), mapped

    patch.setattr(model.generator, "forward", forward)


def head_after_the_sum(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + model.generator.in_proj(x)
        return model.generator.proj(x), x

    patch.setattr(model.generator, "forward", forward)


def batched_in_exact_mode(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    run = model._run

    def batched(x: Tensor, valid: Any) -> Any:
        model._padding = "reference"
        out = run(x, valid)
        model._padding = "exact"
        return out

    patch.setattr(model, "_run", batched)


def other_crop(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wav2vec_u.Crop, "forward", lambda self, x: x[:, :, self.count :])


def activation(index: int) -> Plant:
    def plant(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(model.discriminator.net._modules, str(index), torch.nn.GELU())

    return plant


def mean_over_padding(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    score = wav2vec_u.Discriminator.forward
    patch.setattr(wav2vec_u.Discriminator, "forward", lambda self, x, mask: score(self, x, None))


def phones(change: Callable[..., str]) -> Plant:
    return lambda model, patch: patch.setattr(wav2vec_u, "_phones", change)


def silence_before_merging(best: list[int], symbols: list[str]) -> str:
    return PHONES([n for n in best if symbols[n] != "<SIL>"], symbols)


def silence_kept(best: list[int], symbols: list[str]) -> str:
    return PHONES(best, [symbol.replace("<SIL>", "SIL") for symbol in symbols])


def not_merged(best: list[int], symbols: list[str]) -> str:
    return " ".join(symbols[n] for n in best if n >= 4 and symbols[n] not in ("<SIL>", "<ctc_blank>"))


def blank_is_a_phone(best: list[int], symbols: list[str]) -> str:
    return PHONES(best, [symbol.replace("<ctc_blank>", "BLANK") for symbol in symbols])


def without_blank_weight(model: WavVecU, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model, "config", type(model.config)(**{**model.config.to_dict(), "blank_weight": 0.0}))


def frobenius(self: Any, x: Tensor) -> Tensor:
    return self._conv_forward(x, self.weight_v * self.weight_g / self.weight_v.norm(), self.bias)


PHONES = wav2vec_u._phones
CANARIES: dict[str, tuple[str, Plant]] = {
    "padding of the convolution": ("second_usual", padding(3)),
    "padding of an even kernel": ("first_usual", padding(1)),
    "batch norm over padding": ("second_lively", norm_over_everything),
    "no batch norm": ("second_usual", lambda model, patch: patch.setattr(model.generator, "bn", None)),
    "batch norm eps": ("second_lively", lambda model, patch: patch.setattr(model.generator.bn, "eps", 1e-3)),
    "no linear map": (
        "second_usual",
        lambda model, patch: patch.setattr(model.generator.in_proj, "forward", torch.zeros_like),
    ),
    "no residual": ("second_usual", no_residual_sum),
    "head after the sum": ("second_usual", head_after_the_sum),
    "linear map's bias in the padding": ("second_lively", batched_in_exact_mode),
    "crop at the front": ("second_usual", other_crop),
    "activation after the first layer": ("second_usual", activation(2)),
    "no activation": (
        "weight_norm_usual",
        lambda model, patch: patch.setattr(torch.nn.GELU, "forward", lambda s, x: x),
    ),
    "mean over padding": ("first_usual", mean_over_padding),
    "weight norm over the whole tensor": (
        "weight_norm_usual",
        lambda model, patch: patch.setattr(wav2vec_u.WeightNormConv1d, "forward", frobenius),
    ),
    "silence dropped before merging": ("first_usual", phones(silence_before_merging)),
    "silence kept": ("second_usual", phones(silence_kept)),
    "repetitions kept": ("second_usual", phones(not_merged)),
    "blank kept": ("weight_norm_usual", phones(blank_is_a_phone)),
    "blank weight ignored": ("spectral_norm_lively", without_blank_weight),
}


@pytest.mark.parametrize("name", CANARIES)
def test_canary(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.read(CANARIES[name][0])
    model = case.model(tmp_path)
    assert not compare(case, model).failures
    CANARIES[name][1](model, monkeypatch)
    assert compare(case, model).failures, f"the comparison does not see: {name}"


@pytest.mark.parametrize("name", ["weight_norm_usual", "first_usual"])
def test_swapped_segmenters_are_seen(name: str, tmp_path: Path) -> None:
    case = Case.read(name)
    model = case.model(tmp_path)
    model.segmenter = wav2vec_u.RandomSegmenter(model.config)
    assert any(failure.startswith("transcripts/own") for failure in compare(case, model).failures)
