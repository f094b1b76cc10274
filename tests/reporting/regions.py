"""A few regions for the table and the page."""

from pathlib import Path

import numpy as np
from PIL import Image

from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.reporting.embedding_map import nearest, novelty, project, unit
from regionspot_cache.reporting.regions_table import EmbeddedRegions, RankedNames

CLASSES = ("<script>alert(1)</script>", "cat", "a & b", "dog")
BOXES = (
    ((2, 2, 10, 12), (20, 5, 30, 25), (0, 0, 40, 30)),
    ((5, 5, 20, 20),),
    ((1, 1, 9, 9), (10, 10, 30, 28)),
)


def dataset_in(folder: Path) -> DetectionDataset:
    """Three pictures of 40 x 30 pixels with six boxes, and their annotations `labels.json`."""
    import json

    annotations, images = [], []
    for number, boxes in enumerate(BOXES):
        name = f"p{number}.png"
        Image.fromarray(np.full((30, 40, 3), 80 * number, np.uint8)).save(folder / name)
        images.append({"id": 10 + number, "file_name": name, "width": 40, "height": 30})
        for x0, y0, x1, y1 in boxes:
            row = len(annotations)
            annotations.append(
                {
                    "id": 100 + row,
                    "image_id": 10 + number,
                    "category_id": 1 + row % 3,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "mine": row,
                }
            )
    categories = [{"id": 1 + i, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {"by": "me"}}
    (folder / "labels.json").write_text(json.dumps(content))
    return load_dataset(str(folder / "labels.json"), data_root=folder)


def regions_of(dataset: DetectionDataset, *, named: bool = True) -> EmbeddedRegions:
    """All boxes of the dataset with random embeddings and names."""
    random = np.random.default_rng(1)
    total = dataset.num_boxes
    embeddings = unit(random.normal(size=(total, 6)))
    probabilities = random.dirichlet(np.ones(len(CLASSES)), total).astype(np.float32)
    labels = np.argsort(-probabilities, axis=1)[:, :3].astype(np.int32)
    scores = np.take_along_axis(probabilities, labels, 1)
    neighbours = nearest(embeddings, 4)
    return EmbeddedRegions(
        dataset=dataset,
        images=np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets)),
        boxes=np.arange(total),
        labelled=np.full(total, named),
        embeddings=embeddings,
        named=RankedNames(classes=CLASSES, labels=labels, scores=scores) if named else None,
        places=project(embeddings),
        neighbours=neighbours,
        novelty=novelty(neighbours[1]),
    )
