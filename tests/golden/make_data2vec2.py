"""Makes the data2vec 2.0 part of the golden data with fairseq's own class, and checkpoints that fairseq itself writes.

Runs in fairseq's own environment with timm beside it (README.md beside this file), never in the project's:

    python tests/golden/make_data2vec2.py golden         # tests/golden/data/data2vec2_*.{json,npz}
    python tests/golden/make_data2vec2.py checkpoints    # tests/data/data2vec2*.pt, data2vec2_expected.{json,npz}

Each takes `--out DIR`. The class is `examples/data2vec/models/data2vec2.py` of fairseq 0.12.3, which the wheel holds;
Python 3.11 refuses its mutable defaults, which a throw-away copy has as factories. torchvision's compiled part, which
timm imports and nothing here calls, does not load beside a CPU build of torch: two of its names are declared.
Configurations and files are handled as in `make_fairseq.py` and `make_data2vec.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fairseq
import torch
from fairseq import tasks
from fairseq.registry import REGISTRIES
from generator import tensors, waveform
from make_data2vec import reload, train
from make_fairseq import (
    EXTRA_STATE,
    HERE,
    LETTERS,
    conv_layers,
    in_double,
    make_config,
    make_dictionary,
    normalise,
    plain,
    prepare,
    training_state,
    versions,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from recording import (
    UTTERANCE,
    UTTERANCES,
    Run,
    Stages,
    command_line,
    compute,
    describe,
    entropy,
    fill,
    pad,
    provenance,
    state_rms,
    write,
    write_case,
)
from torch import Tensor, nn

# It makes one head's scale negative in the lively case, which fairseq clamps, and has little noise (see make_data2vec).
SEED = 109
TASK = {"_name": "audio_pretraining", "data": "data", "normalize": True}
AUDIO = {
    "feature_encoder_spec": conv_layers(24),
    "prenet_depth": 1,
    "prenet_layerdrop": 0.0,
    "prenet_dropout": 0.0,
    "use_alibi_encoder": True,
    "learned_alibi_scale": True,
    "learned_alibi_scale_per_head": True,
}
# What the published recipes set, in a small size; six heads, because the slopes of no power of two are the harder ones.
MODEL = {
    "_name": "data2vec_multi",
    "depth": 1,
    "embed_dim": 48,
    "num_heads": 6,
    "mlp_ratio": 1.5,
    "norm_eps": 1e-5,
    "encoder_dropout": 0.0,
    "post_mlp_drop": 0.0,
    "attention_dropout": 0.0,
    "average_top_k_layers": 1,
    "instance_norm_target_layer": True,
    "ema_encoder_only": False,
    "clone_batch": 2,
}
DECODER = {"decoder_dim": 16, "decoder_groups": 8, "decoder_kernel": 3, "decoder_layers": 1}


TORCHVISION = torch.library.Library("torchvision", "DEF")


def load_classes() -> None:
    """Registers fairseq's own class as training code does, with mutable defaults as factories."""
    for name in ("nms", "qnms"):
        TORCHVISION.define(f"{name}(Tensor x) -> Tensor")
    folder = Path(tempfile.mkdtemp())
    package = folder / "examples" / "data2vec"
    shutil.copytree(Path(fairseq.__file__).parent / "examples" / "data2vec", package)
    for name, defaults in (("models/data2vec2.py", 4), ("models/modalities/base.py", 1)):
        path = package / name
        text = path.read_text()
        text, found = re.subn(
            r"^(    \w+: \S+) = (\w+Config)\(\)$", r"\1 = field(default_factory=\2)", text, flags=re.M
        )
        assert found == defaults
        path.write_text(text.replace("import dataclass\n", "import dataclass, field\n"))
    sys.path.append(str(folder))
    importlib.import_module("examples.data2vec.models.data2vec2")
    shutil.rmtree(folder)


def configure(
    model: dict[str, Any], audio: dict[str, Any], decoder: dict[str, Any], task: dict[str, Any]
) -> DictConfig:
    """fairseq's whole configuration, with the criterion of the recipe and the fields of the audio section set."""
    config = make_config(model, task)
    config.criterion = REGISTRIES["criterion"]["dataclass_registry"]["model"](_name="model")
    config.model.supported_modality = "AUDIO"
    for name, value in audio.items():
        config.model.modalities.audio[name] = value
    for name, value in decoder.items():
        config.model.modalities.audio.decoder[name] = value
    return config


