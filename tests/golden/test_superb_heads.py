"""SUPERB's and HEAR's heads and losses give what s3prl's give: outputs, gradients, 100 steps; bugs are caught."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tests.golden import store
from tests.golden.compare import Comparison
from tests.golden.superb_heads import (
    CASES,
    FIXED,
    HIDDEN,
    INTENTS,
    LAYERS,
    POOLED,
    WIDTH,
    Batch,
    Draws,
    augmented,
    batch,
    gradients,
    train,
    weights,
)
from zoo.benchmark import heads, losses

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = Path(__file__).parent / "superb"
WANT = store.read(DATA / "heads_training.npz")

# s3prl's names by ours, of each generation; the first pattern that matches.
NAMES = {
    "v0.3": {
        "asv": {
            r"projection\.": "connector.",
            r"frames\.(\d)\.": r"model.framelevel_feature_extractor.module.\1.kernel.",
            r"embedding\.": "model.utterancelevel_feature_extractor.linear1.",
            r"output\.": "model.utterancelevel_feature_extractor.linear2.",
            r"loss\.weight": "objective.W",
        },
        "sd": {r"lstm\.": "model.rnn.", r"output\.": "model.linear."},
        "asr|sf": {
            r"projection\.": "projector.",
            r"layers\.(\d)\.": r"model.rnns.\1.layer.",
            r"output": "model.linear",
        },
        "pr": {r"hidden\.": "projector.", r"output\.": "model.linear."},
        "": {r"hidden\.": "projector.", r"output\.": "model.post_net.linear."},
    },
    "v0.4": {
        "asv": {
            r"projection\.": "model.projector.",
            r"frames\.(\d)\.": r"model.tdnns.module.\1.kernel.",
            r"embedding\.": "model.affine.linear1.",
            r"output\.": "model.affine.linear2.",
            r"loss\.weight": "loss.W",
        },
        "sd": {r"lstm\.": "model.rnn.", r"output\.": "model.linear."},
        "asr": {
            r"projection\.": "model.proj.",
            r"layers\.(\d)\.": r"model.rnns.\1.layer.",
            r"output\.": "model.linear.",
        },
        "hear": {r"rows\.8\.": "model.projection.", r"rows\.(\d)\.": r"model.hidden.\1."},
        "": {r"hidden\.": "model.hidden_layers.0.", r"output\.": "model.final_proj."},
    },
}


def renamed(name: str, parameter: str) -> str:
    """s3prl's name of a parameter of a case."""
    generation, task = name.split("/")
    table = next(table for pattern, table in NAMES[generation].items() if re.fullmatch(pattern or ".*", task))
    pattern, reference = next(row for row in table.items() if re.match(row[0], parameter))
    return re.sub(pattern, reference, parameter, count=1)


