"""s3prl's `S3PRLUpstream` and `Featurizer` on the zoo's models, and `install()` for programs that import s3prl itself.

Calls, outputs, frame rule and layer order are those of s3prl 0.4.18, `s3prl/nn/upstream.py` and the `hubconf.py` and
`expert.py` of each `s3prl/upstream` (Apache-2.0), read for facts. docs/migrating.md says what differs.

Shapes: B batch, S samples, T frames, D width, N predictions of DistilHuBERT.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import _hub
from zoo._checkpoint import load, load_named
from zoo._registry import families, find, info, list_models
from zoo.converters import MADE_UP, dialects
from zoo.converters._rows import forward
from zoo.errors import CheckpointError, InputError, ZooError, shown
from zoo.models._family import Model

MIN_SAMPLES = 800  # to so many, 0.05 s, a batch of shorter clips is filled with zeros
# What stands before _local, _url or _custom in s3prl's name for a checkpoint of one's own -> the families it means.
KINDS: Mapping[str, frozenset[str]] = {
    **{kind: frozenset({kind}) for kind in ("hubert", "data2vec", "wavlm", "unispeech_sat", "tera")},
    "wav2vec2": frozenset({"wav2vec2", "wav2vec2_conformer"}),
    "distiller": frozenset({"distilhubert"}),
    "mockingjay": frozenset({"tera"}),
    "audio_albert": frozenset({"tera"}),
}
HUGGING_FACE: Mapping[str, frozenset[str]] = {
    "hf_wav2vec2_custom": frozenset({"wav2vec2"}),
    "hf_hubert_custom": frozenset({"hubert", "distilhubert"}),
}
GENERIC: Mapping[str, frozenset[str]] = {
    **{f"{kind}_{form}": meant for kind, meant in KINDS.items() for form in ("local", "url", "custom")},
    **HUGGING_FACE,
}
# Family -> where the state dict of s3prl's upstream has the tensors, and the dialect that gives them the same names;
# none where the names are the zoo's.
PLACES: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("wav2vec2", "wav2vec2_conformer", "hubert", "data2vec"), ("model.", "fairseq")),
    **dict.fromkeys(("wavlm", "unispeech_sat"), ("model.", "microsoft")),
    "distilhubert": ("model.model.", "s3prl_distiller"),
    "tera": ("transformer.model.", None),
}
CONSTANTS = ("extracter.", "transformer.extracter.")  # of spectral front ends

_folder: Path | None = None  # of downloads; None: the zoo's cache


def set_dir(folder: str | os.PathLike[str]) -> None:
    """Keep what is downloaded from now on in this folder (s3prl's `s3prl.util.download.set_dir`)."""
    global _folder
    _folder = Path(folder)


def options(only_registered_ckpt: bool = False) -> list[str]:
    """Every name that `S3PRLUpstream` takes.

    Args:
        only_registered_ckpt: leave out those that need a path or URL.
    """
    takes = {name: getattr(family.model, "takes", "waveforms") for name, family in families().items()}
    known = [one for one in map(info, list_models()) if takes[one.family] == "waveforms"]
    names = {name for one in known for name in (one.name, *one.aliases)}
    return sorted(names if only_registered_ckpt else names | GENERIC.keys())


class Upstream(nn.Module):
    """A model behind the interface of what s3prl's hub returns.

    Its state dict has the zoo's names. It also loads one with s3prl's, such as trained ESPnet models hold.

    Attributes:
        model: the zoo's model. Where s3prl's has one, its `feature_grad_mult` scales the gradient that reaches the
            convolutional front end; s3prl sets it to 0, so that the front end is not trained unless it is changed.
    """

    def __init__(self, model: Any, hugging_face: bool = False) -> None:
        super().__init__()
        self.model = model
        family = model.config.family
        self.place = ("model.", "huggingface") if hugging_face else PLACES.get(family, ("model.", None))
        self.predicts = family == "distilhubert" and not hugging_face
        if hasattr(getattr(model, "encoder", None), "layerdrop"):
            model.encoder.layerdrop = 0.0
        if hasattr(model, "feature_extractor") and not self.predicts and not hugging_face:
            model.feature_grad_mult = 0.0
            model.feature_extractor.register_forward_hook(self._scale_gradient)
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples from one frame to the next; the same for every `key`."""
        return int(self.model.hop_length)

    @property
    def widths(self) -> list[int]:
        """D of each hidden state."""
        widths = [int(self.model.config.width)] * (self.model.num_layers + 1)
        if self.predicts:
            number, _, width = self.model.heads.get_parameter("output_layer.2.weight").shape
            widths += [width] * number
        return widths

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Hidden states of some waveforms.

        Args:
            wavs: 1-D floating point tensors at 16 kHz.

        Returns:
            "hidden_states": a tuple of (B, T, D), from what enters the first layer to the encoder's output;
            "last_hidden_state" and "hidden_state_0", "hidden_state_1", ...: one of them.
        """
        states = self._distilled(wavs) if self.predicts else self.model(list(wavs)).hidden_states
        each = {f"hidden_state_{i}": state for i, state in enumerate(states)}
        return {"hidden_states": states, "last_hidden_state": states[-1], **each}

    def _distilled(self, wavs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The projection where other models list what enters the first layer; the layers; what the heads predict."""
        entered: list[Tensor] = []
        hook = self.model.encoder.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
        try:
            _, *layers = self.model(list(wavs)).hidden_states
        finally:
            hook.remove()
        inner, outer = (self.model.heads.get_submodule(f"output_layer.{i}") for i in (0, 2))
        x = F.gelu(F.linear(layers[-1], inner.weight, inner.bias))
        x = x.reshape(*x.shape[:2], *outer.weight.shape[:2])
        predictions = torch.einsum("btni,nio->btno", x, outer.weight) + outer.bias
        return (*entered, *layers, *predictions.unbind(2))

    def _scale_gradient(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        scale, fixed = self.model.feature_grad_mult, output.detach()
        if scale == 1 or not output.requires_grad:
            return output
        return fixed + scale * (output - fixed) if scale > 0 else fixed


def _rename(module: Upstream, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give what s3prl saved the zoo's names; leave out constants, and what only pre-training used."""
    for key in [key for key in state if key.startswith(tuple(prefix + constants for constants in CONSTANTS))]:
        del state[key]
    own = {prefix + name for name in module.state_dict()}
    if own <= state.keys():
        return
    place, dialect = module.place
    theirs = [key.removeprefix(prefix + place) for key in state if key.startswith(prefix + place)]
    names = {key: key for key in theirs}
    if dialect is not None:
        rows = [row for keys in dialects()[dialect].keys(module.model.config) for row in keys.rows]
        names = forward(rows, theirs)
    found = {f"{prefix}model.{name}": state.pop(prefix + place + key) for key, name in names.items()}
    state.update({name: tensor for name, tensor in found.items() if name in own})
    for name in MADE_UP & dict(module.model.named_parameters()).keys():
        state.setdefault(f"{prefix}model.{name}", module.model.get_parameter(name).detach())


def upstream(
    name: str,
    ckpt: str | os.PathLike[str] | None = None,
    *,
    refresh: bool = False,
    padding: str = "reference",
    fairseq: bool = False,
    legacy: bool = False,
    **unknown: Any,
) -> Upstream:
    """What s3prl's hub entry of this name returns, in training mode.

    Args:
        name: one of `options()`.
        ckpt: of a name that ends in _local, _url or _custom: path or URL of the checkpoint, or for hf_hubert_custom
            and hf_wav2vec2_custom a folder or the name of a Hugging Face repository.
        refresh: download again what has been downloaded before.
        padding: "reference": a padded batch gives what it gives in s3prl; "exact": each utterance what it gives alone.
        fairseq: says in s3prl that the checkpoint is fairseq's own; here the file itself says so.
        legacy: the same.
        unknown: refused.

    Raises:
        UnknownModelError: for an unknown name.
        InputError: for an option that is not known, or a checkpoint that is missing or one too many.
        CheckpointError: when the checkpoint cannot be used, or is of another family than the name says.
    """
    if unknown:
        raise InputError(
            f"{name!r} was asked for with the option {', '.join(sorted(unknown))}, which the zoo does not have; "
            "it has fairseq, legacy, padding and refresh"
        )
    hugging_face = name in HUGGING_FACE
    model = _load(name, ckpt, refresh)
    model.padding = padding
    config: Any = model.config
    family = config.family
    if family not in GENERIC.get(name, {family}):
        raise CheckpointError(f"{name!r} was asked for, but {ckpt} holds a model of the family {family}")
    if hugging_face and hasattr(config, "attention_mask"):  # s3prl asks the processor for masks, whatever it says
        model.config = replace(config, attention_mask=True)
    if hugging_face or family != "distilhubert":
        model.heads = None
    elif model.heads is None or "output_layer.2.weight" not in dict(model.heads.named_parameters()):
        raise CheckpointError(
            f"{ckpt or name} holds no predictions of DistilHuBERT, which s3prl lists; give the file that s3prl wrote"
        )
    return Upstream(model, hugging_face).train()


def _load(name: str, ckpt: str | os.PathLike[str] | None, refresh: bool) -> Model:
    """The model of one of s3prl's names; a file that happens to be called like a registry name is not looked at."""
    options = _hub.Options(cache_dir=_folder, refresh=refresh)
    if name not in GENERIC:
        find(name)
        if ckpt is not None:
            raise InputError(f"{name!r} has a checkpoint of its own, but {ckpt} was given; leave one of them out")
        return load_named(name, True, options)
    if ckpt is None:
        raise InputError(f"{name!r} was asked for without a checkpoint; give its path or URL")
    if str(ckpt).startswith(("http://", "https://")):
        ckpt = _hub.download_url(str(ckpt), cache_dir=_folder, refresh=refresh)
    elif name in HUGGING_FACE and not Path(ckpt).exists():
        return load_named(f"hf:{str(ckpt).removeprefix('hf:')}", True, options)
    return load(ckpt, heads=True)


class S3PRLUpstream(nn.Module):
    """Hidden states of any model under s3prl's interface; in training mode when made, as s3prl's is.

    Args:
        name: one of `available_names()`.
        path_or_url: the checkpoint of a name that ends in _local, _url or _custom.
        refresh: download again what has been downloaded before.
        normalize: layer norm, without parameters, of every hidden state.
        extra_conf: further arguments of `upstream`, such as {"padding": "exact"}.
        randomize: random weights.

    Raises:
        ZooError: what `upstream` raises.
    """

    def __init__(
        self,
        name: str,
        path_or_url: str | os.PathLike[str] | None = None,
        refresh: bool = False,
        normalize: bool = False,
        extra_conf: Mapping[str, Any] | None = None,
        randomize: bool = False,
    ) -> None:
        super().__init__()
        self.upstream = upstream(name, **{"ckpt": path_or_url, "refresh": refresh, **(extra_conf or {})})
        self.normalize = normalize
        if randomize:
            _randomize(self.upstream)

    @classmethod
    def available_names(cls, only_registered_ckpt: bool = False) -> list[str]:
        """Every name; `only_registered_ckpt` leaves out those that need a path or URL."""
        return options(only_registered_ckpt)

    @property
    def num_layers(self) -> int:
        """Number of hidden states."""
        return len(self.hidden_sizes)

    @property
    def downsample_rates(self) -> list[int]:
        """Samples from one frame to the next, for each hidden state."""
        return [self.upstream.get_downsample_rates()] * self.num_layers

    @property
    def hidden_sizes(self) -> list[int]:
        """D of each hidden state."""
        return self.upstream.widths

    def forward(self, wavs: Tensor, wavs_len: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states of a batch, with one frame for each `downsample_rates` samples or part of them.

        The last frame is repeated where the model gives fewer. A batch shorter than 0.05 s is filled with zeros first.

        Args:
            wavs: (B, S) or (B, S, 1) at 16 kHz.
            wavs_len: (B,) integers, samples of each utterance.

        Returns:
            For each hidden state (B, T, D), and (B,) valid frames.

        Raises:
            InputError: for lengths that the waveforms do not have.
        """
        if wavs.dim() == 3:
            wavs = wavs.squeeze(-1)
        counts = wavs_len.tolist()
        if len(counts) != len(wavs) or min(counts) < 1 or max(counts) >= 2 * wavs.shape[1]:  # s3prl's own tolerance
            raise InputError(f"wavs_len is {shown(counts)}; wavs of the shape {tuple(wavs.shape)} need others")
        short = max(0, MIN_SAMPLES - max(counts))
        longest = max(counts) + short
        states = self.upstream([F.pad(wav[:n], (0, short)) for wav, n in zip(wavs, counts)])["hidden_states"]
        all_hs, all_lens = [], []
        for h, rate in zip(states, self.downsample_rates):
            missing = -(-longest // rate) - h.shape[1]
            if missing > 0:
                h = torch.cat([h, h[:, -1:].expand(-1, missing, -1)], 1)
            h_len = torch.div(wavs_len - 1, rate, rounding_mode="floor") + 1
            h = h[:, : -(-max(counts) // rate)]
            all_hs.append(F.layer_norm(h, h.shape[-1:]) if self.normalize else h)
            all_lens.append(h_len)
        return all_hs, all_lens


def _randomize(module: nn.Module) -> None:
    """New matrices and convolutions by Glorot's rule; biases and norms normal, with their own mean and deviation."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter.normal_(float(parameter.mean()), float(parameter.std(correction=0)))
            else:
                nn.init.xavier_normal_(parameter)


class Featurizer(nn.Module):
    """One hidden state of many: their sum, with weights that are learnt, softmax over `weights`.

    An upstream with one hidden state has no `weights`.

    Args:
        upstream: whose hidden states will be given; it is not kept.
        layer_selections: the hidden states to sum, negatives from the end; None: all.
        normalize: layer norm, without parameters, of every hidden state before the sum.

    Raises:
        InputError: for an upstream whose hidden states differ in width, or layers that it does not have.
    """

    def __init__(
        self, upstream: S3PRLUpstream, layer_selections: Sequence[int] | None = None, normalize: bool = False
    ) -> None:
        super().__init__()
        sizes = upstream.hidden_sizes
        if len(set(sizes)) > 1:
            raise InputError(f"hidden states of the widths {shown(sizes)} cannot be summed; they must be equally wide")
        self._output_size = sizes[0]
        self._downsample_rate = upstream.downsample_rates[0]
        self.normalize = normalize
        if len(sizes) > 1:
            chosen = range(len(sizes)) if layer_selections is None else layer_selections
            self.layer_selections = sorted(i % len(sizes) for i in chosen if -len(sizes) <= i < len(sizes))
            if not 0 < len(chosen) == len(set(self.layer_selections)):
                raise InputError(
                    f"layer_selections is {shown(layer_selections)}; give different numbers from 0 to {len(sizes) - 1}"
                )
            self.weights = nn.Parameter(torch.zeros(len(chosen)))

    @property
    def output_size(self) -> int:
        """D."""
        return self._output_size

    @property
    def downsample_rate(self) -> int:
        """Samples from one frame to the next."""
        return self._downsample_rate

    def forward(self, all_hs: Sequence[Tensor], all_lens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted sum; a single hidden state is returned as it is.

        Args:
            all_hs: every hidden state of the upstream (B, T, D), or a single one.
            all_lens: (B,) valid frames for each.

        Returns:
            (B, T, D) and (B,).
        """
        if len(all_hs) == 1:
            return all_hs[0], all_lens[0]
        states = torch.stack([all_hs[i] for i in self.layer_selections])
        if self.normalize:
            states = F.layer_norm(states, states.shape[-1:])
        weights = F.softmax(self.weights, dim=-1).view(-1, 1, 1, 1)
        return (weights * states).sum(0), all_lens[0]


def install() -> None:
    """Let `import s3prl` find this module's classes, in this process, where s3prl itself is not installed.

    There are `s3prl.nn`, `s3prl.hub` with an entry for every name, and `s3prl.util.download.set_dir`. ESPnet's front
    end uses no more (espnet/espnet `espnet2/asr/frontend/s3prl.py`, 04325641, Apache-2.0, read for facts). A second
    call does nothing.

    Raises:
        ZooError: when s3prl itself is there.
    """
    there = sys.modules.get("s3prl")
    if getattr(there, "install", None) is install:
        return
    if there is not None or importlib.util.find_spec("s3prl") is not None:
        raise ZooError(
            "s3prl itself is installed here, and programs would go on using it; uninstall it, or import "
            "S3PRLUpstream and Featurizer from zoo.compat.s3prl"
        )
    classes = {"S3PRLUpstream": S3PRLUpstream, "Featurizer": Featurizer}
    contents: dict[str, dict[str, Any]] = {
        "s3prl": {"install": install},
        "s3prl.nn": classes,
        "s3prl.nn.upstream": classes,
        "s3prl.hub": {"options": options, **{name: partial(upstream, name) for name in options()}},
        "s3prl.util": {},
        "s3prl.util.download": {"set_dir": set_dir},
    }
    for name, content in contents.items():
        module = ModuleType(name, f"What {__name__} gives programs that import {name}.")
        module.__spec__ = ModuleSpec(name, None, is_package=name in ("s3prl", "s3prl.nn", "s3prl.util"))
        if module.__spec__.submodule_search_locations is not None:
            module.__path__ = []
        module.__dict__.update(content)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
