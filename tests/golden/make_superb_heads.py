"""Makes the golden data of SUPERB's and HEAR's heads and losses with s3prl's own classes.

Needs s3prl, torchaudio and transformers, which s3prl imports (README.md beside this file says how); runs outside the
project's environment:

    python tests/golden/make_superb_heads.py heads    # superb/heads_*.{json,npz}

v0.3 is its downstream experts' own `forward`, behind its own `Featurizer`; v0.4 its task classes, behind the other one.
An expert's constructor reads a corpus: it is left out, and what it builds of modules and losses is built here. Dropout
is zero, for its draws cannot be made again; SpecAugment is recorded by itself, with draws of the generator's.
"""

from __future__ import annotations

import sys
import types
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from recording import command_line, provenance, versions, write
from superb_heads import (
    CASES,
    FIXED,
    HIDDEN,
    INTENTS,
    LAYERS,
    POOLED,
    STRIDE,
    WIDTH,
    Batch,
    Draws,
    augmented,
    batch,
    gradients,
    train,
    weights,
)
from torch import Tensor, nn

# What s3prl imports for corpora and scores, and torchaudio's that its newest release no longer has: unused here.
torchaudio.set_audio_backend = lambda *_: None
for absent, names in {
    "torchaudio.sox_effects": ("apply_effects_tensor", "apply_effects_file"),
    "sox": ("Transformer",),
    "editdistance": (),
    "h5py": (),
    "catalyst": (),
    "catalyst.data": (),
    "catalyst.data.sampler": ("DistributedSamplerWrapper",),
    "s3prl.task._hear_score": ("available_scores", "validate_score_return_type"),
}.items():
    sys.modules[absent] = module = types.ModuleType(absent)
    module.__dict__.update(dict.fromkeys(names))
torchaudio.sox_effects = sys.modules["torchaudio.sox_effects"]
torch.Tensor.cuda = lambda self: self  # the ASV expert's mask goes to a GPU whatever it is given

from s3prl.dataio.encoder.category import CategoryEncoder  # noqa: E402
from s3prl.dataio.encoder.tokenizer import CharacterTokenizer  # noqa: E402
from s3prl.downstream import specaug as specaug_v03  # noqa: E402
from s3prl.downstream.asr.expert import DownstreamExpert as Asr  # noqa: E402
from s3prl.downstream.asr.model import RNNs  # noqa: E402
from s3prl.downstream.ctc.expert import DownstreamExpert as Ctc  # noqa: E402
from s3prl.downstream.diarization import expert as diarization  # noqa: E402
from s3prl.downstream.emotion.expert import DownstreamExpert as Er  # noqa: E402
from s3prl.downstream.fluent_commands.expert import DownstreamExpert as Ic  # noqa: E402
from s3prl.downstream.model import FrameLevel, UtteranceLevel  # noqa: E402
from s3prl.downstream.speech_commands.expert import DownstreamExpert as Ks  # noqa: E402
from s3prl.downstream.sv_voxceleb1 import expert as verification  # noqa: E402
from s3prl.downstream.voxceleb1.expert import DownstreamExpert as Sid  # noqa: E402
from s3prl.nn import specaug as specaug_v04  # noqa: E402
from s3prl.nn.hear import HearFullyConnectedPrediction  # noqa: E402
from s3prl.nn.linear import FrameLevelLinear, MeanPoolingLinear  # noqa: E402
from s3prl.nn.rnn import RNNEncoder, SuperbDiarizationModel  # noqa: E402
from s3prl.nn.speaker_model import SuperbXvector  # noqa: E402
from s3prl.nn.upstream import Featurizer as FeaturizerV04  # noqa: E402
from s3prl.task.diarization import DiarizationPIT  # noqa: E402
from s3prl.task.scene_prediction import ScenePredictionTask  # noqa: E402
from s3prl.task.speaker_verification_task import SpeakerVerification  # noqa: E402
from s3prl.task.speech2text_ctc_task import Speech2TextCTCTask  # noqa: E402
from s3prl.task.utterance_classification_task import UtteranceClassificationTask  # noqa: E402
from s3prl.upstream.interfaces import Featurizer as FeaturizerV03  # noqa: E402

HERE = Path(__file__).resolve().parent
BLSTM = {"module": "LSTM", "layer_norm": [False] * 2, "proj": [False] * 2, "sample_rate": [1, 1],
         "sample_style": "concat"}  # fmt: skip


class States(nn.Module):
    """An upstream of which only the sizes are asked."""

    num_layers, hidden_sizes, downsample_rates = LAYERS, [WIDTH] * LAYERS, [STRIDE] * LAYERS

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        return {"hidden_states": [torch.zeros(1, 50, WIDTH)] * LAYERS}

    def get_downsample_rates(self, key: str) -> int:
        return STRIDE


