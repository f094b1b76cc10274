"""`rs-cache explore`: the page of regions, written as one file or served to this machine."""

import hashlib
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.regions import Embedder, RegionsFound, find_regions, picture
from pipeline.report_figures import patch_attention
from pipeline.verbs.explore import ExploreSettings, is_cache
from regionspot_cache.datasets import to_coco_dict
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.errors import InputError
from regionspot_cache.files import read_json, replacing
from regionspot_cache.recognition import RegionSpot
from regionspot_cache.reporting.explore_page import (
    doubtful,
    embed_pictures,
    packed,
    packed_attention,
    page_data,
    render_explore,
)
from regionspot_cache.reporting.explore_server import ExploreServer, Served
from regionspot_cache.reporting.regions_table import region_table
from regionspot_cache.reporting.review import ReviewedFile

ATTENTION_OF = 40  # regions of a written page
KEPT_ATTENTIONS = 16  # images


def explore(settings: ExploreSettings, *, as_json: bool = False) -> None:
    """Writes or serves the page; errors as of `find_regions`."""
    found = find_regions(settings.source, settings, most=None if settings.serve else settings.most)
    table = region_table(found.regions, found.facts)
    if settings.serve:
        serve(make_server(found, table, settings), as_json=as_json)
        return
    out = settings.out or Path(f"{_stem(settings.source)}-regions.html")
    facts: dict[str, Any] = {"page": str(out), **write_page(out, found, table, settings)}
    text = (
        f"Wrote {out} ({console.size(facts['bytes'])}): {facts['regions']:,} of "
        f"{found.source.dataset.num_boxes:,} regions, {facts['pictures']} pictures."
    )
    console.result(facts, text, as_json=as_json)


def write_page(out: Path, found: RegionsFound, table: pa.Table, settings: ExploreSettings) -> dict[str, Any]:
    """Writes the page as one file; how much is in it."""
    pixels = _Pixels(found)
    pictures = embed_pictures(table, pixels, settings.page_megabytes * 1_000_000)
    if pictures.left_out:
        console.warn(f"images without a picture in the page: {counts(pictures.left_out)}")
    data = page_data(table, found.facts)
    data |= {
        "thumbnails": pictures.thumbnails,
        "pictures": pictures.pictures,
        "attention": _few_attentions(found, table),
        "key": hashlib.sha256(json.dumps([data["id"], data["images"]]).encode()).hexdigest()[:16],
        **_searchable(found, data["names"]),
    }
    page = render_explore(_title(settings), data)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as staging:
        staging.write_text(page, encoding="utf-8")
    return {**found.facts, "pictures": len(pictures.pictures), "bytes": out.stat().st_size}


def make_server(found: RegionsFound, table: pa.Table, settings: ExploreSettings) -> ExploreServer:
    """The server of all regions, not started. InputError: the file of reviews is another one."""
    save = settings.save or Path(f"{_stem(settings.source)}-reviewed.json")
    files = [str(file.resolve()) for file in found.source.dataset.annotation_files]
    if str(save.resolve()) in files:
        raise InputError(f"{save} is the annotation file itself.", "A new file.", "--save FILE")
    embedder = found.embedder
    served = Served(
        title=_title(settings),
        table=table,
        facts=found.facts,
        pixels=_Pixels(found),
        embeddings=found.regions.embeddings,
        reviews=ReviewedFile(save, _coco(found), table["box_id"].to_pylist()),
        embed_words=None if embedder is None else lambda words: embedder.embed_words([words])[0],
        attention=_Attention(found, embedder) if embedder is not None and _attends(embedder) else None,
    )
    return ExploreServer(served, settings.port)


def serve(server: ExploreServer, *, as_json: bool) -> None:
    """Serves until Ctrl-C."""
    facts = {"address": server.address, "save": str(server.served.reviews.path)}
    console.result(
        facts, f"Open {server.address}\nReviews go to {facts['save']}; Ctrl-C ends.", as_json=as_json
    )
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.say("Served until now; what was reviewed is saved.")


class _Pixels:
    """The pixels of the image of a region; the last image is kept."""

    def __init__(self, found: RegionsFound) -> None:
        self._found = found
        self._last = threading.local()

    def __call__(self, row: int) -> NDArray[np.uint8]:
        index = int(self._found.regions.images[row])
        if getattr(self._last, "index", None) != index:
            self._last.index = None
            self._last.image = picture(self._found.regions.dataset, index)
            self._last.index = index
        return self._last.image


class _Attention:
    """Attention of a region over the patches of its image, [layers, rows, columns]; one at a time."""

    def __init__(self, found: RegionsFound, embedder: Embedder) -> None:
        self._regions, self._embedder, self._lock = found.regions, embedder, threading.Lock()
        self._of_image = lru_cache(KEPT_ATTENTIONS)(self._weights)

    def __call__(self, row: int) -> NDArray[np.float32]:
        regions, index = self._regions, int(self._regions.images[row])
        with self._lock:
            weights = self._of_image(index)
        return weights[:, int(regions.boxes[row] - regions.dataset.offsets[index])]

    @torch.inference_mode()
    def _weights(self, index: int) -> NDArray[np.float32]:
        """Of all boxes of an image, [layers, boxes, rows, columns]."""
        method = self._embedder.method
        assert isinstance(method, RegionSpot)
        return patch_attention(method, self._embedder.inputs(self._regions.dataset, index))


def _attends(embedder: Embedder) -> bool:
    return isinstance(embedder.method, RegionSpot) and embedder.method.head.config.use_map


def _few_attentions(found: RegionsFound, table: pa.Table) -> dict[int, dict[str, Any]]:
    """Of the regions that the page lists first; of images that cannot be read, nothing."""
    if found.embedder is None or not _attends(found.embedder):
        return {}
    attention, weights = _Attention(found, found.embedder), {}
    for row in sorted(doubtful(table)[:ATTENTION_OF].tolist()):  # image by image
        with suppress(ImageFailure):  # counted with the pictures
            weights[row] = packed_attention(attention(row))
    return weights


def _searchable(found: RegionsFound, names: list[str]) -> dict[str, Any]:
    """Embeddings of names and regions, by which a page without a network can search."""
    if found.embedder is None:
        return {}
    position = {name: i for i, name in enumerate(found.embedder.classes)}
    names += [name for name in found.embedder.classes if name not in set(names)]  # all can be searched for
    text = packed(found.embedder.text.float().cpu().numpy())
    text["rows"] = [position.get(name, -1) for name in names]
    return {"text": text, "embeddings": packed(found.regions.embeddings)}


def _coco(found: RegionsFound) -> Mapping[str, Any]:
    """The annotations as they were read, or, where they are no COCO file, the regions as one."""
    source = found.source
    files = source.dataset.annotation_files
    if len(files) == 1 and files[0].suffix.lower() == ".json":
        content = read_json(files[0], "COCO-style annotations.")
        if all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
            return content
    return to_coco_dict(found.regions.dataset)


def _title(settings: ExploreSettings) -> str:
    return f"Regions of {Path(settings.source.rstrip('/')).name}"


def _stem(source: str) -> str:
    """A file name without ending beside a file, or in the current folder for all others."""
    if is_cache(source) or not Path(source).is_file():
        return Path(source.rstrip("/")).name.replace(":", "-")
    return str(Path(source).with_suffix(""))
