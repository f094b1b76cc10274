"""SAM's image encoder on a batch, beside those of other libraries and a matrix product of its size."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from benchmarks.harness import OURS, Findings, against, take_turns
from benchmarks.settings import Settings
from regionspot_cache.backbones.costs import network_cost
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam_build import PUBLISHED, random_sam
from regionspot_cache.extraction.devices import resolve_device

THEIRS, TRANSFORMERS, PRODUCT = "segment_anything", "transformers", "torch.mm"
CALLS = 5


def measure(settings: Settings, folder: Path) -> Findings:
    """All in turns, with random weights, on the device at hand in float32."""
    device = torch.device(resolve_device(settings.device))
    model, batch = settings.encoder.model, settings.encoder.batch_size
    sizes = PUBLISHED[model]["image_encoder"]
    width, side = sizes["embed_dim"], sizes["img_size"]
    cells, hidden = (side // sizes["patch_size"]) ** 2, int(sizes["mlp_ratio"] * width)
    networks = {name: network.eval().to(device) for name, network in _networks(sizes, model).items()}
    images = torch.randn(batch, 3, side, side, device=device)
    rows, matrix = torch.randn(cells, width, device=device), torch.randn(width, hidden, device=device)
    work: dict[str, Callable[[], Any]] = {name: partial(of, images) for name, of in networks.items()}
    work[PRODUCT] = lambda: rows @ matrix
    contenders = {name: partial(_seconds, call, device) for name, call in work.items()}
    runs = take_turns(contenders, settings.repeats)
    cost = batch * network_cost(SamSpec(model=model, weights="random:0")).image_gflops
    done = {OURS: cost, PRODUCT: 2e-9 * cells * width * hidden}
    rates = {name: [gflop / seconds for seconds in runs[name]] for name, gflop in done.items()}
    threads = f"{torch.get_num_threads()} threads of {device.type}"
    what = f"image encoder of {model}, batch of {batch}, float32, {threads}"
    return [
        *against(what, "s", {name: runs[name] for name in networks}, lower=True),
        *against(f"the same, {cost:.0f} GFLOP", "GFLOP/s", rates, goals={PRODUCT: ">= 0.6x"}),
        f"{PRODUCT}: [{cells},{width}] by [{width},{hidden}], the first layer of an MLP.",
        f"segment-anything-fast: not measured, {'not installed' if device.type == 'cuda' else 'no GPU'}.",
        *([] if TRANSFORMERS in networks else [f"{TRANSFORMERS}: not installed, not measured."]),
    ]


def _networks(sizes: Mapping[str, Any], model: str) -> dict[str, nn.Module]:
    """Ours and segment_anything's of the same random weights, and that of transformers."""
    ours = random_sam(PUBLISHED[model], 0).image_encoder
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    theirs = ImageEncoderViT(**sizes, norm_layer=norm)
    theirs.load_state_dict(ours.state_dict())
    found: dict[str, nn.Module] = {OURS: ours, THEIRS: theirs}
    if find_spec("transformers") is None:
        return found
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    config = SamVisionConfig(
        hidden_size=sizes["embed_dim"],
        output_channels=sizes["out_chans"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["num_heads"],
        image_size=sizes["img_size"],
        patch_size=sizes["patch_size"],
        mlp_ratio=sizes["mlp_ratio"],
        window_size=sizes["window_size"],
        global_attn_indexes=sizes["global_attn_indexes"],
        initializer_range=0.02,
    )
    return found | {TRANSFORMERS: SamVisionEncoder(config)}


@torch.inference_mode()
def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of the quickest of a few calls, that of work which takes longer than a second of the only one."""
    best = math.inf
    for _ in range(CALLS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        if best > 1:
            break
    return best
