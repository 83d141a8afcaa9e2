"""Converting a large fairseq checkpoint with optimiser state, beside copying the bytes that are kept.

`ZOO_BENCH_GIB=4` makes it a larger one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from zoo._tensors import Made
from zoo.converters._sink import write_torch_file

ROOT = Path(__file__).resolve().parent.parent
GIB = float(os.environ.get("ZOO_BENCH_GIB", "2"))
ROUNDS = 5
MEMORY_LIMIT_MIB = 400
SPEED_LIMIT = 0.5
WIDTH, INNER = 1024, 4096
LAYER_BYTES = 4 * 12_596_224

# Converts in a fresh process, and watches its anonymous memory over that of `import torch`.
CHILD = """
import json, sys, threading, time, torch

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

before = peak = anonymous()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
import zoo.convert
start = time.perf_counter()
status = zoo.convert.main([*sys.argv[1:], "--force", "--json"])
seconds = time.perf_counter() - start
done.set()
watcher.join()
print(json.dumps({"seconds": seconds, "mib": (peak - before) / 1024}), file=sys.stderr)
sys.exit(status)
"""


def checkpoint(path: Path, layers: int) -> None:
    """A fairseq checkpoint of a pre-norm wav2vec 2.0 with Adam's two moments of every parameter."""
    block = torch.randn(1 << 20)

    def tensor(*shape: int) -> Made:
        numel = torch.Size(shape).numel()
        return Made(torch.float32, shape, lambda: block.repeat(-(-numel // block.numel()))[:numel])

    both = lambda name, *shape: {f"{name}.weight": tensor(*shape), f"{name}.bias": tensor(shape[0])}  # noqa: E731
    model = {"mask_emb": tensor(WIDTH)}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        conv = f"feature_extractor.conv_layers.{i}"
        model |= both(f"{conv}.0", 512, 1 if i == 0 else 512, kernel) | both(f"{conv}.2.1", 512)
    model |= both("layer_norm", 512) | both("post_extract_proj", WIDTH, 512) | both("encoder.layer_norm", WIDTH)
    model |= {
        "encoder.pos_conv.0.bias": tensor(WIDTH),
        "encoder.pos_conv.0.weight_g": tensor(1, 1, 128),
        "encoder.pos_conv.0.weight_v": tensor(WIDTH, WIDTH // 16, 128),
    }
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            model |= both(f"{layer}.self_attn.{name}", WIDTH, WIDTH)
        model |= both(f"{layer}.self_attn_layer_norm", WIDTH) | both(f"{layer}.final_layer_norm", WIDTH)
        model |= both(f"{layer}.fc1", INNER, WIDTH) | both(f"{layer}.fc2", WIDTH, INNER)
    moments = {
        i: {"step": 1000, "exp_avg": tensor(*t.shape), "exp_avg_sq": tensor(*t.shape)}
        for i, t in enumerate(model.values())
    }
    config = {
        "_name": "wav2vec2",
        "extractor_mode": "layer_norm",
        "conv_bias": True,
        "encoder_layers": layers,
        "encoder_embed_dim": WIDTH,
        "encoder_ffn_embed_dim": INNER,
        "encoder_attention_heads": 16,
        "layer_norm_first": True,
    }
    root: dict[str, Any] = {
        "args": None,
        "cfg": {"model": config, "task": {"_name": "audio_pretraining", "normalize": True}},
        "model": model,
        "optimizer_history": [{"num_updates": 1000}],
        "last_optimizer_state": {"state": moments, "param_groups": []},
    }
    write_torch_file(path, root)


def copy_kept_bytes(source: Path, target: Path) -> float:
    """Seconds that reading the bytes of a file and writing them to another takes."""
    start = perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
    return perf_counter() - start


@pytest.mark.benchmark(group=f"convert a fairseq checkpoint of {GIB:g} GiB")
def test_convert(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    source, native, copy = tmp_path / "large.pt", tmp_path / "large.safetensors", tmp_path / "copy"
    checkpoint(source, max(1, round(GIB * 2**30 / 3 / LAYER_BYTES)))
    runs: list[dict[str, float]] = []
    copies: list[float] = []

    def convert() -> None:
        native.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(source), "-o", str(native)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stderr.splitlines()[-1]))
        copies.append(copy_kept_bytes(native, copy))

    benchmark.pedantic(convert, rounds=ROUNDS, warmup_rounds=1)
    seconds, copying = (sorted(times)[len(times) // 2] for times in ([run["seconds"] for run in runs], copies))
    memory_mib = max(run["mib"] for run in runs)
    benchmark.extra_info.update(
        source_bytes=source.stat().st_size,
        kept_bytes=native.stat().st_size,
        convert_s=seconds,
        copy_s=copying,
        speed_over_copying=copying / seconds,
        anonymous_mib=memory_mib,
    )
    print(json.dumps(benchmark.extra_info))
    assert memory_mib <= MEMORY_LIMIT_MIB
    assert copying / seconds >= SPEED_LIMIT
