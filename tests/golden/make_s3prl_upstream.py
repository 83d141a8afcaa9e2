"""Records what s3prl's own `S3PRLUpstream` and `Featurizer` give for tiny checkpoints, and s3prl's names.

Needs s3prl, torchaudio and transformers (README.md beside this file says how); runs outside the project's environment:

    python tests/golden/make_s3prl_upstream.py    # tests/compat/hubert_pre_norm.pt, s3prl_upstream.{json,npz}

Takes `--out DIR`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import make_s3prl  # noqa: F401 (it gives torchaudio the names that s3prl asks for)
import numpy as np
import recording
import torch
from generator import waveform
from recording import UTTERANCES, fill, provenance, write
from s3prl import hub
from s3prl.nn import Featurizer, S3PRLUpstream
from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig
from s3prl.upstream.utils import merge_with_parent
from torch import Tensor

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
PRE_NORM = "hubert_pre_norm.pt"
SEED = 601
# s3prl's name -> checkpoint below tests/; None: it needs none.
CASES = {
    "wav2vec2": ("wav2vec2_local", "data/converted_wav2vec2.pt"),
    "conformer": ("wav2vec2_custom", "data/converted_conformer.pt"),
    "hubert": ("hubert_custom", "data/converted_hubert.pt"),
    "hubert_pre_norm": ("hubert_local", f"compat/{PRE_NORM}"),
    "data2vec": ("data2vec_local", "data/converted_data2vec.pt"),
    "wavlm": ("wavlm_local", "data/wavlm.pt"),
    "unispeech_sat": ("unispeech_sat_local", "data/unispeech_sat.pt"),
    "distilhubert": ("distiller_local", "data/distilhubert.pt"),
    "tera": ("tera_local", "data/s3prl/tera.ckpt"),
    "tera_fbank": ("mockingjay_local", "data/s3prl/tera_fbank.ckpt"),
    "audio_albert": ("audio_albert_local", "data/s3prl/audio_albert.ckpt"),
    "fbank": ("fbank", None),
    "mfcc": ("mfcc", None),
    "mel": ("mel", None),
    "hf_wav2vec2": ("hf_wav2vec2_custom", "data/hf/base_safetensors"),
    "hf_wav2vec2_pre_norm": ("hf_wav2vec2_custom", "data/hf/pretraining_prefix"),
    "hf_hubert": ("hf_hubert_custom", "data/hf/bin_sharded"),
    "hf_hubert_pre_norm": ("hf_hubert_custom", "data/hf/ctc"),
}
NORMALISED = ("hubert_pre_norm", "tera")
NAMED = ("wav2vec2", "conformer", "hubert_pre_norm", "data2vec", "wavlm", "distilhubert", "tera", "mel", "hf_wav2vec2")
SUMMED = "hubert_pre_norm"
# s3prl's upstreams whose names are recorded: those that the zoo has.
UPSTREAMS = (
    "audio_albert", "baseline", "data2vec", "distiller", "hf_hubert", "hf_wav2vec2", "hubert", "mockingjay", "tera",
    "unispeech_sat", "wav2vec2", "wavlm",
)  # fmt: skip
# Batches: samples of each utterance, and of the tensor that holds them. The second is filled up to 0.05 s.
BATCHES = {"padded": ([3543, 4943, 2183], 5000), "short": ([700, 500], 720)}
CHANNELS = 3  # of each frame that are kept, beside its norm


def batch(name: str) -> tuple[Tensor, Tensor]:
    """Waveforms (B, S) and their lengths; what lies behind an utterance's end belongs to none."""
    lengths, size = BATCHES[name]
    wavs = torch.full((len(lengths), size), 0.25)
    for row, spec, samples in zip(wavs, UTTERANCES, lengths):
        row[:samples] = torch.from_numpy(waveform({**spec, "samples": samples}))
    if name == "short":  # s3prl takes what lies there as a part of the shorter one
        wavs[torch.arange(size) >= torch.tensor(lengths)[:, None]] = 0.0
    return wavs, torch.tensor(lengths)


