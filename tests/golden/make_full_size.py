"""Makes the pins of released sizes: what the reference implementations compute with models as large as the real ones.

    python tests/golden/make_full_size.py fairseq|data2vec2|microsoft|s3prl|distiller|transformers [CASE ...]

The first argument names the environment that it runs in (README.md beside this file): data2vec 2.0's is fairseq's with
timm. Without cases it makes all of that environment that are collected by default; larger ones are made when named. The
folder with Microsoft's module is given with `--source`, another output folder with `--out`.

Models, configurations and stages are those of the other makers, at the released sizes; weights are those of
`generator.py` at scale "full". Two calls are recorded, one utterance alone and a padded batch of two, as `summary.py`
sums them up, and the gradients of one loss of the first. `write` says what is in a file.
"""

from __future__ import annotations

import argparse
import functools
import gc
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import recording
import torch
from generator import uniform, waveform
from recording import SPEECH, Run, describe, entropy, pad, provenance
from summary import sample, sketch, summarise
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

HERE = Path(__file__).resolve().parent
Stages = tuple[dict[str, Tensor], list[int]]  # name -> (B, T, F), and how many of the T are valid
SCALE = "full"
GRADIENT_VALUES = 8  # kept of each parameter's gradient
WINDOW = 320  # samples of the input's gradient that make one row of its summary

# What models hear: no multiple of the hop, longer for those that are quick.
LENGTHS = {"small": (47987, 31977, 20011), "large": (16123, 11003, 7001)}


def utterances(lengths: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Real speech alone; quieter speech off centre and a synthetic tone in the batch."""
    single, speech, sweep = lengths
    return {
        "single": [{"file": SPEECH[0], "start": 60000, "samples": single, "gain": 1.0, "offset": 0.0}],
        "padded": [
            {"file": SPEECH[1], "start": 60000, "samples": speech, "gain": 0.3, "offset": 0.01},
            {"sweep": 5033, "samples": sweep, "gain": 0.5, "offset": 0.0},
        ],
    }


@dataclass
class Subject:
    """A model of a reference, ready to be recorded.

    Attributes:
        model: It, with generated weights, in eval mode.
        parameters: Those that are recorded, by the name that a checkpoint has for them.
        call: Runs it on utterances, each as long as it is.
        inputs: Makes the utterances of a call.
        double: Brings the model, in place, to float64 wherever it computes.
        state: Shapes of what its checkpoint holds.
        about: What was chosen, for the file.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor]
    call: Callable[[list[Tensor]], Stages]
    inputs: Callable[[str], list[Tensor]]
    double: Callable[[nn.Module], nn.Module]
    state: dict[str, dict[str, Any]]
    about: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """How a case is made: `make` is given the seed, the rest of the fields, and where Microsoft's module is."""

    environment: str
    make: Callable[..., Subject]
    seed: int
    fields: dict[str, Any]
    on_demand: bool = False


# --------------------------------------------------------------------------------------------------------------------
# Recording


def loss_of(stages: Mapping[str, Tensor], frames: Sequence[int]) -> Tensor:
    """Sum over all stages, but the front end's and the projection's, of the mean over frames along a fixed direction.

    A mean of squares would not do: behind a norm it hardly depends on anything.
    """
    total = torch.zeros((), dtype=torch.float64)
    for name, value in stages.items():
        if name not in ("conv", "projection"):
            direction = torch.from_numpy(uniform(f"loss/{name}", value.shape[-1])).to(value.dtype)
            total = total + (value[valid(value, frames)] @ direction).mean()
    return total


def valid(stage: Tensor, frames: Sequence[int]) -> Tensor:
    """Valid frames (B, T) of a stage."""
    return torch.arange(stage.shape[1]) < torch.tensor(frames)[:, None]


def named_parts(name: str, gradient: Tensor) -> dict[str, Tensor]:
    """A gradient by its name; of a fused projection, query, key and value each by itself."""
    return {f"{name}[{i}]": p for i, p in enumerate(gradient.chunk(3))} if ".qkv." in name else {name: gradient}


