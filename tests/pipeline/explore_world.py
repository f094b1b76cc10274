"""A labelled set with an odd class name, and its regions as `explore` finds them."""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.explore import make_server
from pipeline.regions import RegionsFound, find_regions
from pipeline.verbs.explore import ExploreSettings
from regionspot_cache.reporting.explore_server import ExploreServer
from regionspot_cache.reporting.regions_table import region_table

ODD = "<script>window.harmed = true</script>"
SHAPES = Path("rs-cache-data/datasets/shapes")


def labels_in(place: Path, finished: Path) -> Path:
    """Three pictures of the drawn world and their boxes, the first class renamed, as `labels.json`."""
    truth = json.loads((finished / SHAPES / "val.json").read_text())
    images = truth["images"][:3]
    chosen = {image["id"] for image in images}
    annotations = [one for one in truth["annotations"] if one["image_id"] in chosen]
    first = annotations[0]["category_id"]
    categories = [{**c, "name": ODD} if c["id"] == first else c for c in truth["categories"]]
    for image in images:
        target = place / image["file_name"]
        target.parent.mkdir(exist_ok=True)
        shutil.copy(finished / SHAPES / "images" / image["file_name"], target)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (place / "labels.json").write_text(json.dumps(content))
    return place / "labels.json"


def settings_of(labels: Path, finished: Path, **others: Any) -> ExploreSettings:
    run = finished / "rs-cache-data/runs/small"
    return ExploreSettings(source=str(labels), checkpoint=run, neighbours=4, **others)


def server_of(found: RegionsFound, settings: ExploreSettings) -> ExploreServer:
    return make_server(found, region_table(found.regions, found.facts), settings)


def find(settings: ExploreSettings) -> RegionsFound:
    return find_regions(settings.source, settings)
