"""Makes the Hugging Face part of the golden data with transformers itself, and tiny folders that it wrote.

Runs in transformers' own environment (README.md beside this file), never in the project's:

    python tests/golden/make_transformers.py golden     # tests/golden/data/hf_*.{json,npz}
    python tests/golden/make_transformers.py folders    # tests/data/hf/*/, tests/data/hf/expected.{json,npz}

Each takes `--out DIR`. Attention is the eager one everywhere; WavLM has its own and no other.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import recording
import safetensors
import torch
import transformers
from generator import tensors, waveform
from recording import (
    UTTERANCE,
    UTTERANCES,
    Run,
    Stages,
    command_line,
    compute,
    entropy,
    fill,
    pad,
    provenance,
    state_rms,
    torch_attention,
    write,
    write_case,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

HERE = Path(__file__).resolve().parent


def prepare() -> None:
    """Settles what the results or the output would otherwise depend on; call it first."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


NO_DROPOUT = dict.fromkeys(
    (
        "activation_dropout",
        "attention_dropout",
        "hidden_dropout",
        "feat_proj_dropout",
        "feat_quantizer_dropout",
        "final_dropout",
        "layerdrop",
    ),
    0.0,
)
BASE = {
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "conv_bias": False,
    "conv_dim": [16] * 7,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **NO_DROPOUT,
}
# More channels, because a norm over few of them divides by little where the audio is quiet.
LARGE = {
    **BASE,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "conv_dim": [24] * 7,
}
RAW = {"do_normalize": False, "return_attention_mask": False}
NORMALISED = {"do_normalize": True, "return_attention_mask": False}
MASKED = {"do_normalize": True, "return_attention_mask": True}
# As in the golden data of Microsoft's class: every kind of bucket within 15 frames.
FEW_BUCKETS = {"num_buckets": 16, "max_bucket_distance": 10}
# data2vec counts its convolutions where others count taps, and has no choice of norms.
DATA2VEC = {
    **{name: value for name, value in BASE.items() if name not in ("feat_extract_norm", "do_stable_layer_norm")},
    "conv_dim": [24] * 7,
    "conv_pos_kernel_size": 19,
    "num_conv_pos_embeddings": 5,
}
# Nine taps, as in the golden data of fairseq's class.
CONFORMER = {
    **{name: value for name, value in LARGE.items() if name != "do_stable_layer_norm"},
    "hidden_act": "swish",
    "conv_depthwise_kernel_size": 9,
    "conformer_conv_dropout": 0.0,
}

# Case -> class, seed, configuration, processor. Seeds are those with little noise, among thirty each.
CASES: dict[str, tuple[str, int, dict[str, Any], dict[str, bool]]] = {
    "hf_wav2vec2_post_norm": ("Wav2Vec2", 211, BASE, NORMALISED),
    "hf_wav2vec2_pre_norm": ("Wav2Vec2", 222, LARGE, MASKED),
    "hf_mms": ("Wav2Vec2", 195, {**LARGE, "adapter_attn_dim": 8}, MASKED),
    "hf_hubert_pre_norm": ("Hubert", 173, LARGE, MASKED),
    "hf_distilhubert": ("Hubert", 187, {**BASE, "feat_proj_layer_norm": False}, RAW),
    "hf_data2vec": ("Data2VecAudio", 164, DATA2VEC, MASKED),
    "hf_wavlm_post_norm": ("WavLM", 105, BASE, RAW),
    "hf_wavlm_pre_norm": ("WavLM", 166, {**LARGE, "conv_bias": False, **FEW_BUCKETS}, MASKED),
    "hf_unispeech_pre_norm": ("UniSpeech", 87, LARGE, MASKED),
    "hf_unispeech_sat_post_norm": ("UniSpeechSat", 148, BASE, RAW),
    "hf_conformer_relative": ("Wav2Vec2Conformer", 207, {**CONFORMER, "position_embeddings_type": "relative"}, MASKED),
    "hf_conformer_rotary": ("Wav2Vec2Conformer", 207, {**CONFORMER, "position_embeddings_type": "rotary"}, MASKED),
}
FAMILIES = {
    "Wav2Vec2": "wav2vec2",
    "Hubert": "hubert",
    "Data2VecAudio": "data2vec",
    "WavLM": "wavlm",
    "UniSpeech": "unispeech",
    "UniSpeechSat": "unispeech_sat",
    "Wav2Vec2Conformer": "wav2vec2_conformer",
}


