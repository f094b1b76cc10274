"""SAM's image encoder on one image, beside segment_anything's own and a matrix product of its size."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from benchmarks.harness import OURS, Findings, against, take_turns
from benchmarks.settings import Settings
from regionspot_cache.backbones.costs import network_cost
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam_build import PUBLISHED, random_sam
from regionspot_cache.extraction.devices import resolve_device

THEIRS, PRODUCT = "segment_anything", "torch.mm"
CALLS = 5


def measure(settings: Settings, folder: Path) -> Findings:
    """All in turns, with random weights, on the device at hand in float32."""
    device = torch.device(resolve_device(settings.device))
    model = settings.encoder.model
    sizes = PUBLISHED[model]["image_encoder"]
    width, side = sizes["embed_dim"], sizes["img_size"]
    cells, hidden = (side // sizes["patch_size"]) ** 2, int(sizes["mlp_ratio"] * width)
    ours, theirs = _networks(model, device)
    image = torch.randn(1, 3, side, side, device=device)
    rows, matrix = torch.randn(cells, width, device=device), torch.randn(width, hidden, device=device)
    work: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ours(image),
        THEIRS: lambda: theirs(image),
        PRODUCT: lambda: rows @ matrix,
    }
    runs = take_turns(
        {name: partial(_seconds, call, device) for name, call in work.items()}, settings.repeats
    )
    cost = network_cost(SamSpec(model=model, weights="random:0")).image_gflops
    done = {OURS: cost, PRODUCT: 2e-9 * cells * width * hidden}
    rates = {name: [gflop / seconds for seconds in runs[name]] for name, gflop in done.items()}
    what = f"image encoder of {model}, one image, float32, {torch.get_num_threads()} threads of {device.type}"
    return [
        *against(what, "s", {name: runs[name] for name in (OURS, THEIRS)}, lower=True),
        *against(f"the same, {cost:.0f} GFLOP", "GFLOP/s", rates, goals={PRODUCT: ">= 0.6x"}),
        f"{PRODUCT}: [{cells},{width}] by [{width},{hidden}], the first layer of an MLP.",
        f"segment-anything-fast: not measured, {'not installed' if device.type == 'cuda' else 'no GPU'}.",
    ]


def _networks(model: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and segment_anything's of the same random weights."""
    ours = random_sam(PUBLISHED[model], 0).image_encoder
    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    theirs = ImageEncoderViT(**PUBLISHED[model]["image_encoder"], norm_layer=norm)
    theirs.load_state_dict(ours.state_dict())
    return ours.eval().to(device), theirs.eval().to(device)


@torch.inference_mode()
def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
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
