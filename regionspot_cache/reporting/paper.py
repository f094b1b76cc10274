"""Published numbers to print beside ours: facts of the paper's tables.

Source: "Recognize Any Regions", arXiv 2311.01373, Tables 1 to 6, AP in percent on LVIS v1 val.
"""

from dataclasses import dataclass

PAPER_SOURCE = "Recognize Any Regions, arXiv 2311.01373"

_THREE = "O365, OI, V3D"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperResult:
    """AP on LVIS val, percent; None where the source gives no number.

    Attributes:
        method: as the source names it, or the setting that an ablation varies.
        training_data: the data with region labels or captions; "" for none.
        proposals: whose boxes are recognised: "GT", "RPN" or the detector's name.
        ap_r, ap_c, ap_f: over rare, common and frequent classes.
        ap: over all classes.
    """

    method: str
    training_data: str
    proposals: str
    ap_r: float | None = None
    ap_c: float | None = None
    ap_f: float | None = None
    ap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperCost:
    """One row of Table 2, hours on V100 GPUs."""

    method: str
    backbone: str
    training_data: str
    gpu_hours: float


def _row(
    method: str, data: str, proposals: str, r: float | None, c: float | None, f: float | None, ap: float
) -> PaperResult:
    return PaperResult(method=method, training_data=data, proposals=proposals, ap_r=r, ap_c=c, ap_f=f, ap=ap)


def _ablation(method: str, ap: float) -> PaperResult:
    return _row(method, _THREE, "GLIP-T", None, None, None, ap)


# The row "RegionSpot-BL, O365" repeats the numbers of the RPN row; Table 3 has others for that setting.
PAPER_TABLE1: tuple[PaperResult, ...] = (
    _row("CLIP w/ box", "", "GT", 40.6, 53.1, 59.2, 48.7),
    _row("CLIP w/ mask", "", "GT", 40.8, 53.5, 59.6, 49.2),
    _row("RegionCLIP", "CC3M", "GT", 50.1, 50.1, 51.7, 50.7),
    _row("RegionSpot-BB", _THREE, "GT", 42.0, 45.9, 65.6, 53.0),
    _row("RegionSpot-BL", _THREE, "GT", 50.6, 50.2, 68.8, 56.6),
    _row("RegionCLIP", "CC3M", "RPN", 13.8, 12.1, 9.4, 11.3),
    _row("RegionSpot-BB", _THREE, "RPN", 10.9, 10.2, 13.6, 11.8),
    _row("RegionSpot-BL", _THREE, "RPN", 12.7, 13.1, 15.7, 14.1),
    _row("GLIP-T (A)", "O365", "GLIP-T(B)", 6.0, 8.0, 19.4, 12.3),
    _row("GLIP-T (B)", "O365", "GLIP-T(B)", 4.2, 7.6, 18.6, 11.3),
    _row("GLIP-T (C)", "O365, GoldG", "GLIP-T(B)", 7.5, 11.6, 26.1, 16.5),
    _row("GLIP-T", "O365, GoldG, Cap4M", "GLIP-T", 10.1, 12.5, 25.5, 17.2),
    _row("RegionSpot-BL", "O365", "GLIP-T(B)", 12.7, 13.1, 15.7, 14.1),
    _row("RegionSpot-BB", _THREE, "GLIP-T", 20.0, 18.7, 24.2, 21.1),
    _row("RegionSpot-BL", _THREE, "GLIP-T", 24.9, 21.6, 25.5, 23.7),
)

PAPER_TABLE2: tuple[PaperCost, ...] = (
    PaperCost(method="RegionCLIP", backbone="ResNet50x4", training_data="CC3M", gpu_hours=4_600),
    PaperCost(method="GLIP", backbone="Swin-T", training_data="O365, GoldG, Cap4M", gpu_hours=92_100),
    PaperCost(method="RegionSpot", backbone="ViT-B, ViT-L", training_data=_THREE, gpu_hours=200),
)

# Tables 3 to 5: RegionSpot-BL with GLIP's boxes.
PAPER_TABLE3: tuple[PaperResult, ...] = (
    _row("RegionSpot-BL", "O365", "GLIP-T", 11.9, 13.6, 20.2, 15.9),
    _row("RegionSpot-BL", "O365, OI", "GLIP-T", 16.4, 18.2, 23.7, 20.1),
    _row("RegionSpot-BL", _THREE, "GLIP-T", 24.9, 21.6, 25.5, 23.7),
)

PAPER_TABLE4A: tuple[PaperResult, ...] = (
    _ablation("without CLIP vision", 8.0),
    _ablation("with CLIP feature map", 22.1),
    _ablation("with CLIP feature map and class token", 23.7),
)
PAPER_TABLE4B: tuple[PaperResult, ...] = (
    _ablation("token after the prompt encoder", 18.6),
    _ablation("token after the transformer", 23.7),
    _ablation("token after the MLP", 20.4),
)
PAPER_TABLE4C: tuple[PaperResult, ...] = (
    _ablation("depth 1", 23.2),
    _ablation("depth 3", 23.7),
    _ablation("depth 6", 22.8),
)

PAPER_TABLE5: tuple[PaperResult, ...] = (
    _row("baseline prompts", _THREE, "GLIP-T", 19.6, 15.1, 21.2, 18.5),
    _row("with multiple box prompts", _THREE, "GLIP-T", 23.2, 19.2, 25.0, 22.1),
    _row("with text prompts", _THREE, "GLIP-T", 24.9, 21.6, 25.5, 23.7),
)

# Table 6: mask AP.
PAPER_TABLE6: tuple[PaperResult, ...] = (
    _row("X-Decoder", "", "own", None, None, None, 9.4),
    _row("OpenSeed", "", "own", None, None, None, 19.6),
    _row("RegionSpot-BL", _THREE, "GLIP-T", 21.5, 25.0, 23.2, 23.5),
)