def make_config(family: str, fields: Mapping[str, Any]) -> transformers.PreTrainedConfig:
    """A configuration of the library's own class, with eager attention."""
    config = getattr(transformers, f"{family}Config")(**fields)
    config._attn_implementation = "eager"
    return config


def family_name(family: str, fields: Mapping[str, Any]) -> str:
    """The family by its own name; DistilHuBERT goes by HuBERT's classes."""
    return "distilhubert" if fields.get("feat_proj_layer_norm") is False else FAMILIES[family]


def build(family: str, fields: Mapping[str, Any], seed: int, scale: str) -> PreTrainedModel:
    """Builds the bare model and gives it generated weights."""
    return fill(getattr(transformers, f"{family}Model")(make_config(family, fields)), seed, scale)


def normaliser(do_normalize: bool) -> Callable[[Tensor], Tensor]:
    """What the processor does to an utterance (S,) alone, or in a batch with attention mask.

    In float32 the values are the processor's own, to the last bit; their gradient is that of its formula.
    """
    processor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)

    def normalise(wave: Tensor) -> Tensor:
        result = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt() if do_normalize else wave
        if wave.dtype is not torch.float32:
            return result
        values = torch.from_numpy(processor(wave.detach().numpy(), sampling_rate=16000)["input_values"][0])
        rounding = 1e-6 * float(wave.detach().abs().max() / wave.detach().std())  # of the mean, where it is quiet
        assert torch.allclose(values, result, rtol=0, atol=1e-5 + rounding)
        return result + (values - result).detach()

    return normalise


def runner(model: PreTrainedModel, return_attention_mask: bool) -> Run:
    """Runs the model the way its processor prepares for, and records its stages.

    `hidden_states` of transformers 5 ends with the last layer's output; `last_hidden_state` stands in its place here.
    """

    def run(source: Tensor, padding_mask: Tensor | None) -> Stages:
        seen: dict[str, Tensor] = {}
        if padding_mask is None:
            padding_mask = torch.zeros_like(source, dtype=torch.bool)
        # Clones, because padded frames of the projection are set to zero in place afterwards.
        hooks = [
            model.feature_extractor.register_forward_hook(
                lambda module, args, output: seen.update(conv=output.transpose(1, 2).clone())
            ),
            model.feature_projection.register_forward_hook(
                lambda module, args, output: seen.update(
                    projection=(output[0] if isinstance(output, tuple) else output).clone()
                )
            ),
        ]
        mask = (~padding_mask).long() if return_attention_mask else None
        try:
            output = model(source, attention_mask=mask, output_hidden_states=True)
        finally:
            for hook in hooks:
                hook.remove()
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        frames = model._get_feat_extract_output_lengths((~padding_mask).sum(1))
        frame_mask = torch.arange(states[0].shape[1]) >= frames[:, None]
        return Stages(seen["conv"], seen["projection"], states, frame_mask)

    return run


def check_processor(processor: Wav2Vec2FeatureExtractor) -> None:
    """Proves that `normaliser` and `pad` are what the processor does.

    Without attention mask it is another matter for a padded batch: there the processor takes mean and variance over
    the padding too, see `processor/*` in the README.
    """
    raw = [waveform(spec) for spec in UTTERANCES]
    source, mask = pad([normaliser(processor.do_normalize)(torch.from_numpy(wave)) for wave in raw])
    batch = processor(raw, sampling_rate=16000, padding=True, return_tensors="pt", return_attention_mask=True)
    assert torch.allclose(batch["input_values"], source, rtol=0, atol=1e-6)
    assert torch.equal(batch["attention_mask"], (~mask).int())
    assert ("attention_mask" in processor(raw[0], sampling_rate=16000)) == processor.return_attention_mask