def build(config: DictConfig, scale: str, seed: int = SEED) -> tuple[tasks.FairseqTask, nn.Module]:
    """Builds a pre-training model through its task and gives it generated weights."""
    task = tasks.setup_task(config.task)
    model = task.build_model(config.model)
    ema, model.ema = model.ema, None  # whose tensors stand in the state dict as a dict; `add_teacher` fills them
    fill(model, seed, scale)
    model.ema = ema
    return task, model


def blocks(model: nn.Module) -> list[nn.Module]:
    """Every block, those of the prenet first, as fairseq's layer-wise learning rates count them."""
    return [*model.modality_encoders["AUDIO"].context_encoder.blocks, *model.blocks]


def extract(model: nn.Module, source: Tensor, padding_mask: Tensor | None) -> dict[str, Any]:
    """Calls fairseq's own feature extraction."""
    return model.extract_features(source, mode="AUDIO", padding_mask=padding_mask, mask=False)


def run(model: nn.Module, source: Tensor, padding_mask: Tensor | None = None) -> Stages:
    """Runs fairseq's feature extraction and records its stages with hooks."""
    encoder = model.modality_encoders["AUDIO"]
    seen: dict[str, Tensor] = {}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    hooks = [
        encoder.local_encoder.register_forward_hook(
            lambda module, args, output: seen.update(conv=output.transpose(1, 2).clone())
        ),
        encoder.project_features.register_forward_hook(
            lambda module, args, output: seen.update(projection=output.clone())
        ),
        blocks(model)[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
    ]
    hooks += [
        block.register_forward_hook(lambda module, args, output: outputs.append(output[0])) for block in blocks(model)
    ]
    try:
        result = extract(model, source, padding_mask)
    finally:
        for hook in hooks:
            hook.remove()
    assert torch.equal(outputs[-1], result["x"])  # no norm stands after the last block
    return Stages(seen["conv"], seen["projection"], [inputs[0], *outputs], result["padding_mask"])


def runner(model: nn.Module) -> tuple[nn.Module, Run, Callable[[Tensor], Tensor]]:
    """What `compute` needs: the model, how to run it, what to do to an utterance before."""
    return model, functools.partial(run, model), functools.partial(normalise, normalize=True)


def check_wiring(model: nn.Module, lively: bool) -> None:
    """Proves that there is one scale a head, negative for one in the lively case, and that the bias matters."""
    scale = model.modality_encoders["AUDIO"].alibi_scale
    assert scale.shape == (1, 1, 6, 1, 1)
    assert bool((scale < 0).any()) == lively
    source, mask = pad([normalise(torch.from_numpy(waveform(spec)), True) for spec in UTTERANCES])
    with torch.no_grad():
        before = extract(model, source, mask)["x"]
        kept = scale.clone()
        assert (extract(model, source, mask)["x"] - before).abs().max() == 0
        scale.zero_()
        assert (extract(model, source, mask)["x"] - before).abs().max() > 0.01
        scale.copy_(kept)


def sharpness(model: nn.Module) -> list[float]:
    """Mean entropy of each block's attention on the longest utterance, as a fraction of that of even attention."""
    seen: list[float] = []
    hooks = [
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: seen.append(entropy(output.detach())))
        for block in blocks(model)
    ]
    longest = max(UTTERANCES, key=lambda spec: spec["samples"])
    with torch.no_grad():
        run(model, normalise(torch.from_numpy(waveform(longest)), True)[None])
    for hook in hooks:
        hook.remove()
    return seen


def whole_double(model: nn.Module) -> nn.Module:
    """The same model in float64, also in the softmax and the bias that fairseq computes in float32."""

    def attend(self: nn.Module, x: Tensor, padding_mask: Tensor | None = None, alibi_bias: Any = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1) + alibi_bias
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None, :].bool(), float("-inf"))
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    for block in blocks(model):
        block.attn.forward = functools.partial(attend, block.attn)
    encoder = model.modality_encoders["AUDIO"]
    bias = encoder.get_alibi_bias
    encoder.get_alibi_bias = lambda **options: bias(**options).double()
    return in_double(model)


