"""Makes the wav2vec-U part of the golden data, in fairseq's own environment (README.md beside this file).

    python tests/golden/make_wav2vec_u.py golden         # tests/golden/data/wav2vec_u/*.{json,npz}
    python tests/golden/make_wav2vec_u.py checkpoints    # tests/data/wav2vec_u/

Each takes `--out DIR`. The class is the one in the wheel, under `fairseq/examples/wav2vec/unsupervised`; Python 3.11
refuses its mutable default, which a throw-away copy has as a factory. Weights and features come from `generator.py`.
"""

from __future__ import annotations

import importlib.util
import logging
import platform
import sys
import tempfile
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fairseq
import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import post_process
from generator import uniform
from omegaconf import OmegaConf
from recording import SLICE, command_line, describe, fill, provenance, write
from torch import Tensor

HERE = Path(__file__).resolve().parent
EXAMPLES = Path(fairseq.__file__).parent / "examples"
MODULE = "examples.wav2vec.unsupervised.models.wav2vec_u"  # the name by which training code imports it

LENGTHS = (23, 40, 18)  # not sorted; the remainders by stride 3 differ
SEED = 5  # of torch's generator, before everything that is drawn
PHONES = ("AA", "B", "CH", "D", "EH", "F")

SECOND = {
    "input_dim": 24,
    "generator_kernel": 9,
    "generator_stride": 3,
    "generator_dropout": 0.1,
    "generator_batch_norm": 30,
    "generator_residual": True,
    "discriminator_dim": 16,
    "discriminator_depth": 2,
    "discriminator_kernel": 8,
    "mmi_weight": 0.5,
    "target_dim": 7,
}
FIRST = {
    "input_dim": 24,
    "generator_dropout": 0.1,
    "discriminator_dim": 16,
    "discriminator_depth": 2,
    "discriminator_kernel": 6,
}
# name -> seed, fields of the model, fields of its segmentation, symbols after the specials
CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "second": (1, SECOND, {"type": "JOIN"}, (*PHONES, "<SIL>")),
    "first": (2, FIRST, {"type": "JOIN", "remove_zeros": True}, (*PHONES, "<SIL>")),
    "weight_norm": (
        6,
        {
            **FIRST,
            "generator_stride": 2,
            "generator_pad": 1,
            "generator_dilation": 2,
            "generator_bias": True,
            "generator_residual": True,
            "discriminator_causal": False,
            "discriminator_linear_emb": True,
            "discriminator_act_after_linear": True,
            "discriminator_max_pool": True,
            "discriminator_weight_norm": True,
            "blank_weight": 0.3,
            "blank_is_sil": True,
        },
        {"type": "UNIFORM_RANDOM_JOIN", "mean_pool": False, "subsample_rate": 0.6},
        ("<ctc_blank>", *PHONES, "<SIL>"),
    ),
    "spectral_norm": (
        4,
        {
            **FIRST,
            "generator_batch_norm": 2,
            "discriminator_causal": False,
            "discriminator_depth": 3,
            "discriminator_kernel": 5,
            "discriminator_spectral_norm": True,
            "blank_weight": 0.5,
            "blank_mode": "set",
        },
        {"type": "RANDOM", "subsample_rate": 0.7},
        PHONES,
    ),
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "none": {"type": "NONE"},
    "random": {"type": "RANDOM"},
    "random_half": {"type": "RANDOM", "subsample_rate": 0.5},
    "uniform_random": {"type": "UNIFORM_RANDOM"},
    "uniform_random_frame": {"type": "UNIFORM_RANDOM", "mean_pool": False, "subsample_rate": 0.4},
    "uniform_random_join": {"type": "UNIFORM_RANDOM_JOIN"},
    "join": {"type": "JOIN"},
    "join_mean": {"type": "JOIN", "mean_pool_join": True},
    "join_without_zeros": {"type": "JOIN", "remove_zeros": True},
}