def save(model: PreTrainedModel, processor: Wav2Vec2FeatureExtractor | Wav2Vec2Processor, folder: Path) -> None:
    """Writes a folder the way users do."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def versions() -> dict[str, Any]:
    """What made the data."""
    packages = {"version": transformers.__version__, "safetensors": safetensors.__version__}
    return recording.versions("transformers", **packages)


def health(model: PreTrainedModel, prepare: Callable[[Tensor], Tensor], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Sharpness of attention and size of the hidden states, for the longest utterance."""
    longest = prepare(torch.from_numpy(waveform(UTTERANCES[1])))[None]
    with torch.no_grad(), torch_attention() as weights:
        output = model(longest, output_attentions=True)
    weights = weights or output.attentions
    return {
        "attention_entropy": [entropy(layer) for layer in weights],
        "state_rms": state_rms(arrays, model.config.num_hidden_layers),
    }


def make_golden(out: Path) -> None:
    """Writes `<case>_<scale>.json` and `.npz` for every case and both scales."""
    for case, (family, seed, fields, flags) in CASES.items():
        processor = Wav2Vec2FeatureExtractor(**flags)
        check_processor(processor)
        normalise, masked = normaliser(flags["do_normalize"]), flags["return_attention_mask"]
        for scale in ("usual", "lively"):
            model = build(family, fields, seed, scale)
            arrays, frames = compute(model, runner(model, masked), normalise, torch.float32, short=True)
            exact_model = build(family, fields, seed, scale).double()
            exact, _ = compute(exact_model, runner(exact_model, masked), normalise, torch.float64, short=True)
            notes = [
                "transformers as installed, nothing patched; eager attention; dropouts 0, eval mode; no equal/* and no "
                "padded/grad/*. The last state is last_hidden_state",
                "with attention mask"
                if masked
                else "without attention mask, so padded frames take part in everything; "
                "padded/frames counts those of the length formula",
            ]
            if flags == NORMALISED:
                # The processor, left to itself, has no mask to tell it where an utterance ends.
                batch = processor([waveform(s) for s in UTTERANCES], padding=True, return_tensors="pt")
                with torch.no_grad():
                    whole = model(batch["input_values"], output_hidden_states=True)
                for k, state in enumerate([*whole.hidden_states[:-1], whole.last_hidden_state]):
                    arrays[f"processor/{k}"] = state
                notes.append("processor/*: the batch as the processor pads it, normalised over zeros and all")
            with tempfile.TemporaryDirectory() as folder:
                save(model, processor, Path(folder))
                with safetensors.safe_open(Path(folder) / "model.safetensors", "pt") as file:
                    assert sorted(file.keys()) == sorted(model.state_dict())
                config, flags_file = (
                    read_json(Path(folder) / name) for name in ("config.json", "preprocessor_config.json")
                )
            about = {
                "case": f"{case}_{scale}",
                "family": family_name(family, fields),
                "dialect": "huggingface",
                **provenance(versions(), "make_transformers.py golden"),
                "notes": ". ".join(notes),
                "class": type(model).__name__,
                "hf_config": config,
                "preprocessor": flags_file,
                "normalize": flags["do_normalize"],
                "seed": seed,
                "scale": scale,
            }
            write_case(out, about, model, arrays, exact, frames, health(model, normalise, arrays))


# --------------------------------------------------------------------------------------------------------------------
# Tiny folders in the ways transformers has written them

SMALL = {
    "conv_dim": [8] * 7,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
HEADS = {
    "vocab_size": 8,
    "num_codevectors_per_group": 4,
    "num_codevector_groups": 2,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}
TINY, TINY_LARGE, TINY_DATA2VEC = ({**fields, **SMALL} for fields in (BASE, LARGE, DATA2VEC))
VOCABULARY = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "A"))}


def fill_folder_model(model: PreTrainedModel, seed: int, legacy: bool) -> None:
    """Generated weights, by the names that the folder will hold."""
    names = {legacy_name(name) if legacy else name: name for name in model.state_dict()}
    shapes = {name: {"shape": list(model.state_dict()[own].shape)} for name, own in names.items()}
    values = {names[name]: torch.from_numpy(value) for name, value in tensors(shapes, seed, "lively").items()}
    model.load_state_dict(values, strict=True)


