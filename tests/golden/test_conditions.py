"""Precision, compiler, attention kernels, threads and GPU: each is held to what the reference recorded.

The rows of the tolerance table are `CONDITIONS` in `compare.py`; `docs/numerics.md` has what was measured. Those of
CUDA are collected where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import zoo
from tests.golden import spectral
from tests.golden.compare import CONDITIONS, Case
from zoo.models._family import EncoderOutput, Model

SCALE = 2.0**10

aten = torch.ops.aten
PRODUCTS = {
    aten.mm,
    aten.bmm,
    aten.addmm,
    aten.convolution,
    aten.convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
}


class TenBits(TorchDispatchMode):
    """TF32 in software: what goes into a matrix product or a convolution is rounded to ten bits of mantissa."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            args = tree_map(rounded, args)
        return func(*args, **(kwargs or {}))


def rounded(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = allowed
        yield
    finally:
        for flag, value in zip(flags, before):
            flag.allow_tf32 = value


@dataclass(frozen=True)
class Condition:
    """How a model is run: the row of the table that it is held to, and what to enter around it."""

    name: str
    row: str = "fp32"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


ON_CPU = [
    Condition("fp32"),
    *(Condition(f"{n} threads", around=lambda n=n: threads(n)) for n in (1, 2, 4)),
    Condition("SDPA math", around=lambda: sdpa_kernel(SDPBackend.MATH)),
    Condition("SDPA flash", around=lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION)),
    Condition("TF32 emulated", "TF32", around=TenBits),
    Condition("bf16", "bf16", dtype=torch.bfloat16),
    Condition("fp16", "fp16", dtype=torch.float16),
]
ON_CUDA = [
    Condition("CUDA fp32", device="cuda", around=lambda: tf32(False)),
    Condition("CUDA TF32", "TF32", "cuda", around=lambda: tf32(True)),
    Condition("CUDA bf16", "bf16", "cuda", torch.bfloat16),
    Condition("CUDA fp16", "fp16", "cuda", torch.float16),
]
EVERY = [*ON_CPU, *(pytest.param(c, marks=pytest.mark.cuda) for c in ON_CUDA if torch.cuda.is_available())]

# Every kind of encoder, with attention that is far from even.
CASES: dict[str, Callable[[str], Case]] = dict.fromkeys(
    (
        "wav2vec2_pre_norm_lively",
        "hubert_post_norm_lively",
        "hf_unispeech_pre_norm_lively",
        "unispeech_sat_post_norm_lively",
        "distilhubert_lively",
        "data2vec_lively",
        "data2vec2_lively",
        "wavlm_post_norm_lively",
        "conformer_relative_lively",
    ),
    Case.read,
) | {"tera_lively": spectral.read}
LEFT_OUT = {
    # A bias that is learned no kernel but math takes forward and backward.
    "SDPA flash": {"data2vec2_lively", "wavlm_post_norm_lively", "conformer_relative_lively"},
    # Threads that wait for each other take long where others are busy.
    **dict.fromkeys(("2 threads", "4 threads"), CASES.keys() - {"wav2vec2_pre_norm_lively", "wavlm_post_norm_lively"}),
}


def load(name: str, folder: Path) -> tuple[Case, Model]:
    case = CASES[name](name)
    return case, zoo.load(spectral.checkpoint(case, folder) if "kind" in case.facts else case.checkpoint(folder))


def relative(got: Tensor, want: np.ndarray) -> float:
    """L2 norm of the difference over that of the reference's."""
    found = got.detach().double().cpu().numpy().reshape(want.shape)
    return float(np.linalg.norm(found - want) / np.linalg.norm(want))


def forward(case: Case, model: Callable[..., EncoderOutput]) -> float:
    """Largest relative difference of a hidden state, of each utterance alone and in a padded batch."""
    waves, found = case.utterances(), []
    batch = nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=float("nan"))
    with torch.no_grad():
        together = model(batch, torch.tensor([len(wave) for wave in waves])).hidden_states
        for i, wave in enumerate(waves):
            for k, state in enumerate(model(wave[None]).hidden_states):
                want = case.arrays[f"single{i}/{k}"]
                found += [relative(state[0], want), relative(together[k][i, : len(want)], want)]
    return max(found)


def backward(case: Case, model: Callable[..., EncoderOutput]) -> float:
    """Relative difference of the waveform's gradient. The loss is scaled, as training in half precision does."""
    wave = case.utterances()[0].requires_grad_()
    loss = sum(state.float().square().mean() for state in model(wave[None]).hidden_states)
    (loss * SCALE).backward()
    return relative(wave.grad / SCALE, case.arrays["grad/input"])


def hold(condition: Condition, found: dict[str, float], record: Callable[[str, dict[str, float]], None]) -> None:
    record(condition.name, found)
    for stage, allowed in zip(("forward", "backward"), CONDITIONS[condition.row]):
        assert found[stage] <= allowed, stage


def measure(
    condition: Condition, case: Case, model: Callable[..., EncoderOutput]
) -> tuple[dict[str, float], list[str]]:
    """Largest differences, and those that the table does not allow."""
    with threads(1), condition.around():
        found = {"forward": forward(case, model), "backward": backward(case, model)}
    allowed = dict(zip(found, CONDITIONS[condition.row]))
    return found, [f"{stage}: {value:.1e}" for stage, value in found.items() if not value <= allowed[stage]]


@pytest.mark.parametrize("condition", EVERY, ids=lambda condition: condition.name)
def test_condition(condition: Condition, tmp_path: Path, record_differences) -> None:
    failures = []
    for name in CASES.keys() - LEFT_OUT.get(condition.name, set()):
        case, model = load(name, tmp_path)
        found, more = measure(condition, case, model.to(condition.device, condition.dtype))
        record_differences(condition.name, found)
        failures += [f"{name}, {text}" for text in more]
    assert not failures, "\n".join(failures)


# The tracer alone, and what the compiler makes of the graph, which takes it most of a minute.
COMPILERS = ("aot_eager", pytest.param("inductor", marks=pytest.mark.slow))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", COMPILERS)
def test_compiled(backend: str, tmp_path: Path, record_differences) -> None:
    case, model = load("wav2vec2_pre_norm_lively", tmp_path)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    wave = case.utterances()[0]
    with torch.no_grad():
        states = compiled(wave[None], torch.tensor([len(wave)])).hidden_states
    found = max(relative(state[0], case.arrays[f"single0/{k}"]) for k, state in enumerate(states))
    record_differences(f"compile {backend}", {"forward": found})
    assert found <= CONDITIONS["fp32"][0]


def test_conditions_are_left_as_they_were() -> None:
    def flags() -> tuple[object, ...]:
        return torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with threads(before[0] + 1), tf32(not before[1]):
        assert flags()[:2] == (before[0] + 1, not before[1])
    assert flags() == before


def test_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong heads are seen in every row, and ten bits for full precision in that of fp32."""
    case, model = load("wav2vec2_pre_norm_lively", tmp_path)
    assert measure(Condition("fp32", around=TenBits), case, model)[1]
    for layer in model.encoder.layers:
        monkeypatch.setattr(layer.attention, "heads", 2)
    for row, dtype in (("TF32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        assert measure(Condition(row, row), case, model.to(dtype))[1]