def kept(*states: Tensor) -> np.ndarray:
    """Several (B, T, D) -> (L, B, T, 1 + CHANNELS): the norm of each frame, and some of its channels."""
    channels = [state[..., :: state.shape[-1] // CHANNELS][..., :CHANNELS] for state in states]
    each = [torch.cat([x.norm(dim=-1, keepdim=True), c], -1) for x, c in zip(states, channels)]
    return torch.stack(each).detach().numpy()


def make_pre_norm(path: Path) -> None:
    """Writes a HuBERT with s3prl's class in its layout: pre-norm, which the other tiny ones of that layout are not."""
    like = torch.load(DATA / "converted_hubert.pt")
    changes = {"layer_norm_first": True, "extractor_mode": "layer_norm", "encoder_layers": 2}
    like["model_cfg"] |= changes
    like["task_cfg"] |= {"normalize": True}
    sections = (
        merge_with_parent(HubertConfig, like["model_cfg"]),
        merge_with_parent(HubertPretrainingConfig, like["task_cfg"]),
    )
    like["model_weight"] = fill(HubertModel(*sections, like["dictionaries_symbols"]), SEED, "lively").state_dict()
    torch.save(like, path)


def upstream(case: str, folder: Path, **options: Any) -> S3PRLUpstream:
    """s3prl's own upstream, in eval mode."""
    name, checkpoint = CASES[case]
    path = None if checkpoint is None else str(folder / checkpoint)
    with contextlib.redirect_stdout(io.StringIO()):
        return S3PRLUpstream(name, path, **options).eval()


def record_case(case: str, folder: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """Adds the hidden states of both batches; returns what is known of the upstream."""
    model = upstream(case, folder)
    frames = {}
    for name in BATCHES:
        wavs, lengths = batch(name)
        with torch.no_grad():
            states, counts = model(wavs, lengths)
        frames[name] = [count.tolist() for count in counts]
        assert all(state.isfinite().all() for state in states)
        arrays[f"{case}/{name}"] = kept(*states)
    if case in NORMALISED:
        states, _ = upstream(case, folder, normalize=True)(*batch("padded"))
        arrays[f"{case}/normalised"] = kept(*states)
    checkpoint = CASES[case][1]
    state = {"state": " ".join(sorted(model.state_dict()))} if case in NAMED else {}
    return {
        "upstream": CASES[case][0],
        "checkpoint": checkpoint,
        "num_layers": model.num_layers,
        "hidden_sizes": model.hidden_sizes,
        "downsample_rates": model.downsample_rates,
        "frames": frames,
        **state,
    }


def record_sums(folder: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    """Adds what `Featurizer` makes of one upstream's states, and the gradients of its and the upstream's parameters."""
    model = upstream(SUMMED, folder)
    states, counts = model(*batch("padded"))
    document: dict[str, Any] = {"case": SUMMED}
    for name, options in (("all", {}), ("two", {"layer_selections": [2, 0]}), ("norm", {"normalize": True})):
        featurizer = Featurizer(model, **options)
        document[name] = {"options": options, "state": sorted(featurizer.state_dict())}
        featurizer.weights.data = 0.5 * torch.arange(float(len(featurizer.weights)))
        result, length = featurizer(states, counts)
        arrays[f"featurizer/{name}"] = kept(result)[0]
        assert length.tolist() == counts[0].tolist()
    try:
        Featurizer(model, layer_selections=[1])(states, counts)
        raise RuntimeError("s3prl sums a single layer after all")
    except AssertionError:
        document["single"] = "s3prl refuses to sum a single layer of several"
    document["gradients"] = {}
    for scale in (0.0, 0.25, 1.0):
        model = upstream(SUMMED, folder)
        model.upstream.model.feature_grad_mult = scale
        featurizer = Featurizer(model)
        result, _ = featurizer(*model(*batch("padded")))
        result.pow(2).mean().backward()
        named = [*model.named_parameters(), *featurizer.named_parameters()]
        norms = {key: float(p.grad.double().norm()) for key, p in named if p.grad is not None}
        assert ("upstream.model.feature_extractor.conv_layers.0.0.weight" in norms) is (scale > 0)
        document["gradients"][str(scale)] = {key: norms[key] for key in norms if key.endswith((".0.weight", "weights"))}
    return document


def make(out: Path) -> None:
    """Writes everything."""
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    make_pre_norm(out / PRE_NORM)
    arrays: dict[str, Any] = {}
    cases = {case: record_case(case, HERE.parent, arrays) for case in CASES}
    modules = {name: getattr(hub, name).__module__ for name in hub.options()}
    document = {
        **provenance(
            recording.versions("s3prl", version=version("s3prl"), transformers=version("transformers")),
            "make_s3prl_upstream.py",
        ),
        "utterances": UTTERANCES,
        "batches": BATCHES,
        "cases": cases,
        "featurizer": record_sums(HERE.parent, arrays),
        "names": {
            of: " ".join(n for n, m in modules.items() if m == f"s3prl.upstream.{of}.hubconf") for of in UPSTREAMS
        },
        "registered": " ".join(hub.options(only_registered_ckpt=True)),
    }
    write(out / "s3prl_upstream", document, arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "compat", help="output folder")
    make(parser.parse_args(argv).out)


if __name__ == "__main__":
    main()