def legacy_name(name: str) -> str:
    """The name that a tensor had before torch 2 changed how weight norm is spelled."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


class Folders:
    """Writes the folders, and collects what transformers computes with each."""

    def __init__(self, out: Path) -> None:
        """Writes into `out`."""
        self.out = out
        self.documents: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def add(
        self,
        name: str,
        about: str,
        family: str,
        head: str,
        seed: int,
        fields: Mapping[str, Any],
        flags: Mapping[str, bool],
        *,
        legacy: bool = False,
        container: Callable[[PreTrainedModel, Path], None] | None = None,
        tokenizer: bool = False,
        preprocessor: bool = True,
    ) -> None:
        """Writes a folder and reads it back.

        Args:
            name: Name of the folder.
            about: What is special about it.
            family: Name of the family's classes.
            head: What comes after it in the class's name.
            seed: Seed of its weights.
            fields: Its configuration.
            flags: Those of its processor.
            legacy: Weight norm as before torch 2.
            container: Writes the weights in another way than `save_pretrained` does.
            tokenizer: Write a letter tokenizer too.
            preprocessor: Write `preprocessor_config.json`, which every released folder has. Where there is a tokenizer,
                transformers 5 writes `processor_config.json` instead, with the same inside.
        """
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        kind = getattr(transformers, f"{family}{head}")
        model = kind(make_config(family, fields)).eval()
        fill_folder_model(model, seed, legacy)
        processor: Any = Wav2Vec2FeatureExtractor(**flags)
        if tokenizer:
            with tempfile.TemporaryDirectory() as scratch:
                vocabulary = Path(scratch) / "vocab.json"
                vocabulary.write_text(json.dumps(VOCABULARY), encoding="utf-8")
                processor = Wav2Vec2Processor(processor, Wav2Vec2CTCTokenizer(str(vocabulary)))
        save(model, processor, folder)
        if tokenizer and preprocessor:
            processor.feature_extractor.save_pretrained(folder)
        if legacy:
            rename_and_resave(kind, folder)
        if container is not None:
            (folder / "model.safetensors").unlink()
            container(model, folder)

        loaded, info = kind.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        expected, actual = model.state_dict(), loaded.state_dict()
        assert expected.keys() == actual.keys()
        assert all(torch.equal(actual[key], value) for key, value in expected.items())
        wave = normaliser(flags["do_normalize"])(torch.from_numpy(waveform(UTTERANCE)))[None]
        loaded.eval()
        with torch.no_grad():
            base = loaded.base_model
            self.arrays[f"{name}/last"] = base(wave).last_hidden_state[0].numpy()
            if head == "ForCTC":
                self.arrays[f"{name}/logits"] = loaded(wave).logits[0].numpy()
        stored = stored_tensors(folder)
        self.documents[name] = {
            "about": about,
            "class": kind.__name__,
            "family": family_name(family, fields),
            "normalize": flags["do_normalize"],
            "files": sorted(path.name for path in folder.iterdir()),
            "seed": seed,
            "scale": "lively",
            "state": {key: {"shape": list(shape), "dtype": "float32"} for key, shape in sorted(stored.items())},
        }
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1000
        print(f"{name}: {len(stored)} tensors, {size:.0f} kB, {self.documents[name]['files']}")


def rename_and_resave(kind: type[PreTrainedModel], folder: Path) -> None:
    """Turns a folder into one with the old spelling, and lets transformers read and write it, which keeps that."""
    path = folder / "model.safetensors"
    save_file({legacy_name(name): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    kind.from_pretrained(folder).save_pretrained(folder)
    names = list(load_file(path))
    assert any(name.endswith("weight_v") for name in names) and not any("parametrizations" in name for name in names)


def stored_tensors(folder: Path) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a folder's weight files."""
    found: dict[str, torch.Size] = {}
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        assert not found.keys() & state.keys()
        found.update({name: value.shape for name, value in state.items()})
    return found