def make_golden(out: Path) -> None:
    """Writes `data2vec2_<scale>.json` and `.npz` for both scales."""
    config = configure({**MODEL, "skip_ema": True}, AUDIO, DECODER, TASK)
    for scale in ("usual", "lively"):
        _, model = build(config, scale)
        check_wiring(model, scale == "lively")
        arrays, frames = compute(*runner(model), torch.float32, short=True)
        exact, exact_frames = compute(*runner(whole_double(build(config, scale)[1])), torch.float64, short=True)
        assert frames == exact_frames
        assert frames["padded"] == frames["single"]  # the length formula
        leak = max(
            float((arrays["padded/0"][i, :n] - arrays[f"single{i}/0"]).abs().max())
            for i, n in enumerate(frames["padded"])
        )
        assert leak > 1e-3  # padding comes in through the stacked convolutions, or the case would prove nothing
        about = {
            "case": f"data2vec2_{scale}",
            "family": "data2vec2",
            "dialect": "fairseq",
            **provenance({**versions(), "timm": version("timm")}, "make_data2vec2.py golden"),
            "notes": "mutable defaults as factories, nothing else patched; dropouts 0, eval mode. Gradients of a fused "
            "projection are recorded by its parts. A file that training writes also has a dict of tensors under _ema "
            "in its model (tests/data/data2vec2.pt), which is not in `state`",
            "config": plain(config),
            "normalize": True,
            "seed": SEED,
            "scale": scale,
        }
        health = {
            "attention_entropy": sharpness(model),
            "state_rms": state_rms(arrays, len(blocks(model))),
            "alibi_scale": [round(v, 3) for v in model.modality_encoders["AUDIO"].alibi_scale.flatten().tolist()],
            "leak": round(leak, 3),
        }
        write_case(out, about, model, arrays, exact, frames, health)


# --------------------------------------------------------------------------------------------------------------------
# Tiny checkpoints

TINY = {**MODEL, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 1}
TINY_AUDIO = {**AUDIO, "feature_encoder_spec": conv_layers(8)}


def add_teacher(model: nn.Module, seed: int) -> None:
    """Moves the averaged teacher that fairseq made away from the student, or both would look the same."""
    shapes = {f"_ema.{name}": {"shape": list(value.shape)} for name, value in model.ema.fp32_params.items()}
    for name, values in tensors(shapes, seed, "lively").items():
        model.ema.fp32_params[name.removeprefix("_ema.")].copy_(torch.from_numpy(values))


def make_checkpoints(out: Path) -> None:
    """Writes both checkpoints and what fairseq computes with them."""
    documents: dict[str, Any] = {}
    arrays: dict[str, Any] = {}

    def add(name: str, about: str, config: DictConfig, model: nn.Module, seed: int, **others: Any) -> None:
        encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        source = normalise(torch.from_numpy(waveform(UTTERANCE)), True)[None]
        with torch.no_grad():
            arrays[f"{name}/last"] = run(encoder, source).states[-1][0].numpy()
            if encoder is not model:
                arrays[f"{name}/logits"] = model(source=source, padding_mask=None)["encoder_out"][:, 0].numpy()
        documents[name] = {
            "about": about,
            "family": "data2vec2",
            "normalize": True,
            "config": plain(config),
            "seed": seed,
            "scale": "lively",
            **others,
        }
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")

    config = configure(TINY, TINY_AUDIO, DECODER, TASK)
    task, model = build(config, "lively", seed=141)
    add_teacher(model, seed=141)
    name = "data2vec2.pt"
    train(config, task, model).save_checkpoint(str(out / name), EXTRA_STATE)
    teacher = {key: {"shape": list(value.shape), "dtype": "float32"} for key, value in model.ema.fp32_params.items()}
    ema, model.ema = model.ema, None
    state = describe(model)
    model.ema = ema
    about = "pre-trained; the decoder, and a dict of the averaged teacher's tensors under _ema"
    add(name, about, config, reload(out / name, model), 141, ema=teacher, state=state)

    fields = {"_name": "wav2vec_ctc", "w2v_path": str(out / name), "mask_prob": 0.0, "normalize": True, "dropout": 0.1}
    config = make_config(fields, {**TASK, "_name": "audio_finetuning", "labels": "ltr"})
    task = tasks.setup_task(config.task)
    task.state.merge_state_dict({"target_dictionary": make_dictionary(LETTERS)})
    with contextlib.redirect_stdout(io.StringIO()):
        model = fill(task.build_model(config.model), 142, "lively")
    trainer = train(config, task, model)
    with open_dict(config):
        config.model.w2v_args = model.cfg.w2v_args
        config.model.w2v_path = "/checkpoints/parent.pt"
    name = "data2vec2_ctc.pt"
    cfg = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    torch.save(training_state(trainer, cfg=cfg), out / name)
    about = "fine-tuned; cfg.model.w2v_args is a dict of a data2vec 2.0 parent"
    add(name, about, config, reload(out / name, model), 142, state=describe(model))

    document = {
        **provenance({**versions(), "timm": version("timm")}, "make_data2vec2.py checkpoints"),
        "utterance": UTTERANCE,
        "files": documents,
    }
    write(out / "data2vec2_expected", document, arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    prepare()
    load_classes()
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
    )


if __name__ == "__main__":
    main()
