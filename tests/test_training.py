"""Training mode: dropout, layerdrop, masking, checkpointing, freezing, and two processes that share gradients."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.families import KINDS, tiny, train
from zoo.layers.masking import Masking, span_mask

DROPOUTS = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "input_dropout": 0.2}


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(3, 6000) * 0.1, torch.tensor([6000, 4000, 2000])


def loss_of(model: nn.Module) -> Tensor:
    return sum(state.square().mean() for state in model(*batch()).hidden_states)


@pytest.mark.parametrize("name", KINDS)
def test_training_without_randomness_is_evaluation(name: str) -> None:
    model = tiny(name)
    want = model(*batch()).hidden_states
    got = train(model)(*batch()).hidden_states
    for a, b in zip(got, want):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_that_wants_a_gradient_gets_one(name: str) -> None:
    model = tiny(name, **DROPOUTS).train()
    loss_of(model).backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    assert not model.masked_spec_embed.requires_grad
    model.masking = Masking(time_probability=0.5)
    loss_of(model).backward()
    assert model.masked_spec_embed.grad.any()


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "activation_dropout", "input_dropout"])
def test_each_dropout_acts_in_training_only_and_follows_the_generator(rate: str) -> None:
    model = tiny("hubert_base", **{rate: 0.5})
    still = model(*batch()).hidden_states[-1]
    assert torch.equal(still, model(*batch()).hidden_states[-1])
    model.train()

    def draw(seed: int) -> Tensor:
        waveforms, lengths = batch()
        torch.manual_seed(seed)
        return model(waveforms, lengths).hidden_states[-1]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), still)


def test_the_input_dropout_of_data2vec2_acts_behind_the_prenet() -> None:
    model = tiny("data2vec2_base_960", input_dropout=0.5, num_layers=3, prenet_layers=1)
    still = model(*batch()).hidden_states
    drawn = model.train()(*batch()).hidden_states
    assert [torch.equal(a, b) for a, b in zip(still, drawn)] == [True, True, False, False]


def test_layerdrop_skips_blocks_at_its_rate() -> None:
    model = tiny("hubert_base", layerdrop=0.3, num_layers=8).train()
    skipped = total = 0
    waveforms, lengths = batch()
    with torch.no_grad():
        for _ in range(60):
            states = model(waveforms, lengths).hidden_states
            skipped += sum(torch.equal(a, b) for a, b in itertools.pairwise(states))
            total += 8
    assert 0.22 < skipped / total < 0.38
    states = model.eval()(waveforms, lengths).hidden_states
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(states))


@pytest.mark.parametrize("name", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    model = tiny(name, **DROPOUTS, layerdrop=0.2).train()
    found = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        waveforms, lengths = batch()
        torch.manual_seed(11)
        sum(state.square().mean() for state in model(waveforms, lengths).hidden_states).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name_, gradient in found[0].items():
        torch.testing.assert_close(found[1][name_], gradient, rtol=1e-5, atol=1e-7)


def test_checkpointing_recomputes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("hubert_base").train()
    model.gradient_checkpointing = True
    calls = []
    for layer in model.encoder.layers:
        layer.attention.register_forward_hook(lambda *_: calls.append(1))
    loss_of(model).backward()
    assert len(calls) == 4


def test_a_frozen_front_end_gets_no_gradient() -> None:
    model = tiny("wav2vec2_base_960").train()
    model.freeze_feature_extractor()
    loss_of(model).backward()
    assert all(p.grad is None for p in model.feature_extractor.parameters())
    assert model.feature_projection.projection.weight.grad.any()


# --- masking -----------------------------------------------------------------------------------------------------


def test_spans_lie_within_each_item_and_cover_what_was_asked() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([400, 100, 10, 5, 37] * 40)
    mask = span_mask(lengths, 400, 0.3, 10)
    assert mask.shape == (200, 400)
    for row, n in zip(mask, lengths.tolist()):
        assert not row[n:].any()
        runs = torch.diff(torch.nn.functional.pad(row.long(), (1, 1)).nonzero().flatten()[[0, -1]]) if row.any() else 0
        assert not row.any() or int(runs) >= 9  # the first and last masked frame are at least a span apart
    assert not mask[lengths < 10].any()
    share = mask[lengths == 400].float().mean()
    assert 0.22 < share < 0.3  # some spans overlap
    torch.manual_seed(0)
    assert torch.equal(mask, span_mask(lengths, 400, 0.3, 10))


def test_masked_frames_show_the_embedding_and_masked_channels_zero() -> None:
    model = tiny("hubert_base").train()
    seen = {}
    model.encoder.register_forward_pre_hook(lambda module, args: seen.update(x=args[0].detach()))
    waveforms, lengths = batch()
    model.masking = Masking(time_probability=0.6, time_span=4)
    model(waveforms, lengths)
    hidden = (seen["x"] == model.masked_spec_embed).all(2)
    assert hidden[0].any() and not hidden[0].all()
    assert not hidden[2, int(model.frame_count(2000)) :].any()
    model.masking = Masking(channel_probability=0.5, channel_span=4)
    model(waveforms, lengths)
    zeros = (seen["x"][0] == 0).all(0)
    assert zeros.any() and not zeros.all()
    model.eval()(waveforms, lengths)
    assert not (seen["x"][0] == 0).all(0).any()


# --- two processes -----------------------------------------------------------------------------------------------


def _train_in_process(rank: int, port: int, folder: str, name: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.manual_seed(5)
        model = tiny(name).train()
        waveforms, lengths = batch()
        parallel = DistributedDataParallel(model)
        out = parallel(waveforms[rank : rank + 1, : int(lengths[rank])])
        sum(state.square().mean() for state in out.hidden_states).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        save_file(gradients, f"{folder}/plain{rank}.safetensors")

        # Each process drops other blocks; every parameter must take part all the same.
        torch.manual_seed(5)
        model = tiny(name, layerdrop=0.5).train()
        parallel = DistributedDataParallel(model)
        for step in range(4):
            torch.manual_seed(100 * rank + step)
            sum(s.square().mean() for s in parallel(waveforms, lengths).hidden_states).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        save_file(gradients, f"{folder}/dropped{rank}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert_base", "wavlm_large", "data2vec_base_960"])
def test_two_processes_give_the_gradients_of_one(name: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_train_in_process, (port, str(tmp_path), name), nprocs=2)
    torch.manual_seed(5)
    model = tiny(name).train()
    waveforms, lengths = batch()
    losses = [
        sum(s.square().mean() for s in model(waveforms[i : i + 1, : int(lengths[i])]).hidden_states) for i in (0, 1)
    ]
    (sum(losses) / 2).backward()
    found = load_file(tmp_path / "plain0.safetensors")
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=1e-6)
    first, second = (load_file(tmp_path / f"dropped{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
