"""Building, loading and saving models."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import _native
from zoo._registry import families, find
from zoo._tensors import Lazy, Made
from zoo.errors import CheckpointError, ConfigError, InputError, cut
from zoo.models._family import Config, Heads, Model, shapes

if TYPE_CHECKING:
    from zoo._hub import Options

HEADS = "heads."


def build(name: str, **overrides: Any) -> Model:
    """The architecture of a registry name with random weights, in eval mode; nothing is downloaded.

    Works under `torch.device("meta")`.

    Args:
        name: a registry name or alias.
        overrides: fields of the configuration to change, such as `num_layers=2`.

    Raises:
        UnknownModelError: for an unknown name.
        ConfigError: for an override that is no field or has no possible value.
    """
    family, preset = find(name)
    return family.model(preset.config.from_dict({**preset.config.to_dict(), **overrides})).eval()


def load(
    name_or_path: str | os.PathLike[str],
    *,
    padding: str = "exact",
    heads: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> Model:
    """A model with the weights of a checkpoint, in eval mode.

    Args:
        name_or_path: a native file, or a checkpoint of another toolkit, which is converted in memory. What exists as
            a path is a path; otherwise it is a registry name, or "hf:org/repo[@revision]" for a repository of Hugging
            Face. Those are fetched and converted once, and cached.
        padding: "exact": an utterance in a batch gives what it gives alone; "reference": the numbers of the file's
            own toolkit for the padded batch.
        heads: also build the heads that the checkpoint has; a CTC head then gives `logits`.
        device: where the model goes; None: the CPU.
        dtype: of its parameters; None: fp32.
        cache_dir: folder of downloaded files; None: $ZOO_CACHE, $XDG_CACHE_HOME/zoo or ~/.cache/zoo.
        local_files_only: never use the network.
        progress: show a progress bar while downloading, if stderr is a terminal.

    Raises:
        UnknownModelError: when there is neither such a path nor such a name.
        DownloadError: when it is not in the cache and cannot be fetched.
        CheckpointError: when the file cannot be used.
        InputError: for an unknown padding mode.
    """
    path = Path(name_or_path)
    if not _exists(path):
        from zoo import _hub  # here, because `import zoo` is to be quick

        model = load_named(str(name_or_path), heads, _hub.Options(cache_dir, local_files_only, progress))
    elif path.is_file() and _native.is_safetensors(path):
        model = _load_native(path, heads)
    else:
        from zoo.converters import open_conversion

        with open_conversion(path) as conversion:
            found, digest = conversion.checkpoint(), conversion.digest_if_cheap()
            model = _fill(_laid_out(found.config), found.tensors, heads, found.provenance)
            if digest is not None:
                model.provenance["sha256"] = digest.result()
    model.padding = padding
    return model if device is None and dtype is None else model.to(device=device, dtype=dtype)


def _exists(path: Path) -> bool:
    """Whether there is such a path; a name that is too long for one is none."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def load_named(name: str, heads: bool, options: Options) -> Model:
    """The model of a registry name or of a repository of Hugging Face; otherwise the error for a missing path."""
    from zoo import _hub

    if not name.startswith("hf:"):
        if os.sep in name or Path(name).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
            raise CheckpointError(
                f"{name} does not exist; give the path of a checkpoint, or a name of `python -m zoo list`"
            )
        if find(name)[1].parameters == 0:
            return build(name)
    with _hub.opened(name, options) as found:
        if isinstance(found, Path):
            return _load_native(found, heads)
        return _fill(_laid_out(found.config), found.tensors, heads, found.provenance)


def _load_native(path: Path, heads: bool) -> Model:
    from zoo.converters import check_depth, match
    from zoo.converters.native import read

    file = _native.NativeFile(path)
    try:
        reading = read(file)
        check_depth(reading)
        model = _laid_out(reading.config)
        match(reading, shapes(model), optional=False)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from None
    return _fill(model, reading.tensors, heads, reading.provenance or {})


def _laid_out(config: Config) -> Model:
    """The model of a configuration, without memory for its parameters."""
    with torch.device("meta"):
        return families()[config.family].model(config)


def _fill(model: Model, tensors: Mapping[str, Lazy], heads: bool, provenance: Mapping[str, Any]) -> Model:
    """Give a model its parameters, floating point in fp32."""

    def read(name: str) -> Tensor:
        value = tensors[name].load()
        if not (value.is_floating_point() or name.startswith(HEADS) or name.endswith(".num_batches_tracked")):
            raise CheckpointError(f"{name} holds {value.dtype} instead of floating point; convert the original again")
        return value.float() if value.is_floating_point() else value

    model.load_state_dict({name: read(name) for name in tensors if not name.startswith(HEADS)}, assign=True)
    beside = [name for name in tensors if name.startswith(HEADS)]
    if heads and beside:
        try:
            model.heads = Heads({name.removeprefix(HEADS): read(name) for name in beside})
        except KeyError as error:  # a name that a module has for something else
            raise CheckpointError(f"its heads have a name that no module can have ({cut(str(error))})") from None
    model.provenance = dict(provenance)
    return model.eval()


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as a native file; the same model gives the same bytes.

    Heads are written when the model was loaded with them. The file appears whole or not at all.

    Raises:
        InputError: when the folder does not exist or the object is no model of the zoo.
    """
    target = Path(path)
    if not isinstance(model, Model):
        raise InputError(f"zoo.save takes a model of the zoo; found {type(model).__name__}")
    if not target.parent.is_dir():
        raise InputError(f"{target} cannot be written: the folder {target.parent} does not exist")
    state = model.state_dict()
    tensors = {name: Made(tensor.dtype, tuple(tensor.shape), tensor.detach) for name, tensor in state.items()}
    _native.write(target, tensors, model.config.to_dict(), model.provenance)
