"""Verbs that recognise: `eval`, `predict`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.verbs.options import Backbone, Config, Data, Images, Json, Set


def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model folder written by train.")
    ] = None,
    backbone: Backbone = None,
    dataset: Data = None,
    images: Images = None,
    proposals: Annotated[str | None, typer.Option("--proposals", help="gt, rpn, or a file of boxes.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="regionspot, official, clip-box, clip-mask, results:FILE; repeat."),
    ] = None,
    ap: Annotated[
        str | None, typer.Option("--ap", help="standard, or fixed: the 10,000 best detections of each class.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Seeded sample of this many images.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for detections, metrics and report; None: a new one.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Recognise the regions of a dataset and score the result: AP, APr, APc, APf, accuracy, recall.

    Example: rs-cache eval --proposals rpn --method regionspot --method clip-box

    Example: rs-cache eval --dataset lvis:minival --method results:glip.json --ap fixed
    """
    from pipeline.evaluate.run import evaluate as run
    from pipeline.settings import EvalSettings
    from regionspot_cache.config import load_config

    settings = load_config(
        EvalSettings,
        config,
        set_ or (),
        checkpoint=checkpoint,
        backbone=backbone,
        dataset=dataset,
        images=images,
        proposals=proposals,
        methods=method or None,
        ap=ap,
        limit=limit,
        out=out,
    )
    run(settings, as_json=as_json)


def predict(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    boxes: Annotated[
        str | None, typer.Option("--boxes", help="x0,y0,x1,y1;... in pixels, or a JSON file. None: the RPN.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names separated by commas, or a file with one a line.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model folder written by train.")
    ] = None,
    backbone: Backbone = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Picture to write; default IMAGE-regions.png.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Boxes that the RPN proposes.")] = 20,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also clip-box and clip-mask, and a picture of all.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="HTML page with everything about the image.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Name the regions of one image; writes a picture with names, masks and attention.

    Example: rs-cache predict street.jpg --boxes "10,20,200,180" --classes "car,bus,tram"
    """
    from pipeline.predict import predict as run
    from pipeline.settings import PredictSettings
    from regionspot_cache.config import load_config

    settings = load_config(
        PredictSettings,
        config,
        set_ or (),
        image=image,
        boxes=boxes,
        classes=classes,
        checkpoint=checkpoint,
        backbone=backbone,
        out=out,
        top=top,
        compare=compare or None,
        report=report,
    )
    run(settings, as_json=as_json)