class Twin:
    """The zoo's head of a case with the same weights, behind a weighted sum of layers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.case = {**CASES, **FIXED}[name]
        self.layers = nn.Parameter(torch.zeros(LAYERS))
        outputs = self.case.outputs
        self.loss: nn.Module | None = None
        self.head: nn.Module
        if name == "v0.4/asv":
            self.head = heads.XVector(WIDTH, pooling_extra_frame=False)
            self.loss = losses.AMSoftmax(512, outputs)
        elif name == "v0.3/asv":
            self.head = heads.XVector(WIDTH, HIDDEN, hidden_size=HIDDEN, pooled_size=POOLED)
            self.loss = losses.AMSoftmax(HIDDEN, outputs)
        elif self.case.kind == "turns":
            self.head = heads.Diarizer(WIDTH, outputs, hidden_size=HIDDEN)
        elif name.endswith("/hear"):
            self.head = heads.UtteranceMLP(WIDTH, outputs, hidden_size=HIDDEN, dropout=0.0)
        elif name.endswith("/pr"):
            self.head = heads.FrameLinear(WIDTH, outputs, hidden_size=HIDDEN)
        elif self.case.kind == "text":
            sizes = {"projection_size": HIDDEN, "hidden_size": HIDDEN}
            self.head = heads.BLSTM(WIDTH, outputs, dropout=0.0, spec_augment=False, **sizes)
        else:
            self.head = heads.UtteranceLinear(WIDTH, outputs, hidden_size=HIDDEN)
        self.parameters = {renamed(name, key): value for key, value in self.named()}
        weights(name, self.parameters.items())

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.head.named_parameters()
        if self.loss is not None:
            yield from self.loss.named_parameters(prefix="loss")

    def features(self, given: Batch) -> Tensor:
        return torch.einsum("k,kbtd->btd", self.layers.softmax(0), given.states)

    def step(self, given: Batch) -> Tensor:
        y, y_len = self.head(self.features(given), given.lengths)
        total: Tensor
        if self.case.kind == "text":
            sizes = torch.tensor([len(target) for target in given.targets])
            targets = pad_sequence([torch.tensor(target) for target in given.targets], batch_first=True)
            total, weight = losses.ctc(y, y_len, targets, sizes)
        elif self.case.kind == "turns":
            total, weight = losses.pit_bce(y, given.labels, y_len)
        elif self.case.kind == "intent":
            parts = [losses.cross_entropy(*part) for part in zip(y.split(INTENTS, dim=1), given.labels.T)]
            total, weight = torch.stack([part for part, _ in parts]).sum(), parts[0][1]
        else:
            total, weight = (self.loss or losses.cross_entropy)(y, given.labels)
        return total / weight


def compare_once(name: str, twin: Twin | None = None) -> Comparison:
    """Outputs, loss and gradients of one micro-batch."""
    twin, given, result = twin or Twin(name), batch(name, 0), Comparison()
    with torch.no_grad():
        y, y_len = twin.head(twin.features(given), given.lengths)
        want = WANT[f"{name}/output"]
        rows = y_len.tolist() if y.ndim == 3 else [None] * len(y)
        for i, valid in enumerate(rows):
            result.check(f"output/{i}", y[i, :valid], want[i, :valid])
        if isinstance(twin.head, heads.XVector):
            got = twin.head.embed(twin.features(given), given.lengths)
            # v0.4 leaves the length to the cosine.
            result.check("embedding", got, F.normalize(torch.from_numpy(WANT[f"{name}/embedding"]), dim=1).numpy())
    loss = twin.step(given)
    result.check("loss", loss, WANT[f"{name}/loss"])
    prefix = f"{name}/gradient/"
    found = gradients(loss, {"layers": twin.layers, **twin.parameters})
    if {f"{prefix}{key}" for key in found} != {key for key in WANT if key.startswith(prefix)}:
        result.failures.append("gradient: not of the same parameters")
    norms = {key: float(value) for key, value in WANT.items() if key.startswith(prefix) and key.endswith("/norm")}
    for key, value in found.items():
        # That of the layer weights, or of a bias before batch norm, is what large terms leave of each other.
        unit, most = norms[f"{prefix}{key.rpartition('/')[0]}/norm"], max(norms.values())
        unit = most if key.startswith("layers/") or unit < 1e-6 * most else unit
        result.check(f"gradient/{key}", value, WANT[prefix + key], "gradient", unit)
    return result


def compare_training(name: str, steps: int = 100, twin: Twin | None = None) -> Comparison:
    """Losses of the first steps, and with all of them the layer weights that were learnt."""
    twin, result = twin or Twin(name), Comparison()
    found = train(name, twin.step, [twin.layers, *twin.parameters.values()], steps)
    result.check("training", torch.from_numpy(found), WANT[f"{name}/losses"][:steps], "training")
    if steps == 100:
        result.check("layers", twin.layers, WANT[f"{name}/layers"], "training")
    return result


@pytest.mark.parametrize("name", [*CASES, *FIXED])
def test_outputs_and_gradients(name: str, record_differences) -> None:
    result = compare_once(name)
    record_differences("SUPERB heads", result.largest)
    assert not result.failures, "\n".join(result.failures)


@pytest.mark.parametrize("name", CASES)
def test_the_first_hundred_losses(name: str, record_differences) -> None:
    want = WANT[f"{name}/losses"]
    assert want.shape == (100,)
    assert want[-10:].mean() < 0.85 * want[0]  # something was learnt
    result = compare_training(name)
    record_differences("SUPERB heads", result.largest)
    assert not result.failures, "\n".join(result.failures)


@pytest.mark.parametrize("inclusive", [False, True])
def test_spec_augment(inclusive: bool, monkeypatch: pytest.MonkeyPatch, record_differences) -> None:
    result = compare_spec_augment(inclusive, monkeypatch)
    record_differences("SUPERB heads", result.largest)
    assert not result.failures, "\n".join(result.failures)


def compare_spec_augment(inclusive: bool, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    want, result = store.read(DATA / "heads_spec_augment.npz"), Comparison()
    generation = "v0.4" if inclusive else "v0.3"
    monkeypatch.setattr(torch, "randint", Draws())
    x, lengths = augmented()
    got = heads.spec_augment(torch.where(x == 0, torch.nan, x), lengths, inclusive=inclusive)
    result.check("augmented", got[..., ::5], want[f"{generation}/values"])
    result.check("kept", got.ne(0), want[f"{generation}/kept"])
    return result


Patch = pytest.MonkeyPatch


def _reversed_contexts(self: heads._TimeDelay, x: Tensor) -> Tensor:
    frames = x.shape[1] - (self.context - 1) * self.dilation
    shifted = [x.narrow(1, k * self.dilation, frames) for k in reversed(range(self.context))]
    return F.relu(F.linear(torch.cat(shifted, dim=-1), self.weight, self.bias))


def _whole_ctc(logits: Tensor, lengths: Tensor, targets: Tensor, sizes: Tensor) -> tuple[Tensor, int]:
    each = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, lengths, sizes, reduction="none")
    return each.sum(), len(each)


def _every_frame_is_valid(patch: Patch) -> None:
    pack = heads.pack_padded_sequence
    patch.setattr(heads, "pack_padded_sequence", lambda x, n, **kw: pack(x, torch.full_like(n, x.shape[1]), **kw))


def _last_blank(patch: Patch) -> None:
    right = losses.ctc
    patch.setattr(losses, "ctc", lambda logits, *args: right(logits, *args, blank=logits.shape[2] - 1))


def _unfinished_embedding(patch: Patch) -> None:
    patch.setattr(heads.XVector, "embed", lambda self, *args: F.normalize(self(*args)[0], dim=-1))


def _biased_deviation(patch: Patch) -> None:
    patch.setattr(Tensor, "std", lambda self, dim: self.var(dim, correction=0).sqrt())


def _mean_over_everything(patch: Patch) -> None:
    right = losses.pit_bce
    patch.setattr(losses, "pit_bce", lambda y, labels, n: right(y, labels, torch.full_like(n, y.shape[1])))


def _old_statistics(patch: Patch) -> None:
    def forward(self: heads._RowNorm, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)

    patch.setattr(heads._RowNorm, "forward", forward)


PLANTED: dict[str, tuple[str, Callable[[Patch], None]]] = {
    "padding is averaged": ("v0.3/sid", lambda patch: patch.setattr(heads, "_without_padding", lambda x, n: x)),
    "padding is averaged, intents": ("v0.3/ic", lambda patch: patch.setattr(heads, "_without_padding", lambda x, n: x)),
    "state goes through padding": ("v0.3/asr", _every_frame_is_valid),
    "ctc is not divided by the target's length": ("v0.3/pr", lambda patch: patch.setattr(losses, "ctc", _whole_ctc)),
    "blank is the last symbol": ("v0.4/pr", _last_blank),
    "speakers in the order of the labels": (
        "v0.4/sd",
        lambda patch: patch.setattr(losses, "permutations", lambda outputs: [tuple(outputs)]),
    ),
    "padding is diarized": ("v0.3/sd", _mean_over_everything),
    "no margin": (
        "v0.3/asv",
        lambda patch: patch.setattr(losses.AMSoftmax.__init__, "__kwdefaults__", {"s": 30, "m": 0}),
    ),
    "no scale": (
        "v0.4/asv",
        lambda patch: patch.setattr(losses.AMSoftmax.__init__, "__kwdefaults__", {"s": 1, "m": 0.4}),
    ),
    "contexts backwards": ("v0.3/asv", lambda patch: patch.setattr(heads._TimeDelay, "forward", _reversed_contexts)),
    "deviation with N": ("v0.3/asv", _biased_deviation),
    "trials score the training embedding": ("v0.3/asv", _unfinished_embedding),
    "padding is averaged, HEAR": ("v0.4/hear", lambda patch: patch.setattr(heads, "_without_padding", lambda x, n: x)),
    "batches are not normalised": ("v0.4/hear", _old_statistics),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: Patch) -> None:
    name, plant = PLANTED[bug]
    plant(monkeypatch)
    assert compare_once(name).failures


@pytest.mark.parametrize("name", ["v0.3/asv", "v0.4/asv"])
def test_the_other_generations_pooling_is_caught(name: str) -> None:
    twin = Twin(name)
    twin.head.pooling_extra_frame = not twin.head.pooling_extra_frame
    assert compare_once(name, twin).failures


def test_training_bugs_are_caught(monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch:  # no clipping
        patch.setattr(nn.utils, "clip_grad_norm_", lambda *args: None)
        assert compare_training("v0.3/ic", 20).failures
    twin = Twin("v0.3/ic")
    with torch.no_grad():
        twin.layers[0] = 0.01
    assert compare_training("v0.3/ic", 20, twin).failures


def _one_mask_for_all(patch: Patch) -> None:
    right = heads._masks
    patch.setattr(heads, "_masks", lambda items, *args: right(items, *args)[:1].expand(items, -1))


AUGMENT_PLANTED: dict[str, Callable[[Patch], None]] = {
    "no warp": lambda patch: patch.setattr(heads, "_warped", lambda x: x),
    "one mask for all": _one_mask_for_all,
    "narrow bands": lambda patch: patch.setattr(heads, "FEATURE_WIDTH", 40),
    "two bands": lambda patch: patch.setattr(heads, "FEATURE_MASKS", 2),
    "warp of 4": lambda patch: patch.setattr(heads, "WARP", 4),
}


@pytest.mark.parametrize("bug", AUGMENT_PLANTED)
def test_a_bug_in_spec_augment_is_caught(bug: str, monkeypatch: Patch) -> None:
    AUGMENT_PLANTED[bug](monkeypatch)
    assert compare_spec_augment(False, monkeypatch).failures


def test_the_other_generations_masks_are_caught(monkeypatch: Patch) -> None:
    right = heads.spec_augment
    monkeypatch.setattr(heads, "spec_augment", lambda *args, inclusive: right(*args, inclusive=not inclusive))
    assert compare_spec_augment(False, monkeypatch).failures
