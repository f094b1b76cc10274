"""An update of a cache by library calls, without networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import read_file
from regionspot_cache.store import CacheWriter, PartitionPlan, create_cache
from regionspot_cache.store.update import Update, abandon_update, begin_update, finish_update, plan_update
from tests.store.small_world import clip_part, extract, features, sam_part, status_of


def begin(path: Path, dataset: DetectionDataset) -> tuple[Update, CacheWriter, str]:
    """The update and the writer of its new segment, of which nothing is committed."""
    update = plan_update(path, dataset)
    assert update.added is not None
    name = update.name(0)
    place = begin_update(path, name)
    parts = list(update.cache.parts.values())
    return update, create_cache(place, update.added, parts=parts, partition_size=4), name


def bring_up_to_date(path: Path, dataset: DetectionDataset) -> Update:
    """The whole of an update."""
    planned = plan_update(path, dataset)
    if planned.is_empty:
        abandon_update(path)
    elif planned.added is None:
        finish_update(path, planned, None)
    else:
        update, writer, name = begin(path, dataset)
        fill(writer, dataset.image_root)
        finish_update(path, update, name)
    return planned


def fill(writer: CacheWriter, root: Path) -> None:
    """Commits all that is pending with the stamps of the files below `root`, and seals."""
    if not root.exists():
        extract(writer)
        return
    for part, spec in writer.parts.items():
        for partition in writer.pending(part):
            plan = writer.partition(partition)
            stamps = file_stamps(plan, root)
            writer.commit(part, partition, features(spec, plan), status_of(plan, {}), files=stamps)
    writer.seal()


def file_stamps(plan: PartitionPlan, root: Path) -> np.ndarray:
    """int64 [s, 3] of the files themselves."""
    return np.array([read_file(root / name)[1] for name in plan.file_names], np.int64)


def with_files(dataset: DetectionDataset, root: Path) -> DetectionDataset:
    """The dataset over files in a folder, each with its own name as content."""
    for name in dataset.file_names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return replace(dataset, image_root=root)


def make_stamped(path: Path, dataset: DetectionDataset) -> CacheWriter:
    """A sealed cache with the stamps of the dataset's files."""
    writer = create_cache(path, dataset, parts=[sam_part(), clip_part()], partition_size=4)
    fill(writer, dataset.image_root)
    return writer
