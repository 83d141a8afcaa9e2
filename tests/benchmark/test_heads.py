"""Heads and losses of SUPERB, and HEAR's head, keep what is promised; `tests/golden` compares SUPERB's with s3prl's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from tests.golden.compare import TOLERANCES
from zoo.benchmark.heads import (
    BLSTM,
    Diarizer,
    FrameLinear,
    FrameMLP,
    UtteranceLinear,
    UtteranceMLP,
    XVector,
    spec_augment,
)
from zoo.benchmark.losses import AMSoftmax, cross_entropy, ctc, pit_bce
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, OUTPUTS = 8, 5
LENGTHS = (23, 40, 31)


class TwoLayers(nn.Module):
    """A user's own head, in the form that s3prl's introduction has: nothing of the zoo's in it."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int = 6) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, output_size))

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(x), x_len


HEADS: dict[str, Callable[[], nn.Module]] = {
    "FrameLinear": lambda: FrameLinear(WIDTH, OUTPUTS, hidden_size=6),
    "UtteranceLinear": lambda: UtteranceLinear(WIDTH, OUTPUTS, hidden_size=6),
    "BLSTM": lambda: BLSTM(WIDTH, OUTPUTS, projection_size=6, hidden_size=7),
    "Diarizer": lambda: Diarizer(WIDTH, OUTPUTS, hidden_size=6),
    "XVector": lambda: XVector(WIDTH, OUTPUTS, hidden_size=6, pooled_size=9, pooling_extra_frame=False),
    "FrameMLP": lambda: FrameMLP(WIDTH, OUTPUTS, hidden_size=6),
    "UtteranceMLP": lambda: UtteranceMLP(WIDTH, OUTPUTS, hidden_size=6),
    "own": lambda: TwoLayers(WIDTH, OUTPUTS),
}


def features() -> tuple[Tensor, Tensor]:
    return torch.randn(len(LENGTHS), max(LENGTHS), WIDTH), torch.tensor(LENGTHS)


def close(got: Tensor, want: Tensor, row: str = "tiny") -> bool:
    return got.shape == want.shape and TOLERANCES[row].excess(got.detach().numpy(), want.detach().numpy()) <= 1


