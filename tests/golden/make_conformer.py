"""Makes the Conformer part of the golden data with fairseq's own classes, and checkpoints that fairseq itself writes.

Runs in fairseq's own environment (README.md beside this file), never in the project's:

    python tests/golden/make_conformer.py golden         # tests/golden/data/conformer_*.{json,npz}
    python tests/golden/make_conformer.py checkpoints    # tests/data/conformer*.pt, conformer_expected.{json,npz}

Each takes `--out DIR`. fairseq 0.12.3 calls its Conformer with two arguments that it does not take (fairseq issue
5386): `layer_idx` when a block is built, `corpus_key` when features are extracted. They are dropped on the way; nothing
else is patched. Configurations, stages and files are handled as in `make_fairseq.py`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.models.wav2vec.wav2vec2 import ConformerEncoder
from generator import waveform
from make_fairseq import (
    EXTRA_STATE,
    HERE,
    LARGE,
    LETTERS,
    NORMALIZED,
    QUANTIZER,
    TINY,
    WAV2VEC2_TASK,
    build,
    check_stages,
    in_double,
    make_config,
    make_dictionary,
    normalise,
    plain,
    prepare,
    reload,
    run,
    runner,
    train,
    training_state,
    versions,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from recording import (
    UTTERANCE,
    UTTERANCES,
    command_line,
    compute,
    describe,
    entropy,
    fill,
    provenance,
    state_rms,
    write,
    write_case,
)
from torch import nn

BUILD, EXTRACT = ConformerEncoder.build_encoder_layer, ConformerEncoder.extract_features


def tolerate() -> None:
    """Let fairseq's Conformer be called as fairseq calls it."""
    ConformerEncoder.build_encoder_layer = lambda self, args, layer_idx=None: BUILD(self, args)
    ConformerEncoder.extract_features = lambda self, *args, corpus_key=None: EXTRACT(self, *args)


# Nine taps, so that an utterance's end and the padding behind it are in reach of many frames, and its middle is not.
CONFORMER = {
    "_name": "wav2vec2",
    **LARGE,
    **QUANTIZER,
    "conv_bias": True,
    "layer_type": "conformer",
    "attn_type": "espnet",
    "depthwise_conv_kernel_size": 9,
}
RELATIVE, ROTARY = ({**CONFORMER, "pos_enc_type": kind} for kind in ("rel_pos", "rope"))
TASK = {**WAV2VEC2_TASK, **NORMALIZED}
# Case -> seed, configuration, whether to record less, to keep the files small. Seeds are those with little noise.
CASES: dict[str, tuple[int, dict[str, Any], bool]] = {
    "conformer_relative": (205, RELATIVE, True),
    "conformer_rotary": (212, {**ROTARY, "encoder_layers": 1}, False),
    "conformer_post_norm": (204, {**ROTARY, "layer_norm_first": False}, True),
}


def sharpness(model: nn.Module) -> list[float]:
    """Mean entropy of each block's attention on the longest utterance, as a fraction of that of even attention."""
    longest = max(UTTERANCES, key=lambda spec: spec["samples"])
    with torch.no_grad():
        run(model, normalise(torch.from_numpy(waveform(longest)), True)[None])
    return [entropy(layer.self_attn.attn) for layer in model.encoder.layers]