class Expert:
    """A downstream expert of v0.3 without its constructor, and the featurizer before it."""

    def __init__(self, name: str) -> None:
        self.featurizer = FeaturizerV03(States(), upstream_device="cpu")
        self.case = CASES[name]
        task = name.partition("/")[2]
        outputs = self.case.outputs
        kinds = {"pr": Ctc, "sf": Ctc, "asr": Asr, "ks": Ks, "sid": Sid, "ic": Ic, "er": Er,
                 "sd": diarization.DownstreamExpert, "asv": verification.DownstreamExpert}  # fmt: skip
        self.head = head = kinds[task].__new__(kinds[task])
        nn.Module.__init__(head)
        if task == "asv":
            head.modelrc = {"module": "XVector"}
            head.connector = nn.Linear(WIDTH, HIDDEN)
            head.model = verification.Model(HIDDEN, POOLED, "SP", "XVector", "UtteranceExtractor",
                                            {"agg_dim": POOLED, "dropout_p": 0.0, "batch_norm": False})  # fmt: skip
            head.objective = verification.AMSoftmaxLoss(HIDDEN, outputs, s=30.0, m=0.4)
        elif task == "sd":
            head.model = diarization.Model(WIDTH, outputs, rnn_layers=1, hidden_size=HIDDEN)
            head.objective = diarization.pit_loss
        else:
            head.projector = nn.Linear(WIDTH, HIDDEN)
            if task in ("asr", "sf"):
                head.model = RNNs(HIDDEN, outputs, STRIDE, bidirection=True, dim=[HIDDEN] * 2, dropout=[0, 0], **BLSTM)
            else:
                head.model = (FrameLevel if task == "pr" else UtteranceLevel)(HIDDEN, outputs)
            text = self.case.kind == "text"
            head.objective = nn.CTCLoss(blank=0, zero_infinity=True) if text else nn.CrossEntropyLoss()
            head.tokenizer = types.SimpleNamespace(pad_idx=0, eos_idx=1, decode=str)
            # As in s3prl's recipe the blank is the dictionary's first entry and padding another.
            head.dictionary = types.SimpleNamespace(pad=lambda: 100, eos=lambda: 1, string=str)
            head.decoder, head.blank = None, 0
            head.values_per_slot = INTENTS
            head.Sy_intent = {slot: dict(enumerate("abcd")) for slot in ("action", "object", "location")}
            head.test_dataset = types.SimpleNamespace(idx2emotion=dict(enumerate("abcd")))

    def features(self, given: Batch) -> list[Tensor]:
        waves = [torch.zeros(n * STRIDE) for n in given.lengths.tolist()]
        return self.featurizer(waves, {"hidden_states": list(given.states)})

    def step(self, given: Batch) -> Tensor:
        records: Any = defaultdict(list)
        names = ["a"] * self.case.items
        if self.case.kind == "turns":
            labels = [row[:n].numpy() for row, n in zip(given.labels, given.lengths)]
            # The loss wants floating-point labels, which its own corpus gives.
            labels = [row.astype(np.float32) for row in labels]
            return self.head("train", self.features(given), labels, given.lengths.tolist(), "a", records)
        if self.case.kind == "speaker":
            return self.head("train", self.features(given), names, given.labels.tolist(), records)
        labels = given.targets if self.case.kind == "text" else given.labels.tolist()
        return self.head("train", self.features(given), labels, names, records)

    def output(self, given: Batch) -> dict[str, Tensor]:
        """What the model itself gives before the loss."""
        head, seen = self.head, {}
        with torch.no_grad():
            hook = head.model.register_forward_hook(lambda module, args, value: seen.update(y=value))
            self.step(given)
            hook.remove()
            value = seen["y"][0] if isinstance(seen["y"], tuple) else seen["y"]
            if self.case.kind != "speaker":
                return {"output": value}
            records: dict[str, Tensor] = {}
            keys = [str(i) for i in range(self.case.items)]
            head("test", self.features(given), keys, given.labels.tolist(), records)
            return {"output": value, "embedding": torch.stack([records[key] for key in keys])}