def record_gradients(subject: Subject, loss: Tensor, source: Tensor) -> tuple[dict[str, Tensor], list[str]]:
    """Norm, values and sketch of each gradient, a row a parameter, and the names of the rows."""
    wanted = subject.parameters
    input_gradient, *others = torch.autograd.grad(loss, [source, *wanted.values()], allow_unused=True)
    rows: dict[str, list[Tensor]] = {"norms": [], "values": [], "sketch": []}
    names = []
    while others:
        name, gradient = list(wanted)[-len(others)], others.pop(0)
        if gradient is None:
            continue
        for part, value in named_parts(name, gradient).items():
            names.append(part)
            rows["norms"].append(torch.linalg.vector_norm(value, dtype=torch.float64))
            values = sample(value, GRADIENT_VALUES).double()
            rows["values"].append(nn.functional.pad(values, (0, GRADIENT_VALUES - len(values))))
            rows["sketch"].append(sketch(value))
    arrays = {f"gradients/{kind}": torch.stack(value) for kind, value in rows.items()}
    row = nn.functional.pad(input_gradient.flatten(), (0, -input_gradient.numel() % WINDOW)).view(-1, WINDOW)
    arrays |= {f"input/{kind}": value for kind, value in summarise(row).items()}
    return arrays, names


def record(subject: Subject, dtype: torch.dtype, gradients: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records both calls.

    Returns:
        The arrays of the file, and the rest: `frames`, `stages`, `gradients`, and `whole`, the stages themselves.
    """
    arrays: dict[str, Tensor] = {}
    rest: dict[str, Any] = {"frames": {}, "whole": {}}
    for call in ("single", "padded"):
        waves = [wave.to(dtype) for wave in subject.inputs(call)]
        backward = gradients and call == "single"
        with torch.set_grad_enabled(backward):
            if backward:
                waves[0].requires_grad_()
            stages, frames = subject.call(waves)
            assert all(bool(stage.isfinite().all()) for stage in stages.values())
            if backward:
                loss = loss_of(stages, frames)
                arrays["loss"] = loss.detach()
        kept = {name: stage.detach()[valid(stage, frames)].clone() for name, stage in stages.items()}
        rest["frames"][call], rest["stages"] = frames, list(stages)
        rest["whole"] |= {f"{call}/{name}": stage for name, stage in kept.items()}
        for kind in ("values", "norms", "sketch"):
            arrays[f"{call}/{kind}"] = torch.stack([summarise(stage)[kind] for stage in kept.values()])
        if backward:
            del stages
            found, rest["gradients"] = record_gradients(subject, loss, waves[0])
            arrays |= found
    return arrays, rest


def measure_noise(
    arrays: Mapping[str, Tensor], exact: Mapping[str, Tensor], rest: dict[str, Any], exact_rest: dict[str, Any]
) -> dict[str, float]:
    """Differences of float32 and float64: the largest of any value of the stages; gradients over their norms."""
    noise = {"conv": 0.0, "projection": 0.0, "states": 0.0}
    for name, value in rest["whole"].items():
        kind = name.split("/")[1]
        kind = kind if kind in noise else "states"
        noise[kind] = max(noise[kind], float((value.double() - exact_rest["whole"][name]).abs().max()))
    if "gradients" in exact_rest:
        for row, name in enumerate(rest["gradients"]):
            # Key biases shift all scores of a query alike: their gradient is zero, and what is seen is rounding.
            if not re.search(r"((k_proj|linear_k)\.bias|self\.key\.bias|qkv\.bias\[1\])$", name):
                difference = arrays["gradients/sketch"][row] - exact["gradients/sketch"][row]
                relative = float(difference.norm() / exact["gradients/norms"][row])
                noise["gradients"] = max(noise.get("gradients", 0.0), relative)
        difference = (arrays["input/sketch"] - exact["input/sketch"]).norm() / exact["input/sketch"].norm()
        noise["input"] = float(difference)
    return {kind: float(f"{value:.2e}") for kind, value in noise.items() if value}


class AttentionSeen(TorchDispatchMode):
    """Collects the entropy of every attention that torch computes, fused or not, over that of even attention."""

    def __init__(self) -> None:
        super().__init__()
        self.entropies: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        weights = None
        if name == "_softmax" and out.dim() > 2 and out.shape[-1] == out.shape[-2]:
            weights = out
        elif name.startswith("_scaled_dot_product"):
            options = kwargs or {}
            scale = options.get("scale") or args[0].shape[-1] ** -0.5
            scores = args[0] @ args[1].transpose(-2, -1) * scale
            mask = options.get("attn_mask")
            weights = (scores if mask is None else scores + mask).softmax(-1)
        if weights is not None:
            self.entropies.append(entropy(weights))
        return out


def compact(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that each of n layers has in common as one, whose name holds `{n}` in place of the layer's number."""
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for name in entries:
        if match := re.fullmatch(r"((?:.*\.)?(?:layers|blocks|layer)\.)(\d+)(\..*)", name):
            groups.setdefault((match[1], match[3]), {})[int(match[2])] = name
    result = dict(entries)
    for (before, after), names in groups.items():
        values = [entries[name] for name in names.values()]
        if len(names) > 1 and sorted(names) == list(range(len(names))) and all(v == values[0] for v in values):
            for name in names.values():
                del result[name]
            result[f"{before}{{{len(names)}}}{after}"] = values[0]
    return result


def make(name: str, case: Case, out: Path, source: Path | None) -> None:
    """Makes one case: float32 as it is recorded, then float64 for the noise."""
    started = time.time()
    options = {"source": source} if case.environment == "microsoft" else {}
    subject = case.make(case.seed, **case.fields, **options)
    with torch.no_grad(), AttentionSeen() as seen:
        subject.call(subject.inputs("single"))
    print(f"{name}: built and run once, {time.time() - started:.0f} s", flush=True)
    arrays, rest = record(subject, torch.float32)
    gc.collect()
    print(f"{name}: float32, {time.time() - started:.0f} s", flush=True)
    parameters = len(subject.parameters)
    subject.double(subject.model)
    subject.parameters = dict(subject.parameters.items())
    exact, exact_rest = record(subject, torch.float64, gradients=not case.on_demand)
    assert rest["frames"] == exact_rest["frames"] and parameters == len(subject.parameters)
    rms = [round(float(v.pow(2).mean().sqrt()), 3) for k, v in rest["whole"].items() if k.startswith("single/")]
    document = {
        "case": name,
        **subject.about,
        "seed": case.seed,
        "scale": case.fields.get("scale", SCALE),
        "on_demand": case.on_demand,
        "frames": rest["frames"],
        "stages": rest["stages"],
        "noise": measure_noise(arrays, exact, rest, exact_rest),
        "health": {"attention_entropy": seen.entropies, "stage_rms": rms},
        "gradients": list(compact(dict.fromkeys(rest["gradients"]))),
        "state": compact(subject.state),
    }
    # The rows of the gradients in the order of the names as they are written, when each is expanded again.
    order = [rest["gradients"].index(key) for key in expand(document["gradients"])]
    for kind in ("norms", "values", "sketch"):
        arrays[f"gradients/{kind}"] = arrays[f"gradients/{kind}"][order]
    stored = {key: value.numpy().astype(np.float64 if key == "loss" else np.float32) for key, value in arrays.items()}
    recording.write(out / name, document, stored, packed=True)
    print(f"{name}: {time.time() - started:.0f} s", flush=True)


def expand(names: Iterable[str]) -> list[str]:
    """The names that `compact` put together, layer by layer."""
    found = []
    for name in names:
        match = re.fullmatch(r"(.*)\{(\d+)\}(.*)", name)
        found += [name] if match is None else [f"{match[1]}{i}{match[3]}" for i in range(int(match[2]))]
    return found


# --------------------------------------------------------------------------------------------------------------------
# References


def speech(
    model: nn.Module,
    run: Run,
    normalise: Callable[[Tensor], Tensor],
    double: Callable[[nn.Module], nn.Module],
    size: str,
    about: dict[str, Any],
) -> Subject:
    """A subject whose stages the other makers record with a `Run`."""
    specs = utterances(LENGTHS[size])

    def call(waves: list[Tensor]) -> Stages:
        items = [normalise(wave) for wave in waves]
        stages = run(items[0][None], None) if len(items) == 1 else run(*pad(items))
        named = {"conv": stages.conv, "projection": stages.projection}
        return {**named, **{str(k): state for k, state in enumerate(stages.states)}}, stages.frames

    return Subject(
        model,
        dict(model.named_parameters()),
        call,
        lambda name: [torch.from_numpy(waveform(spec)) for spec in specs[name]],
        double,
        describe(model),
        {**about, "utterances": specs},
    )


FULL_CONV = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"


def sizes(layers: int, width: int, heads: int, final: int) -> dict[str, Any]:
    """Fields of fairseq's encoders."""
    return {
        "conv_feature_layers": FULL_CONV,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": 4 * width,
        "encoder_attention_heads": heads,
        "final_dim": final,
    }


def fairseq(
    seed: int,
    family: str,
    model: dict[str, Any],
    layer_norm: bool,
    size: str,
    scale: str = SCALE,
    adapters: bool = False,
) -> Subject:
    """wav2vec 2.0, HuBERT, data2vec and the Conformer in fairseq."""
    import make_fairseq as own
    import make_mms

    own.prepare()
    normalize = layer_norm
    tasks = {"hubert": own.HUBERT_TASK}
    if family == "data2vec":
        import make_data2vec

        fields = {**make_data2vec.MODEL, "average_top_k_layers": 8, **model}
        config = make_data2vec.configure(fields, make_data2vec.TASK)
        built, double = make_data2vec.build(config, scale, seed)[1], make_data2vec.whole_double
    else:
        if family == "wav2vec2_conformer":
            import make_conformer

            make_conformer.tolerate()
        base = own.HUBERT if family == "hubert" else {**own.WAV2VEC2, "latent_vars": 320}
        modern = {"extractor_mode": "layer_norm", "layer_norm_first": True}
        modern |= {} if family == "hubert" else {"conv_bias": True}
        fields = {**base, **(modern if layer_norm else {}), **model}
        config = own.make_config(fields, {**tasks.get(family, own.WAV2VEC2_TASK), "normalize": normalize})
        built, double = own.build(config, seed, scale)[1], own.in_double
    if adapters:
        built = make_mms.first_adapter(built)
    about = {
        "family": family,
        "dialect": "fairseq",
        **provenance(own.versions(), "make_full_size.py fairseq"),
        "notes": "as in the small cases of fairseq, at the released sizes",
        "config": own.plain(config),
    }
    _, run, normalise = own.runner(built, normalize)
    return speech(built, run, normalise, double, size, about)


def data2vec2(seed: int, depth: int, prenet: int, width: int, heads: int, size: str, scale: str = SCALE) -> Subject:
    """data2vec 2.0 in fairseq with timm."""
    import make_data2vec2 as own
    import make_fairseq

    make_fairseq.prepare()
    if "data2vec_multi" not in make_fairseq.MODEL_DATACLASS_REGISTRY:
        own.load_classes()
    fields = {**own.MODEL, "depth": depth, "embed_dim": width, "num_heads": heads, "mlp_ratio": 4.0, "skip_ema": True}
    audio = {**own.AUDIO, "feature_encoder_spec": FULL_CONV, "prenet_depth": prenet}
    config = own.configure(fields, audio, own.DECODER, own.TASK)
    _, model = own.build(config, scale, seed)
    about = {
        "family": "data2vec2",
        "dialect": "fairseq",
        **provenance({**make_fairseq.versions(), "timm": own.version("timm")}, "make_full_size.py data2vec2"),
        "notes": "as in the small cases, at the released sizes; gradients of a fused projection by its parts",
        "config": make_fairseq.plain(config),
    }
    _, run, normalise = own.runner(model)
    return speech(model, run, normalise, own.whole_double, size, about)


def microsoft(seed: int, family: str, large: bool, source: Path) -> Subject:
    """WavLM and UniSpeech-SAT in Microsoft's module."""
    import make_microsoft as own

    fields = {**own.BASE, **sizes(12, 768, 12, 256)}
    if large:
        fields |= {**own.LARGE, **sizes(24, 1024, 16, 768)}
    del fields["final_dim"]
    module = own.import_source(source)
    config = own.configure(module, {**fields, **(own.GATED if family == "wavlm" else {})})
    model = own.build(module, config, seed, SCALE)
    about = {
        "family": family,
        "dialect": "microsoft",
        **provenance(own.versions(), "make_full_size.py microsoft"),
        "notes": "as in the small cases, at the released sizes",
        "config": config,
    }
    size = "large" if large else "small"
    return speech(model, own.runner(model), own.normaliser(config), own.whole_double, size, about)


def distiller(seed: int) -> Subject:
    """DistilHuBERT in s3prl."""
    import make_s3prl_distiller as own

    names = {"conv_feature_layers": "extractor_conv_feature_layers"}
    released = {names.get(name, name): value for name, value in sizes(2, 768, 12, 768).items()}
    config = {**own.BASE, **released}
    model = own.build(config, seed, SCALE)
    about = {
        "family": "distilhubert",
        "dialect": "s3prl_distiller",
        **provenance(own.versions(), "make_full_size.py distiller"),
        "notes": "as in the small cases, at the released sizes",
        "config": {"distiller": config},
    }
    return speech(model, own.runner(model), lambda wave: wave, own.in_double, "small", about)


def double_inside(model: nn.Module) -> nn.Module:
    """s3prl's expert in float64, to which what it hands to its transformer in float32 is brought again."""

    def cast(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        wide = {key: value.double() if torch.is_tensor(value) else value for key, value in kwargs.items()}
        return tuple(value.double() if torch.is_tensor(value) else value for value in args), wide

    model.transformer.model.register_forward_pre_hook(cast, with_kwargs=True)
    return model.double()


def s3prl(seed: int, audio: str, layout: str, length: int = 1500, **transformer: Any) -> Subject:
    """TERA, Mockingjay and Audio ALBERT in s3prl."""
    import make_s3prl as own

    released = {"hidden_size": 768, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 3072}
    own.CASES["released"] = (getattr(own, audio), {**released, **transformer}, length, layout)
    with tempfile.TemporaryDirectory() as folder:
        model, state, head = own.expert("released", seed, SCALE, Path(folder) / "model.ckpt")
    specs = utterances(LENGTHS["small"])

    def call(waves: list[Tensor]) -> Stages:
        states = model(waves)["hidden_states"]
        if len(waves) == 1:
            return {str(k): state for k, state in enumerate(states)}, [states[0].shape[1]]
        alone = [model([wave])["hidden_states"][0].shape[1] for wave in waves]
        return {str(k): state for k, state in enumerate(states)}, alone

    about = {
        "family": "tera",
        "dialect": "s3prl",
        **provenance(recording.versions("s3prl", version=own.version("s3prl")), "make_full_size.py s3prl"),
        "notes": "as in the small cases, at the released sizes",
        "config": own.configuration("released"),
        "layout": layout,
        "head": head,
        "utterances": specs,
    }
    return Subject(
        model,
        dict(model.transformer.model.named_parameters()),
        call,
        lambda name: [torch.from_numpy(waveform(spec)) for spec in specs[name]],
        double_inside,
        state,
        about,
    )


def transformers(seed: int, family: str, fields: dict[str, Any]) -> Subject:
    """Hugging Face's classes."""
    import make_transformers as own

    own.prepare()
    flags = own.MASKED
    model = own.build(family, {**own.LARGE, "conv_dim": [512] * 7, **fields}, seed, SCALE)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        own.Wav2Vec2FeatureExtractor(**flags).save_pretrained(folder)
        config, processor = (own.read_json(Path(folder) / f"{n}.json") for n in ("config", "preprocessor_config"))
    about = {
        "family": own.family_name(family, fields),
        "dialect": "huggingface",
        **provenance(own.versions(), "make_full_size.py transformers"),
        "notes": "as in the small cases, at the released sizes; the last state is last_hidden_state",
        "hf_config": config,
        "preprocessor": processor,
    }
    normalise = own.normaliser(flags["do_normalize"])
    run = own.runner(model, flags["return_attention_mask"])
    return speech(model, run, normalise, lambda module: module.double(), "large", about)


@functools.cache  # twice the module would be two classes of each name
def _wav2vec_u_module() -> Any:
    import make_wav2vec_u

    return make_wav2vec_u.load_module()


def wav2vec_u(seed: int, fields: dict[str, Any]) -> Subject:
    """wav2vec-U in fairseq: the generator's logits, and what the discriminator says of them."""
    import make_wav2vec_u as own

    module = _wav2vec_u_module()
    symbols = [*(f"P{i}" for i in range(39)), "<SIL>"]  # and four specials before them
    dictionary = own.make_dictionary(symbols)
    config = own.make_config(module, fields, {"type": "JOIN"})
    model = recording.fill(module.Wav2vec_U(config, dictionary), seed, SCALE)
    lengths = {"single": [151], "padded": [97, 61]}

    def call(items: list[Tensor]) -> Stages:
        batch, mask = own.padded(items)
        result = model.generator(batch, None, mask)
        logits, hidden = result["dense_x"], result["dense_padding_mask"]
        frames = (~hidden).sum(1).tolist()
        score = model.discriminator(logits.softmax(2), hidden)
        stages = {"logits": logits, "score": score.view(-1, 1, 1).expand(-1, logits.shape[1], 1)}
        return stages, frames

    def inputs(name: str) -> list[Tensor]:
        return [torch.from_numpy(features(f"{name}/{n}", n, config.input_dim)) for n in lengths[name]]

    about = {
        "family": "wav2vec_u",
        "dialect": "fairseq",
        **provenance(own.versions(), "make_full_size.py fairseq"),
        "notes": "the mutable default of Wav2vec_UConfig as a factory, nothing else patched; eval mode",
        "config": own.plain(config),
        "symbols": dictionary.symbols,
        "utterances": lengths,
    }
    return Subject(
        model, dict(model.named_parameters()), call, inputs, lambda module: module.double(), describe(model), about
    )


def features(key: str, frames: int, width: int) -> np.ndarray:
    """Random features (frames, width), off centre, for wav2vec-U."""
    return uniform(f"features/{key}", frames * width).reshape(frames, width) + np.float32(0.1)


LARGE_SIZES, BASE_SIZES, BILLION = sizes(24, 1024, 16, 768), sizes(12, 768, 12, 256), sizes(48, 1280, 16, 1024)
BASE = {"model": BASE_SIZES, "layer_norm": False, "size": "small"}
LARGE = {"model": LARGE_SIZES, "layer_norm": True, "size": "large"}
HUGE = {"model": BILLION, "layer_norm": True, "size": "large"}
CONFORMER = {**LARGE_SIZES, "layer_type": "conformer", "attn_type": "espnet", "depthwise_conv_kernel_size": 31}
ADAPTED = {"layer_type": "trf_adp", "adp_num": 1, "adp_dim": 16, "adp_act_fn": "relu", "adp_trf_idx": "all"}
HF_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
FIRST = {
    "input_dim": 512,
    "generator_dropout": 0.1,
    "discriminator_dim": 384,
    "discriminator_depth": 2,
    "discriminator_kernel": 6,
}
SECOND = {
    **FIRST,
    "input_dim": 1024,
    "generator_kernel": 9,
    "generator_stride": 3,
    "generator_batch_norm": 30,
    "generator_residual": True,
    "discriminator_kernel": 8,
    "mmi_weight": 0.5,
    "target_dim": 64,
}

CASES: dict[str, Case] = {
    "wav2vec2_base": Case("fairseq", fairseq, 1, {"family": "wav2vec2", **BASE}),
    "wav2vec2_large_960": Case(
        "fairseq", fairseq, 1, {"family": "wav2vec2", **LARGE, "layer_norm": False, "scale": "deep"}
    ),
    "wav2vec2_large": Case("fairseq", fairseq, 1, {"family": "wav2vec2", **LARGE}),
    "hubert_base": Case("fairseq", fairseq, 1, {"family": "hubert", **BASE}),
    "hubert_large": Case("fairseq", fairseq, 1, {"family": "hubert", **LARGE}),
    "data2vec_base": Case("fairseq", fairseq, 1, {"family": "data2vec", **BASE, "layer_norm": True}),
    "data2vec_large": Case("fairseq", fairseq, 1, {"family": "data2vec", **LARGE, "scale": "deep"}),
    "data2vec2_base": Case(
        "data2vec2", data2vec2, 1, {"depth": 12, "prenet": 0, "width": 768, "heads": 12, "size": "small"}
    ),
    "data2vec2_large": Case(
        "data2vec2",
        data2vec2,
        1,
        {"depth": 16, "prenet": 8, "width": 1024, "heads": 16, "size": "large", "scale": "deep"},
    ),
    "wavlm_base": Case("microsoft", microsoft, 1, {"family": "wavlm", "large": False}),
    "wavlm_large": Case("microsoft", microsoft, 1, {"family": "wavlm", "large": True}),
    "unispeech_sat_base": Case("microsoft", microsoft, 1, {"family": "unispeech_sat", "large": False}),
    "unispeech_sat_large": Case("microsoft", microsoft, 1, {"family": "unispeech_sat", "large": True}),
    "unispeech_large": Case("transformers", transformers, 1, {"family": "UniSpeech", "fields": HF_LARGE}),
    "hf_wav2vec2_large": Case("transformers", transformers, 1, {"family": "Wav2Vec2", "fields": HF_LARGE}),
    "distilhubert": Case("distiller", distiller, 1, {}),
    "tera": Case("s3prl", s3prl, 1, {"audio": "MEL", "layout": "Upstream_Config"}),
    "tera_fbank": Case("s3prl", s3prl, 1, {"audio": "FBANK", "layout": "Config"}),
    "mockingjay_large": Case(
        "s3prl", s3prl, 1, {"audio": "LINEAR_TARGET", "layout": "Config", "length": 500, "num_hidden_layers": 12}
    ),
    "audio_albert": Case("s3prl", s3prl, 1, {"audio": "MEL", "layout": "Config", "share_layer": True}),
    "wav2vec_u": Case("fairseq", wav2vec_u, 1, {"fields": FIRST}),
    "wav2vec_u2": Case("fairseq", wav2vec_u, 1, {"fields": SECOND}),
    # On demand.
    "conformer_relpos": Case(
        "fairseq",
        fairseq,
        1,
        {"family": "wav2vec2_conformer", **LARGE, "model": {**CONFORMER, "pos_enc_type": "rel_pos"}},
        on_demand=True,
    ),
    "conformer_rope": Case(
        "fairseq",
        fairseq,
        1,
        {"family": "wav2vec2_conformer", **LARGE, "model": {**CONFORMER, "pos_enc_type": "rope"}},
        on_demand=True,
    ),
    "wav2vec2_1b": Case("fairseq", fairseq, 1, {"family": "wav2vec2", **HUGE}, on_demand=True),
    "hubert_xlarge": Case("fairseq", fairseq, 1, {"family": "hubert", **HUGE}, on_demand=True),
    "mms_1b_adapted": Case(
        "fairseq",
        fairseq,
        1,
        {"family": "wav2vec2", **HUGE, "model": {**BILLION, **ADAPTED}, "adapters": True},
        on_demand=True,
    ),
    "wav2vec2_2b": Case(
        "fairseq",
        fairseq,
        1,
        {"family": "wav2vec2", **HUGE, "model": sizes(48, 1920, 16, 1024)},
        on_demand=True,
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=sorted({case.environment for case in CASES.values()}))
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--source", type=Path, help="folder with Microsoft's WavLM.py and modules.py")
    parser.add_argument("--out", type=Path, default=HERE / "full_size")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        named = name in arguments.cases if arguments.cases else not case.on_demand
        if case.environment == arguments.environment and named:
            make(name, case, arguments.out, arguments.source)
            gc.collect()


if __name__ == "__main__":
    main()