def make_golden(out: Path) -> None:
    """Writes `<case>_<scale>.json` and `.npz` for every case and both scales."""
    for case, (seed, fields, short) in CASES.items():
        for scale in ("usual", "lively"):
            config = make_config(fields, TASK)
            _, model = build(config, seed, scale)
            check_stages(model, True)
            arrays, frames = compute(*runner(model, True), torch.float32, short=short)
            double = in_double(build(config, seed, scale)[1])
            exact, exact_frames = compute(*runner(double, True), torch.float64, short=short)
            assert frames == exact_frames
            assert frames["padded"] == frames["single"]  # the length formula
            leak = max(
                float((arrays["padded/1"][i, :n] - arrays[f"single{i}/1"]).abs().max())
                for i, n in enumerate(frames["padded"])
            )
            assert leak > 1e-3  # padding comes in through the convolution modules, or the case would prove nothing
            about = {
                "case": f"{case}_{scale}",
                "family": "wav2vec2_conformer",
                "dialect": "fairseq",
                **provenance(versions(), "make_conformer.py golden"),
                "notes": "fairseq as installed, but for two arguments that its Conformer does not take; dropouts 0, "
                "eval mode. Frequencies of rotation are the generator's, not fairseq's own",
                "config": plain(config),
                "normalize": True,
                "seed": seed,
                "scale": scale,
            }
            write_case(
                out,
                about,
                model,
                arrays,
                exact,
                frames,
                {
                    "attention_entropy": sharpness(build(config, seed, scale)[1]),
                    "state_rms": state_rms(arrays, config.model.encoder_layers),
                    "leak": round(leak, 3),
                },
            )


# --------------------------------------------------------------------------------------------------------------------
# Tiny checkpoints


def make_checkpoints(out: Path) -> None:
    """Writes the checkpoints and what fairseq computes with them."""
    documents: dict[str, Any] = {}
    arrays: dict[str, Any] = {}

    def add(name: str, about: str, config: DictConfig, model: nn.Module, seed: int) -> None:
        state = describe(model)
        model = reload(out / name, model)
        encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        source = normalise(torch.from_numpy(waveform(UTTERANCE)), True)[None]
        with torch.no_grad():
            arrays[f"{name}/last"] = run(encoder, source).states[-1][0].numpy()
            if encoder is not model:
                arrays[f"{name}/logits"] = model(source=source, padding_mask=None)["encoder_out"][:, 0].numpy()
        documents[name] = {
            "about": about,
            "family": "wav2vec2_conformer",
            "normalize": True,
            "config": plain(config),
            "seed": seed,
            "scale": "lively",
            "state": state,
        }
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")

    small = {**TINY, "latent_vars": 4, "num_negatives": 4, "conv_pos": 32, "depthwise_conv_kernel_size": 5}
    config = make_config({**RELATIVE, **small}, TASK)
    task, model = build(config, 131, "lively")
    name = "conformer_relative.pt"
    train(config, task, model).save_checkpoint(str(out / name), EXTRA_STATE)
    add(name, "pre-trained, relative positions", config, model, 131)

    # Two blocks, so that there is more than one copy of the frequencies.
    config = make_config({**ROTARY, **small, "encoder_layers": 2}, TASK)
    task, model = build(config, 132, "lively")
    name = "conformer_rotary.pt"
    train(config, task, model).save_checkpoint(str(out / name), EXTRA_STATE)
    add(name, "pre-trained, rotary positions: frequencies in every block", config, model, 132)

    fields = {"_name": "wav2vec_ctc", "w2v_path": str(out / name), "layer_type": "conformer", "mask_prob": 0.0}
    config = make_config({**fields, **NORMALIZED}, {**TASK, "_name": "audio_finetuning", "labels": "ltr"})
    task = tasks.setup_task(config.task)
    task.state.merge_state_dict({"target_dictionary": make_dictionary(LETTERS)})
    with contextlib.redirect_stdout(io.StringIO()):
        model = fill(task.build_model(config.model), 133, "lively")
    trainer = train(config, task, model)
    with open_dict(config):
        config.model.w2v_args = model.cfg.w2v_args
        config.model.w2v_path = "/checkpoints/parent.pt"
    name = "conformer_ctc.pt"
    cfg = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    torch.save(training_state(trainer, cfg=cfg), out / name)
    add(name, "fine-tuned from conformer_rotary.pt; cfg.model.w2v_args is a dict", config, model, 133)

    document = {
        **provenance(versions(), "make_conformer.py checkpoints"),
        "utterance": UTTERANCE,
        "files": documents,
    }
    write(out / "conformer_expected", document, arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    prepare()
    tolerate()
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
    )


if __name__ == "__main__":
    main()