class Task:
    """A task of v0.4 and the featurizer before it."""

    def __init__(self, name: str) -> None:
        self.featurizer = FeaturizerV04(States())
        self.case = {**CASES, **FIXED}[name]
        outputs = self.case.outputs
        categories = CategoryEncoder([str(n) for n in range(outputs)])
        if name.endswith("/sid"):
            self.head = UtteranceClassificationTask(MeanPoolingLinear(WIDTH, outputs, HIDDEN), categories)
        elif name.endswith("/hear"):
            model = HearFullyConnectedPrediction(WIDTH, outputs, HIDDEN, dropout=0.0, pooling_type="MeanPooling")
            self.head = ScenePredictionTask(model, categories, "multiclass", [])
        elif name.endswith("/sd"):
            self.head = DiarizationPIT(SuperbDiarizationModel(WIDTH, outputs, rnn_layers=1, hidden_size=HIDDEN))
        elif name.endswith("/asv"):
            self.head = SpeakerVerification(
                SuperbXvector(WIDTH), categories, loss_type="amsoftmax", loss_conf={"margin": 0.4, "scale": 30}
            )
        else:
            model = FrameLevelLinear(WIDTH, outputs, HIDDEN)
            if name.endswith("/asr"):
                model = RNNEncoder(WIDTH, outputs, proj_size=HIDDEN, hidden_size=[HIDDEN] * 2, dropout=[0.0] * 2,
                                   bidirectional=True, **BLSTM)  # fmt: skip
            tokenizer = CharacterTokenizer(list("abcdefg")[: outputs - 3])
            self.head = Speech2TextCTCTask(model, tokenizer, log_metrics=[])

    def step(self, given: Batch) -> Tensor:
        x, x_len = self.featurizer(list(given.states), [given.lengths] * LAYERS)
        names = np.array(["a"] * self.case.items, dtype=object)
        if self.case.kind == "turns":
            return self.head("train", x, x_len, given.labels, given.lengths, names, torch.zeros(self.case.items))[0]
        if self.case.kind == "speaker":
            return self.head.train_step(x, x_len, given.labels, names)[0]
        if self.case.kind == "text":
            targets = nn.utils.rnn.pad_sequence([torch.tensor(t) for t in given.targets], batch_first=True)
            return self.head("train", x, x_len, names, targets, names)[0]
        labels = given.labels
        if isinstance(self.head, ScenePredictionTask):
            labels = nn.functional.one_hot(labels, self.case.outputs)
        return self.head("train", x, x_len, labels, names, names)[0]

    @torch.no_grad()
    def output(self, given: Batch) -> dict[str, Tensor]:
        """What the model itself gives before the loss."""
        x, x_len = self.featurizer(list(given.states), [given.lengths] * LAYERS)
        value = self.head.model(x, x_len)
        if self.case.kind != "speaker":
            return {"output": value[0] if isinstance(value, tuple) else value}
        self.head.eval()
        embedding = self.head.model(x, x_len)
        self.head.train()
        return {"output": value, "embedding": embedding}


def make(name: str) -> tuple[Any, dict[str, nn.Parameter]]:
    """A case with its weights."""
    kind: Callable[[str], Any] = Expert if name.startswith("v0.3") else Task
    model = kind(name)
    model.head.train()
    named = dict(model.head.named_parameters())
    weights(name, named.items())
    return model, named


def exact_losses(name: str) -> np.ndarray:
    """The 100 losses in float64."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float, kept = torch.Tensor.double, torch.Tensor.float  # which SD's models call
    model, named = make(name)
    found = train(
        name, lambda given: model.step(replace(given, states=given.states.double())),
        [model.featurizer.weights, *named.values()],
    )  # fmt: skip
    torch.set_default_dtype(torch.float32)
    torch.Tensor.float = kept
    return found


def make_heads(out: Path) -> None:
    """Outputs and gradients of one micro-batch, and the losses of 100 steps, of every case; and SpecAugment."""
    arrays: dict[str, Any] = {}
    shapes: dict[str, dict[str, list[int]]] = {}
    noise: dict[str, float] = {}
    for name in (*CASES, *FIXED):
        model, named = make(name)
        shapes[name] = {key: list(value.shape) for key, value in named.items()}
        for key, value in model.output(batch(name, 0)).items():
            arrays[f"{name}/{key}"] = value
        loss = model.step(batch(name, 0))
        arrays[f"{name}/loss"] = loss.detach().double()
        for key, value in gradients(loss, {"layers": model.featurizer.weights, **named}).items():
            arrays[f"{name}/gradient/{key}"] = value
        if name in CASES:
            losses = train(name, model.step, [model.featurizer.weights, *named.values()])
            arrays[f"{name}/losses"] = losses
            arrays[f"{name}/layers"] = model.featurizer.weights.detach()
            noise[name] = float(f"{np.abs(losses - exact_losses(name)).max():.1e}")
            print(f"{name}: {losses[0]:.3f} to {losses[-10:].mean():.3f}, noise {noise[name]}")
    reference = versions(f"s3prl {version('s3prl')}", torchaudio=torchaudio.__version__)
    document = {**provenance(reference, "make_superb_heads.py"), "noise": noise, "parameters": shapes}
    write(out / "heads_training", document, {key: np.asarray(value) for key, value in arrays.items()}, packed=True)

    arrays = {}
    for generation, source in {"v0.3": specaug_v03, "v0.4": specaug_v04}.items():
        torch.randint, kept = Draws(), torch.randint
        augment = source.SpecAug(
            freq_mask_width_range=(0, 50), num_freq_mask=4, time_mask_width_range=(0, 40), num_time_mask=2
        )
        x, lengths = augmented()
        if generation == "v0.3":
            rows, _ = augment([row[:n] for row, n in zip(x, lengths.tolist())])
            x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        else:
            x, _ = augment(x, lengths)
        torch.randint = kept
        arrays |= {f"{generation}/values": x[..., ::5], f"{generation}/kept": x.ne(0).byte()}
        print(
            f"SpecAugment {generation}: {[round(float(row[:n].ne(0).float().mean()), 2) for row, n in zip(x, lengths)]}"
        )
    document = provenance(reference, "make_superb_heads.py")
    write(out / "heads_spec_augment", document, {key: value.numpy() for key, value in arrays.items()}, packed=True)


if __name__ == "__main__":
    command_line(__doc__, {"heads": (make_heads, HERE / "superb")})
