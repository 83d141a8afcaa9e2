"""The zoo gives what the reference implementations gave: every stage, alone and batched, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from tests.families import SPEECH_ENCODERS
from tests.golden import generator
from tests.golden.compare import TOLERANCES, Case, case_names, check_silence, compare
from zoo.layers.lengths import Valid


@pytest.mark.parametrize("name", case_names())
def test_case(name: str, tmp_path: Path, record_differences) -> None:
    case = Case.read(name)
    checkpoint = case.checkpoint(tmp_path)
    model = zoo.load(checkpoint)
    result = compare(case, model, case.names(checkpoint))
    check_silence(result, model)
    record_differences(case.facts["family"], result.largest)
    assert not result.failures, "\n".join(result.failures)


def test_every_released_architecture_is_covered(tmp_path: Path) -> None:
    """Each family, post- and pre-norm as it was released, at two weight scales."""
    covered = set()
    for name in case_names():
        case = Case.read(name)
        config = zoo.load(case.checkpoint(tmp_path)).config
        covered.add((config.family, config.norm_first, case.facts["scale"]))
    released = {(zoo.info(name).family, zoo.info(name).config.norm_first) for name in SPEECH_ENCODERS}
    assert {(family, first, scale) for family, first in released for scale in ("usual", "lively")} <= covered


def test_the_reshape_rule_is_fairseqs() -> None:
    """A frame is padded when all samples of its stretch are: fairseq's `forward_padding_mask`, written out."""
    for samples, frames in ((4000, 12), (4160, 13), (977, 3)):
        counts = tuple(range(samples // 2, samples + 1))
        lengths = torch.tensor(counts)
        padded = torch.arange(samples)[None, :] >= lengths[:, None]
        want = padded[:, : samples - samples % frames].unflatten(1, (frames, -1)).all(2)
        assert torch.equal(Valid(lengths, counts).reshaped_padding_mask(samples, frames), want)


@pytest.mark.parametrize(("name", "overrides"), [("hubert_base", {}), ("wav2vec2_large_ll60k", {"width": 256})])
@torch.no_grad()
def test_deep_models_are_exact(name: str, overrides: dict[str, int], record_differences) -> None:
    """What an utterance gives alone it gives in a padded batch, through 12 and 24 layers of the usual weights."""
    torch.manual_seed(1)
    model = zoo.build(name, **overrides)
    places = ((30000, 16000), (90000, 9000), (60000, 4000))
    spec = {"file": "2412-153948-0000.flac", "gain": 1.0, "offset": 0.0}
    waves = [torch.from_numpy(generator.waveform({**spec, "start": s, "samples": n})) for s, n in places]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=float("nan"))
    together = model(batch, [len(wave) for wave in waves])
    row = f"{model.num_layers} layers"
    for i, wave in enumerate(waves):
        for got, want in zip(together.hidden_states, model(wave[None]).hidden_states):
            found, alone = got[i, : want.shape[1]].numpy(), want[0].numpy()
            record_differences(row, {"exact": float(abs(found - alone).max())})
            assert TOLERANCES[row].excess(found, alone) <= 1