@pytest.mark.parametrize(
    ("count", "build"),
    [
        (215_882, lambda: FrameLinear(768, 74)),
        (199_948, lambda: UtteranceLinear(768, 12)),
        (203_032, lambda: UtteranceLinear(768, 24)),
        (197_892, lambda: UtteranceLinear(768, 4)),
        (518_371, lambda: UtteranceLinear(768, 1251)),
        (42_826_783, lambda: BLSTM(768, 31)),
        (2_626_562, lambda: Diarizer(768, 2)),
        (6_110_172, lambda: XVector(768)),
        (620_032, lambda: AMSoftmax(512, 1211)),
    ],
    ids=["PR", "KS", "IC", "ER", "SID", "ASR", "SD", "ASV", "ASV's loss"],
)
def test_parameters_are_as_many_as_superbs(count: int, build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == count


@pytest.mark.parametrize("name", HEADS)
def test_the_interface(name: str) -> None:
    head, (x, x_len) = HEADS[name](), features()
    y, y_len = head(x, x_len)
    if name in ("UtteranceLinear", "UtteranceMLP", "XVector"):
        assert y.shape == (3, OUTPUTS) and y_len.tolist() == [1, 1, 1]
    else:
        assert y.shape == (3, max(LENGTHS), OUTPUTS) and y_len.tolist() == list(LENGTHS)
    y[0].sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_padding_does_not_matter(name: str) -> None:
    head, (x, x_len) = HEADS[name]().eval(), features()
    y, y_len = head(x, x_len)
    hostile = x.clone()
    for row, n in zip(hostile, LENGTHS):
        row[n:] = torch.nan
    again, _ = head(hostile, x_len)
    for i, (n, valid) in enumerate(zip(LENGTHS, y_len.tolist())):
        alone, _ = head(x[i : i + 1, :n], x_len[i : i + 1])
        rows = slice(None) if y.ndim == 2 else slice(valid)
        assert torch.equal(again[i, rows], y[i, rows])
        assert close(y[i, rows], alone[0, rows])


def test_what_can_be_pooled_and_batched() -> None:
    flags = {name: [getattr(build(), key, False) for key in ("pools", "batched")] for name, build in HEADS.items()}
    assert flags == {
        "FrameLinear": [False, True],
        "UtteranceLinear": [True, True],
        "BLSTM": [False, False],
        "Diarizer": [False, False],
        "XVector": [False, False],
        "FrameMLP": [False, False],
        "UtteranceMLP": [True, False],
        "own": [False, False],
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", [UtteranceLinear, partial(UtteranceMLP, dropout=0.0)])
def test_pooled_frames_stand_for_frames(build: Callable[..., nn.Module], training: bool) -> None:
    head, (x, x_len) = build(WIDTH, OUTPUTS, hidden_size=6).train(training), features()
    pooled = torch.stack([row[:n].mean(0) for row, n in zip(x, LENGTHS)])[:, None]
    assert close(head(pooled, torch.ones(3, dtype=torch.long))[0], head(x, x_len)[0])


def test_the_mlp_sees_each_valid_frame_by_itself() -> None:
    """Its layers by hand; in training, the mean and variance are those of the valid frames of the whole batch."""
    head, (x, x_len) = FrameMLP(WIDTH, OUTPUTS, hidden_size=6, layers=2, dropout=0.0), features()
    for row, n in zip(x, LENGTHS):
        row[n:] = 1e6
    for training in (True, False):
        head.train(training)
        rows = torch.cat([row[:n] for row, n in zip(x, LENGTHS)])
        with torch.no_grad():
            for linear, norm in ((head.rows[0], head.rows[1]), (head.rows[4], head.rows[5])):
                rows = linear(rows)
                mean, var = (
                    (rows.mean(0), rows.var(0, correction=0)) if training else (norm.running_mean, norm.running_var)
                )
                rows = ((rows - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias).clamp(min=0)
            rows = head.rows[8](rows)
            y, y_len = head(x, x_len)
        assert torch.equal(y_len, x_len)
        assert close(torch.cat([row[:n] for row, n in zip(y, LENGTHS)]), rows)
        assert not any(row[n:].any() for row, n in zip(y, LENGTHS))


@pytest.mark.parametrize("build", [FrameMLP, UtteranceMLP])
def test_the_mlp_is_trained_on_a_single_row(build: type[FrameMLP]) -> None:
    head, x = build(WIDTH, OUTPUTS, hidden_size=6, dropout=0.0), torch.randn(1, 1, WIDTH)
    before = {name: value.clone() for name, value in head.named_buffers()}
    y, _ = head(x, torch.tensor([1]))
    assert close(y, head.eval()(x, torch.tensor([1]))[0])
    y.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
    assert all(torch.equal(value, before[name]) for name, value in head.named_buffers())


def test_the_mlps_weights_are_xaviers() -> None:
    """Uniform: within sqrt(6 / (in + out)) times the gain, 1 in front and sqrt(2) behind a ReLU."""
    widths = [(100, 400), (400, 400), (400, 50)]
    linear = [one for one in FrameMLP(100, 50, hidden_size=400).rows if isinstance(one, nn.Linear)]
    assert [(one.in_features, one.out_features) for one in linear] == widths
    for one, gain in zip(linear, (1.0, math.sqrt(2), math.sqrt(2))):
        bound = gain * math.sqrt(6 / (one.in_features + one.out_features))
        weight = one.weight.detach()
        assert bound * 0.99 < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_dropout_of_the_mlp() -> None:
    head, (x, x_len) = FrameMLP(WIDTH, OUTPUTS, hidden_size=6), features()
    assert not torch.equal(head(x, x_len)[0], head(x, x_len)[0])
    assert [one.p for one in head.rows if isinstance(one, nn.Dropout)] == [0.1, 0.1]


def test_an_utterance_of_one_frame_is_its_own_mean() -> None:
    head, x = UtteranceLinear(WIDTH, OUTPUTS), torch.randn(2, 4, WIDTH)
    assert close(head(x, torch.tensor([1, 4]))[0][0], head.output(head.hidden(x[0, 0])))


@pytest.mark.parametrize("name", ["FrameLinear", "UtteranceLinear"])
@pytest.mark.parametrize("own_features", [False, True], ids=["shared features", "features of each"])
def test_stacked_parameters_give_what_each_gives(name: str, own_features: bool) -> None:
    models = [HEADS[name]() for _ in range(3)]
    parameters, _ = stack_module_state(models)
    x, x_len = features()
    x = torch.randn(3, *x.shape) if own_features else x

    def loss(values: dict[str, Tensor], given: Tensor) -> Tensor:
        return functional_call(models[0], values, (given, x_len))[0].square().sum()

    together = vmap(grad(loss), in_dims=(0, 0 if own_features else None))(parameters, x)
    for i, model in enumerate(models):
        loss_alone = model(x[i] if own_features else x, x_len)[0].square().sum()
        alone = torch.autograd.grad(loss_alone, list(model.parameters()))
        for (key, _), want in zip(model.named_parameters(), alone):
            assert close(together[key][i] / want.norm(), want / want.norm(), "gradient")


@pytest.mark.parametrize("extra", [False, True])
def test_what_is_too_short_for_an_x_vector(extra: bool) -> None:
    head = XVector(WIDTH, OUTPUTS, hidden_size=6, pooled_size=9, pooling_extra_frame=extra)
    for n in (1, 14, 15):
        with pytest.raises(InputError, match=rf"^an x-vector needs at least 16 frames .* one of {n}: leave"):
            head(torch.randn(2, 20, WIDTH), torch.tensor([20, n]))
        with pytest.raises(InputError, match="at least 16"):
            head.embed(torch.randn(1, n, WIDTH), torch.tensor([n]))
    assert head(torch.randn(2, 20, WIDTH), torch.tensor([20, 16]))[0].isfinite().all()


def test_an_x_vector_pools_one_frame_more_where_there_is_one() -> None:
    exact, extra = (
        XVector(WIDTH, OUTPUTS, hidden_size=6, pooled_size=9, pooling_extra_frame=flag) for flag in (False, True)
    )
    extra.load_state_dict(exact.state_dict())
    x, x_len = features()
    longest = LENGTHS.index(max(LENGTHS))
    one, other = exact(x, x_len)[0], extra(x, x_len)[0]
    assert [torch.equal(a, b) for a, b in zip(one, other)] == [i == longest for i in range(3)]
    # That frame is what one frame of zeros behind the utterance makes.
    n = LENGTHS[0]
    longer = F.pad(x[:1, :n], (0, 0, 0, 1))
    assert close(other[:1], exact(longer, torch.tensor([n + 1]))[0])
    # Longer padding than the longest item's changes nothing.
    assert torch.equal(extra(F.pad(x, (0, 0, 0, 3)), x_len)[0], other)


def test_embeddings_of_trials() -> None:
    head, (x, x_len) = XVector(WIDTH, OUTPUTS, hidden_size=6, pooled_size=9), features()
    with torch.no_grad():
        head.embedding.bias.fill_(1.0)
    found = head.embed(x, x_len)
    assert found.shape == (3, OUTPUTS) and close(found.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        head.output.weight.zero_()  # which only training goes through
    assert torch.equal(head.embed(x, x_len), found)
    assert not torch.equal(head(x, x_len)[0], found)


def test_gradients_of_dead_units_are_numbers() -> None:
    head = XVector(WIDTH, OUTPUTS, hidden_size=6, pooled_size=9)
    with torch.no_grad():
        head.frames[-1].bias.fill_(-100.0)
    x = torch.randn(2, 20, WIDTH, requires_grad=True)
    head(x, torch.tensor([20, 17]))[0].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_dropout_follows_every_layer_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], float, bool]] = []
    right = F.dropout

    def observed(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        seen.append((tuple(x.shape), p, training))
        return right(x, p, training, inplace)

    monkeypatch.setattr(F, "dropout", observed)
    head, (x, x_len) = BLSTM(WIDTH, OUTPUTS, hidden_size=7, spec_augment=False), features()
    assert not torch.equal(head(x, x_len)[0], head(x, x_len)[0])
    assert torch.equal(head.eval()(x, x_len)[0], head(x, x_len)[0])
    # Of valid frames only, so that no draw depends on padding.
    assert seen[:4] == [((sum(LENGTHS), 14), 0.2, True)] * 4 and not any(training for *_, training in seen[4:])


def test_features_are_augmented_in_training_only() -> None:
    x, x_len = torch.randn(2, 60, 80), torch.tensor([60, 44])
    for asked in (True, False):
        head = BLSTM(80, OUTPUTS, projection_size=6, hidden_size=7, dropout=0.0, spec_augment=asked)
        plain = head.eval()(x, x_len)[0]
        trained = head.train()(x, x_len)[0]
        assert trained.shape == plain.shape and torch.equal(trained, plain) is not asked
    torch.manual_seed(3)
    head = BLSTM(80, OUTPUTS, projection_size=6, hidden_size=7, dropout=0.0, inclusive=True)
    torch.manual_seed(4)
    first = head(x, x_len)[0]
    torch.manual_seed(4)
    assert torch.equal(head(x, x_len)[0], first)
    torch.manual_seed(4)
    head.spec_augment = False
    assert close(head(spec_augment(x, x_len, inclusive=True), x_len)[0], first)


@pytest.mark.parametrize(("inclusive", "band", "stretch"), [(False, 49, 39), (True, 50, 40)])
def test_the_widest_and_latest_masks(inclusive: bool, band: int, stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.full(size, high - 1))
    kept = spec_augment(torch.ones(2, 100, 120), torch.tensor([100, 10]), inclusive=inclusive) != 0
    hidden = range(120 - band - 1, 119), range(100 - stretch - 1, 99)
    assert (~kept[0].any(0)).nonzero().flatten().tolist() == list(hidden[0])
    assert (~kept[0].any(1)).nonzero().flatten().tolist() == list(hidden[1])
    assert torch.equal(kept[1, :10], kept[0, :10]) and not kept[1, 10:].any()
    # What is narrower than the widest mask is hidden from its first feature on.
    assert not spec_augment(torch.ones(1, 100, 30), torch.tensor([100]), inclusive=inclusive).any()


def test_masks_are_each_utterances_own() -> None:
    kept = spec_augment(torch.ones(50, 100, 300), torch.full((50,), 100), inclusive=False) != 0
    assert len({tuple(row.any(0).tolist()) for row in kept}) > 40
    assert len({tuple(row.any(1).tolist()) for row in kept}) > 40


def test_augmentation_of_an_item_does_not_depend_on_what_others_hold() -> None:
    x, x_len = torch.randn(3, 60, 80), torch.tensor([60, 44, 9])
    other = torch.cat([torch.randn(1, 60, 80), x[1:]])
    found = []
    for given in (x, other):
        torch.manual_seed(1)
        found.append(spec_augment(given, x_len, inclusive=False))
    assert torch.equal(found[0][1:], found[1][1:]) and not torch.equal(found[0][0], found[1][0])
    assert not found[0][1, 44:].any() and not found[0][2, 9:].any()


def test_augmented_features_have_gradients() -> None:
    x = torch.randn(2, 40, 80, requires_grad=True)
    y = spec_augment(x, torch.tensor([40, 30]), inclusive=False)
    y.sum().backward()
    assert x.grad is not None and x.grad.any() and not x.grad[1, 30:].any()


def test_cross_entropy_is_torchs_mean() -> None:
    logits, labels = torch.randn(6, OUTPUTS), torch.randint(0, OUTPUTS, (6,))
    total, weight = cross_entropy(logits, labels)
    assert weight == 6 and close(total / weight, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("blank", [0, OUTPUTS - 1])
def test_ctc_is_torchs_mean(blank: int) -> None:
    x_len, sizes = torch.tensor([12, 9, 2]), torch.tensor([4, 1, 3])
    logits, targets = torch.randn(3, 12, OUTPUTS), torch.randint(1, OUTPUTS - 1, (3, 4))
    total, weight = ctc(logits, x_len, targets, sizes, blank=blank)
    scores = logits.log_softmax(-1).transpose(0, 1)
    want = F.ctc_loss(scores, targets, x_len, sizes, blank=blank, zero_infinity=True)
    assert weight == 3 and close(total / weight, want)
    # The last item has fewer frames than symbols: it counts, as nothing.
    assert close(total, ctc(logits[:2], x_len[:2], targets[:2], sizes[:2], blank=blank)[0])
    joined = torch.cat([row[:n] for row, n in zip(targets, sizes.tolist())])
    assert close(ctc(logits, x_len, joined, sizes, blank=blank)[0], total)


def test_sums_and_weights_of_parts_add_up() -> None:
    x, labels, turns = torch.randn(6, OUTPUTS), torch.randint(0, OUTPUTS, (6,)), torch.randint(0, 2, (6, 9, 2))
    logits, lengths = torch.randn(6, 9, 2), torch.tensor([9, 3, 7, 8, 1, 9])
    margin = AMSoftmax(OUTPUTS, OUTPUTS)
    text = torch.randn(6, 9, OUTPUTS), lengths, torch.randint(1, OUTPUTS, (6, 2)), torch.tensor([2, 1, 2, 2, 1, 1])
    for loss, given in (
        (cross_entropy, (x, labels)),
        (margin, (x, labels)),
        (pit_bce, (logits, turns, lengths)),
        (ctc, text),
    ):
        total, weight = loss(*given)
        parts = [loss(*(value[rows] for value in given)) for rows in (slice(2), slice(2, 6))]
        assert close(sum(part for part, _ in parts), total)
        assert int(sum(part for _, part in parts)) == int(weight)


def test_am_softmax_by_its_formula() -> None:
    torch.manual_seed(0)
    loss = AMSoftmax(4, 3, s=7.0, m=0.25)
    embeddings, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    want = 0.0
    for embedding, label in zip(embeddings, labels.tolist()):
        cosines = [float(embedding @ w / embedding.norm() / w.norm()) for w in loss.weight.detach().T]
        powers = [math.exp(7.0 * (cosine - 0.25 * (i == label))) for i, cosine in enumerate(cosines)]
        want -= math.log(powers[label] / sum(powers))
    total, weight = loss(embeddings, labels)
    assert weight == 5 and close(total, torch.tensor(want))
    wide = AMSoftmax(300, 200).weight
    assert float(wide.detach().std() / math.sqrt(2 / 500)) == pytest.approx(1, abs=0.02)  # Xavier's


def test_pit_takes_the_best_order_of_each_item() -> None:
    logits, lengths = torch.randn(4, 11, 3), torch.tensor([11, 4, 7, 1])
    labels = torch.randint(0, 2, (4, 11, 3))
    want, orders = 0.0, []
    for row, truth, n in zip(logits, labels.double(), lengths.tolist()):
        costs = {
            order: float(
                F.binary_cross_entropy_with_logits(row[:n].double(), truth[:n, list(order)], reduction="none")
                .mean(1)
                .sum()
            )
            for order in itertools.permutations(range(3))
        }
        best = min(costs, key=lambda order: costs[order])
        orders.append(list(best))
        want += costs[best]
    total, weight = pit_bce(logits, labels, lengths)
    assert int(weight) == 23 and close(total, torch.tensor(want))
    assert len({tuple(order) for order in orders}) > 1
    shuffled = labels[..., [2, 0, 1]]
    assert close(pit_bce(logits, shuffled, lengths)[0], total)
    assert close(
        pit_bce(logits, labels.masked_fill(torch.arange(11)[:, None] >= lengths[:, None, None], 9), lengths)[0], total
    )
