"""Hugging Face folders that are incomplete, contradictory or hostile: one clear sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.errors import CheckpointError

FOLDERS = Path(__file__).parent / "data" / "hf"


def copy(name: str, to: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / name, to / name, copy_function=shutil.copyfile))


def edit_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))

    return edit


def weight_map(**changes: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        content = json.loads(path.read_text())
        content["weight_map"] |= changes
        path.write_text(json.dumps(content))

    return edit


def tensors(**changes: torch.Tensor | None) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        for name, value in changes.items():
            state.pop(name, None)
            if value is not None:
                state[name] = value
        save_file(state, folder / "model.safetensors")

    return edit


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("sharded", weight_map(x="../../secret.safetensors"), "no weight_map from tensors to files of its folder"),
        ("sharded", weight_map(x="/etc/passwd"), "no weight_map from tensors to files of its folder"),
        ("sharded", weight_map(x="absent.safetensors"), "names the file absent.safetensors, which is not"),
        ("sharded", lambda f: (f / "model.safetensors.index.json").write_text("[]"), "a list instead of an object"),
        ("sharded", lambda f: (f / "model.safetensors.index.json").write_text("{}"), "no weight_map"),
        ("ctc", lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        ("ctc", lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
        ("ctc", lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 40), "is a damaged safetensors file"),
        ("ctc", lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        ("ctc", edit_json("config.json", model_type="whisper"), "its model_type is 'whisper'; supported are"),
        ("ctc", edit_json("config.json", feat_proj_layer_norm=False), "no place for: hubert.feature_projection.layer"),
        ("ctc", edit_json("config.json", add_adapter=True), "add_adapter is True in config.json"),
        ("ctc", edit_json("config.json", hidden_act="relu"), "hidden_act is 'relu' in config.json"),
        ("ctc", edit_json("config.json", conv_dim=[8, 8]), "are not lists of one length"),
        ("ctc", edit_json("config.json", num_hidden_layers=3), "parameters that nothing fills: encoder.layers.1"),
        ("ctc", edit_json("config.json", hidden_size="wide"), "'width' cannot be 'wide'"),
        ("ctc", edit_json("preprocessor_config.json", do_normalize="yes"), "'normalize' cannot be 'yes'"),
        ("ctc", tensors(**{"lm_tail.weight": torch.ones(2)}), "no place for: lm_tail.weight"),
        ("ctc", tensors(**{"hubert.encoder.layer_norm.bias": None}), "nothing fills: encoder.layer_norm.bias"),
        ("bin", lambda f: torch.save([1, 2], f / "pytorch_model.bin"), "is no state dict"),
    ],
)  # fmt: skip
def test_refused(name: str, edit: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    edit(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        zoo.load(folder)
    assert "\n" not in str(caught.value)


def test_a_mask_embedding_that_is_not_there_is_made_up_and_said_so(tmp_path: Path) -> None:
    """transformers leaves it out when no masking is configured."""
    folder = copy("ctc", tmp_path)
    tensors(**{"hubert.masked_spec_embed": None})(folder)
    model = zoo.load(folder)
    assert model.provenance["made_up"] == ["masked_spec_embed"]
    assert not model.masked_spec_embed.any()
    assert zoo.load(FOLDERS / "ctc").provenance["made_up"] == []


def test_a_processor_file_decides_and_its_absence_has_a_rule(tmp_path: Path) -> None:
    folder = copy("base_safetensors", tmp_path)
    config = zoo.load(folder).config
    assert (config.normalize, config.normalize_eps, config.padding_rule) == (True, 1e-7, "length")
    edit_json("preprocessor_config.json", do_normalize=False, return_attention_mask=True, sampling_rate=8000)(folder)
    config = zoo.load(folder).config
    assert (config.normalize, config.attention_mask, config.sample_rate) == (False, True, 8000)
    (folder / "preprocessor_config.json").unlink()
    config = zoo.load(folder).config
    assert (config.normalize, config.attention_mask, config.sample_rate) == (False, False, 16000)


def test_other_files_in_the_folder_are_ignored(tmp_path: Path) -> None:
    folder = copy("ctc", tmp_path)
    (folder / "optimizer.pt").write_bytes(b"not a checkpoint")
    (folder / "pytorch_model.bin").write_bytes(b"nor this one")
    assert zoo.load(folder).config.family == "hubert"
