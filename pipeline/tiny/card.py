"""Write the model card of the tiny world from the measured figures: `python -m pipeline.tiny.card`."""

from typing import Any

from pipeline.tiny.common import ASSETS, load_half, parser, read_config

CARD = """# The tiny world: a small SAM, CLIP and region proposal network

Weights of the preset `tiny`, for the built-in dataset `shapes`: 320 classes (4 textures x 10 colours x 8
shapes) in procedural 256 x 256 scenes. They are for demonstrations, tests and quick ablations; they know
nothing of photographs. The networks are the classes that real backbones use: `segment_anything`'s `Sam`,
`open_clip`'s `CLIP` with its `SimpleTokenizer`, torchvision's `RegionProposalNetwork`.

They are the frozen half of RegionSpot. Phase one, `rs-cache extract`, runs SAM and CLIP once over every
image: SAM gives a token for each box, CLIP a map of 257 tokens for the image, and both go into the cache.
Phase two, `rs-cache train`, trains a small head in which the box tokens attend to the map; it never runs a
network of this card on an image. `rs-cache eval --proposals rpn` lets the third network propose the boxes.

| file | network | parameters | MB |
|---|---|---|---|
{files}

fp16 safetensors; `config.json` holds the arguments of the classes and the figures below. The vocabulary is
a byte-pair file learnt from the words of the class names and prompt templates; other words are spelled in
bytes.

## Figures

All on held-out scenes, measured with the fp16 weights (SAM and the proposals by the training scripts, CLIP
through the production classes by `python -m pipeline.tiny.measure`); one training run each.

SAM, {sam[scenes]} scenes, {sam[boxes]} boxes as prompts: mean IoU **{sam[mean_iou]:.3f}** at 256 px
({sam[share_above_0.75]:.1%} of masks above 0.75), {sam[mean_iou_disturbed_boxes]:.3f} with boxes disturbed as
proposals are (a third of them by 12 % of their side, the others by 3 %).

Region proposals, validation split of `shapes`, {rpn[images]} images, {rpn[boxes]} boxes, without regard to
class: recall at 100 proposals **{rpn[recall_at_100_iou_0.5]:.3f}** at IoU 0.5
({rpn[recall_at_100_iou_0.5_novel]:.3f} for novel classes), average recall over IoU 0.5 to 0.95
**{rpn[average_recall_at_100]:.3f}**.

CLIP, zero-shot over all 320 classes (chance 0.003), prompts: the 80 CLIP templates and the name. "Singles"
are pictures of one object, "crops" the boxes of the first scenes of the validation split, enlarged.

| pictures | images | top-1 | base | novel | texture | colour | shape |
|---|---|---|---|---|---|---|---|
{clip}

Top-1 by prompts:

| pictures | {prompts} |
|---|{rule}
{by_prompt}

"Novel" classes are never boxed in the training split of `shapes`. CLIP has read their names in captions, as
a CLIP of the web has; SAM has no classes; the proposal network never saw their boxes.

## Training

`python -m pipeline.tiny.build` (CPU, two processes of one thread, resumable) draws every image from pinned
seeds: SAM and CLIP from seeds of their own, the proposal network from the training split of `shapes` with
seed 0.

| part | steps | images | minutes of one thread, machine shared |
|---|---|---|---|
{training}

- SAM: boxes disturbed by 3 % or 12 %, cross-entropy and dice at 128 x 128, and a mean-square error of the
  IoU head; a linear reader of the region's place keeps it in the token. Only mask token 0 is trained:
  `multimask_output=True` gives nothing of use.
- CLIP: captions only, no boxes, no masks. Image against phrases; best patches against phrases; words of the
  caption; a linear reader of the position keeps it in the patch tokens. bf16 autocast.
- Sums of floating-point numbers depend on the machine, so another run gives other weights. CLIP was trained
  in several sittings, and how a batch is drawn was changed at step 1600: a replay draws other batches before.

## Limits

Shape is the weak attribute of CLIP, in crops (squashed to a square) and in the map of a scene; objects below
30 px, two patches, are the hardest. SAM is worst on small stars, crosses and rings. One input size each (SAM
256, CLIP 128). English words of this world only.
"""


def _row(*cells: Any) -> str:
    return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def _files() -> str:
    networks = {
        "sam": "ViT of 4 blocks, width 128, patch 16, input 256; two-way decoder, width 128",
        "clip": "ViT of 4 blocks, width 192, patch 8, input 128; text of 2 blocks, width 128",
        "rpn": "neck at stride 8, 15 anchors a cell, on the SAM embedding",
    }
    parameters = count_parameters()
    sizes = {part: (ASSETS / f"{part}.safetensors").stat().st_size / 1e6 for part in networks}
    return "\n".join(
        _row(f"{part}.safetensors", text, f"{parameters[part]:,}", f"{sizes[part]:.1f}")
        for part, text in networks.items()
    )


def count_parameters() -> dict[str, int]:
    """Numbers in the weight files."""
    parts = ("sam", "clip", "rpn")
    return {p: sum(t.numel() for t in load_half(ASSETS / f"{p}.safetensors").values()) for p in parts}


def render() -> str:
    measured = read_config()["measured"]
    clip = {kind: f for kind, f in measured["clip"].items() if isinstance(f, dict) and "top1" in f}
    prompts = list(next(iter(clip.values()))["top1_by_templates"])
    columns = ("images", "top1", "base", "novel", "texture", "colour", "shape")
    return CARD.format(
        files=_files(),
        sam=measured["sam"],
        rpn=measured["rpn"],
        clip="\n".join(_row(kind, *(f[c] for c in columns)) for kind, f in clip.items()),
        prompts=" | ".join(prompts),
        rule="---|" * len(prompts),
        by_prompt="\n".join(_row(kind, *f["top1_by_templates"].values()) for kind, f in clip.items()),
        training="\n".join(
            _row(
                part, measured[part]["steps"], measured[part]["images_seen"], round(measured[part]["minutes"])
            )
            for part in ("sam", "clip", "rpn")
        ),
    )


def main() -> None:
    parser(__doc__).parse_args()
    (ASSETS / "MODEL_CARD.md").write_text(render())


if __name__ == "__main__":
    main()