def write_bin(model: PreTrainedModel, folder: Path) -> None:
    """`pytorch_model.bin`, as transformers 4 wrote it."""
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def write_sharded_bin(model: PreTrainedModel, folder: Path) -> None:
    """Two `.bin` shards with their index, as transformers 4 wrote them."""
    state = model.state_dict()
    names = list(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for name, part in halves.items():
        torch.save({key: state[key] for key in part}, folder / name)
    size = sum(value.numel() * value.element_size() for value in state.values())
    weight_map = {key: name for name, part in halves.items() for key in part}
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_sharded(model: PreTrainedModel, folder: Path) -> None:
    """Several safetensors shards with their index, by transformers itself."""
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def make_folders(out: Path) -> None:
    """Writes every folder, and what transformers computes with them."""
    folders = Folders(out)
    add = folders.add
    add("base_safetensors", "bare model, no prefix", "Wav2Vec2", "Model", 141, TINY, NORMALISED)
    add(
        "pretraining_prefix",
        "pre-training heads beside a prefix; weight_g and weight_v",
        "Wav2Vec2",
        "ForPreTraining",
        142,
        {**TINY_LARGE, **HEADS},
        MASKED,
        legacy=True,
    )
    about = "CTC head, vocabulary, tokenizer"
    add("ctc", about, "Hubert", "ForCTC", 143, {**TINY_LARGE, **HEADS}, MASKED, tokenizer=True)
    about = "safetensors shards with index"
    fields = {**TINY_LARGE, "conv_bias": False}
    add("sharded", about, "WavLM", "Model", 144, fields, MASKED, container=write_sharded)
    about = "pytorch_model.bin; a classification head, which is nobody's"
    fields = {**TINY, "classifier_proj_size": 8, "num_labels": 3, "use_weighted_layer_sum": True}
    add("bin", about, "UniSpeechSat", "ForSequenceClassification", 145, fields, RAW, container=write_bin)
    about = "pytorch_model.bin shards with index; batch norm in the positional convolution"
    fields = {**TINY, "conv_pos_batch_norm": True}
    add("bin_sharded", about, "Hubert", "Model", 146, fields, RAW, container=write_sharded_bin)
    about = "a top-level feature_extractor that is a linear layer of the head"
    fields = {**TINY, "tdnn_dim": [8] * 4 + [16], "xvector_output_dim": 8, "num_labels": 3}
    add("xvector", about, "WavLM", "ForXVector", 147, fields, RAW)
    about = "CTC head; the flags of normalisation and mask are in processor_config.json only"
    fields = {**TINY_DATA2VEC, **HEADS}
    add("data2vec_ctc", about, "Data2VecAudio", "ForCTC", 148, fields, MASKED, tokenizer=True, preprocessor=False)
    about = "pre-training heads, among them ctc_proj"
    fields = {**TINY_LARGE, **HEADS, "num_ctc_classes": 6}
    add("unispeech_pretraining", about, "UniSpeech", "ForPreTraining", 149, fields, MASKED)
    about = "pre-training heads, among them layer_norm_for_extract and label_embeddings_concat"
    fields = {**TINY, **HEADS, "num_clusters": 5}
    add("unispeech_sat_pretraining", about, "UniSpeechSat", "ForPreTraining", 150, fields, RAW)
    about = "no norm before the projection: DistilHuBERT"
    add("distilhubert", about, "Hubert", "Model", 151, {**TINY, "feat_proj_layer_norm": False}, RAW)
    about = "a language's adapter after each block, as MMS has it"
    fields = {**TINY_LARGE, **HEADS, "adapter_attn_dim": 4}
    add("mms_ctc", about, "Wav2Vec2", "ForCTC", 152, fields, MASKED, tokenizer=True)
    about = "CTC head; rotary positions, whose frequencies are stored once"
    fields = {**CONFORMER, **SMALL, **HEADS, "position_embeddings_type": "rotary"}
    add("conformer_ctc", about, "Wav2Vec2Conformer", "ForCTC", 151, fields, MASKED, tokenizer=True)
    about = "pre-training heads; relative positions; weight_g and weight_v"
    fields = {**CONFORMER, **SMALL, **HEADS, "position_embeddings_type": "relative"}
    add("conformer_pretraining", about, "Wav2Vec2Conformer", "ForPreTraining", 152, fields, MASKED, legacy=True)
    document = {
        **provenance(versions(), "make_transformers.py folders"),
        "utterance": UTTERANCE,
        "folders": folders.documents,
    }
    assert all(np.isfinite(value).all() for value in folders.arrays.values())
    write(out / "expected", document, folders.arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    prepare()
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "folders": (make_folders, HERE.parent / "data" / "hf")},
        argv,
    )


if __name__ == "__main__":
    main()