def load_module() -> types.ModuleType:
    """fairseq's own module, with the mutable default of one dataclass as a factory."""
    text = (EXAMPLES / "wav2vec" / "unsupervised" / "models" / "wav2vec_u.py").read_text()
    old = "segmentation: SegmentationConfig = SegmentationConfig()"
    assert text.count(old) == 1
    text = text.replace(old, "segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)")
    text = text.replace("from dataclasses import dataclass\n", "from dataclasses import dataclass, field\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wav2vec_u.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(MODULE, path)
        module = importlib.util.module_from_spec(spec)
        parts = MODULE.split(".")
        for depth in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
        sys.modules[MODULE] = module
        spec.loader.exec_module(module)
    return module


def load_decoder() -> type:
    """fairseq's decoder class; what it needs of other packages is not called here."""
    name = "examples.speech_recognition.data.replabels"
    for depth in range(1, 4):
        package = ".".join(name.split(".")[:depth])
        sys.modules.setdefault(package, types.ModuleType(package))
    replabels = types.ModuleType(name)
    replabels.unpack_replabels = None
    sys.modules[name] = replabels
    spec = importlib.util.spec_from_file_location("w2l_decoder", EXAMPLES / "speech_recognition" / "w2l_decoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.W2lDecoder


def make_dictionary(symbols: Sequence[str]) -> Dictionary:
    dictionary = Dictionary()
    for count, symbol in enumerate(symbols):
        dictionary.add_symbol(symbol, n=0 if symbol == "<SIL>" else 1000 - count)
    return dictionary


def make_config(module: types.ModuleType, fields: dict[str, Any], segmentation: dict[str, Any]) -> Any:
    options = {**segmentation, "type": module.SegmentationType[segmentation["type"]]}
    return module.Wav2vec_UConfig(**fields, segmentation=module.SegmentationConfig(**options))


def plain(config: Any) -> dict[str, Any]:
    fields = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    return {"model": {**fields, "_name": "wav2vec_u"}, "task": {"_name": "unpaired_audio_text", "labels": "phn"}}


def features(seed: int, width: int, lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    """Smooth random features, off centre, so that neighbouring frames often have the same best symbol."""
    found = []
    for i, n in enumerate(lengths):
        rough = torch.from_numpy(uniform(f"features/{seed}/{i}", (n + 3) * width).reshape(n + 3, width).copy())
        found.append((rough[:-3] + rough[1:-2] + rough[2:-1] + rough[3:]) * 0.8 + 0.1)
    return found


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    batch = torch.nn.utils.rnn.pad_sequence(list(items), batch_first=True)
    return batch, torch.arange(batch.shape[1]) >= torch.tensor([len(item) for item in items])[:, None]


def record_gradients(arrays: dict[str, Any], prefix: str, model: torch.nn.Module, loss: Tensor, source: Tensor) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, [source, *parameters.values()], allow_unused=True)
    arrays[f"{prefix}grad/input"] = found[0][0]
    for name, gradient in zip(parameters, found[1:], strict=True):
        if gradient is not None:
            flat = gradient.flatten()
            arrays[f"{prefix}grad/{name}/norm"] = flat.double().norm()
            arrays[f"{prefix}grad/{name}/slice"] = flat[:: max(1, len(flat) // SLICE)][:SLICE]


def compute(model: Any, seed: int, dtype: torch.dtype, lengths: Sequence[int] = LENGTHS) -> dict[str, Any]:
    """Generator, head and discriminator, forward and backward."""
    arrays: dict[str, Any] = {}
    items = [item.to(dtype) for item in features(seed, model.cfg.input_dim, lengths)]
    for i, item in enumerate(items):
        x = item[None].clone().requires_grad_()
        result = model.generator(x, None, torch.zeros(1, len(item), dtype=torch.bool))
        arrays[f"single{i}/logits"] = result["dense_x"][0].detach()
        if i == 0:
            record_gradients(arrays, "", model, result["dense_x"].pow(2).mean(), x)
            if hasattr(model, "decoder"):
                arrays["clusters"] = model.decoder(result["inter_x"])[0].detach()
    batch, mask = padded(items)
    with torch.no_grad():
        result = model.generator(batch, None, mask)
    arrays["padded/logits"], arrays["padded/mask"] = result["dense_x"], result["dense_padding_mask"]

    vocabulary = result["dense_x"].shape[2]
    x = torch.from_numpy(uniform(f"text/{seed}", 2 * 20 * vocabulary).reshape(2, 20, vocabulary).copy()).to(dtype)
    x = (4 * x).softmax(2).requires_grad_()
    mask = torch.arange(20) >= torch.tensor([20, 13])[:, None]
    arrays["discriminator/in"], arrays["discriminator/mask"] = x.detach(), mask
    arrays["discriminator/unmasked"] = model.discriminator(x, None).detach()
    score = model.discriminator(x, mask)
    arrays["discriminator/out"] = score.detach()
    record_gradients(arrays, "discriminator/", model, score.pow(2).sum(), x)
    return arrays


def transcripts(
    module: Any, model: Any, dictionary: Dictionary, decoder: type, seed: int, lengths: Sequence[int] = LENGTHS
) -> dict[str, list[str]]:
    """Phones of each utterance by fairseq's Viterbi decoding: with the model's own segmenter, and without one."""
    greedy = object.__new__(decoder)
    greedy.blank = dictionary.index("<ctc_blank>") if "<ctc_blank>" in dictionary.indices else dictionary.bos()
    own, none = model.segmenter, module.Segmenter(module.SegmentationConfig())
    found: dict[str, list[str]] = {}
    model.no_softmax = True
    for name, segmenter in (("own", own), ("none", none)):
        model.segmenter, found[name] = segmenter, []
        for item in features(seed, model.cfg.input_dim, lengths):
            torch.manual_seed(SEED)
            with torch.no_grad():
                out = model(item[None], torch.zeros(1, len(item), dtype=torch.bool), dense_x_only=True)
                emissions = model.get_logits(out).transpose(0, 1)
            tokens = greedy.get_tokens(emissions[0].argmax(1).tolist())  # Viterbi without transitions
            text = dictionary.string(tokens[tokens >= dictionary.nspecial])
            found[name].append(post_process(text, "silence"))
    model.segmenter = own
    return found


def make_golden(out: Path) -> None:
    module, decoder = load_module(), load_decoder()
    for case, (seed, fields, segmentation, symbols) in CASES.items():
        dictionary = make_dictionary(symbols)
        for scale in ("usual", "lively"):
            config = make_config(module, fields, segmentation)
            model = fill(module.Wav2vec_U(config, dictionary), seed, scale)
            state = describe(model)
            arrays = compute(model, seed, torch.float32)
            exact = compute(fill(module.Wav2vec_U(config, dictionary), seed, scale).double(), seed, torch.float64)
            noise = max(float((arrays[k].double() - exact[k]).abs().max()) for k in arrays if k.endswith("logits"))
            document = {
                "case": f"{case}_{scale}",
                "family": "wav2vec_u",
                **provenance(versions(), "make_wav2vec_u.py golden"),
                "notes": "the mutable default of Wav2vec_UConfig as a factory, nothing else patched; eval mode",
                "config": plain(config),
                "symbols": dictionary.symbols,
                "seed": seed,
                "scale": scale,
                "lengths": LENGTHS,
                "random_seed": SEED,
                "transcripts": transcripts(module, model, dictionary, decoder, seed),
                "noise": float(f"{noise:.2e}"),
                "state": state,
            }
            inputs = {f"feat{i}": item for i, item in enumerate(features(seed, config.input_dim))}
            stored = {name: value.detach().numpy() for name, value in (inputs | arrays).items()}
            assert all(np.isfinite(value).all() for value in stored.values())
            write(out / f"{case}_{scale}", document, stored, packed=True)
    make_segmenters(module, out)


def make_segmenters(module: types.ModuleType, out: Path) -> None:
    """Every segmenter, in training and evaluation, on one padded batch of features and one of logits."""
    x, mask = padded([item[:, :6] for item in features(9, 24)])
    runs = torch.from_numpy(uniform("runs", 3 * 40).reshape(3, 40).copy())
    best = ((runs[:, ::2].repeat_interleave(2, 1) + 1) * 2.5).long().clamp(max=4)  # pairs of frames at least
    logits = torch.from_numpy(uniform("logits", 3 * 40 * 5).reshape(3, 40, 5).copy())
    logits = logits + 3 * torch.nn.functional.one_hot(best, 5)
    arrays: dict[str, Tensor] = {"features": x, "mask": mask, "logits": logits}
    for name, options in SEGMENTERS.items():
        config = make_config(module, {}, options).segmentation
        for mode in ("train", "eval"):
            segmenter = module.SEGMENT_FACTORY[config.type](config).train(mode == "train")
            torch.manual_seed(SEED)
            pair = segmenter.pre_segment(x.clone(), mask.clone())
            arrays[f"{name}/{mode}/features"], arrays[f"{name}/{mode}/features_mask"] = pair
            torch.manual_seed(SEED)
            source = logits.clone().requires_grad_()
            values, padding = segmenter.logit_segment(source, mask.clone())
            arrays[f"{name}/{mode}/logits"], arrays[f"{name}/{mode}/logits_mask"] = values.detach(), padding
            (arrays[f"{name}/{mode}/grad"],) = torch.autograd.grad(values.pow(3).sum(), [source])
    document = {
        "case": "segmenters",
        **provenance(versions(), "make_wav2vec_u.py golden"),
        "random_seed": SEED,
        "segmenters": SEGMENTERS,
    }
    write(out / "segmenters", document, {name: value.numpy() for name, value in arrays.items()}, packed=True)


def make_checkpoints(out: Path) -> None:
    """The top level that fairseq's trainer writes, with the configuration as a DictConfig and as plain values."""
    module = load_module()
    seed, fields, segmentation, symbols = CASES["second"]
    dictionary = make_dictionary(symbols)
    dictionary.save(str(out / "dict.txt"))
    config = make_config(module, {**fields, "input_dim": 8, "discriminator_dim": 4}, segmentation)
    model = fill(module.Wav2vec_U(config, dictionary), seed, "lively")
    task = {"_name": "unpaired_audio_text", "labels": "phn", "text_data": "text"}
    structured = OmegaConf.create({"_name": None, "task": task, "model": OmegaConf.structured(config)})
    OmegaConf.set_struct(structured.model, False)
    structured.model["_name"] = "wav2vec_u"
    for name, cfg in (("dictconfig", structured), ("plain", {"_name": None, **plain(config)})):
        state = {
            "args": None,
            "cfg": cfg,
            "model": model.state_dict(),
            "criterion": {},
            "optimizer_history": [{"optimizer_name": "FairseqCompositeOptimizer", "num_updates": 1000}],
            "task_state": {},
            "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 91.25},
            "last_optimizer_state": {"generator": None, "discriminator": None},
        }
        torch.save(state, out / f"{name}.pt")
    items = [item[:, :8].contiguous() for item in features(seed, 24)]
    arrays = {f"feat{i}": item.numpy() for i, item in enumerate(items)}
    with torch.no_grad():
        for i, item in enumerate(items):
            mask = torch.zeros(1, len(item), dtype=torch.bool)
            arrays[f"logits{i}"] = model.generator(item[None], None, mask)["dense_x"][0].numpy()
    document = {
        **provenance(versions(), "make_wav2vec_u.py checkpoints"),
        "seed": seed,
        "scale": "lively",
        "symbols": dictionary.symbols,
        "state": describe(model),
    }
    write(out / "recorded", document, arrays)


def versions() -> dict[str, str]:
    return {
        "fairseq": f"{fairseq.__version__} (fairseq-fixed), examples/wav2vec/unsupervised",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    command_line(
        __doc__,
        {
            "golden": (make_golden, HERE / "data" / "wav2vec_u"),
            "checkpoints": (make_checkpoints, HERE.parent / "data" / "wav2vec_u"),
        },
        argv,
    )


if __name__ == "__main__":
    main()
