"""The page to explore regions: what it shows, as one JSON document, and its HTML, alone or served.

It loads nothing from elsewhere. A content security policy lets only its own script run, which puts every name
into the page as text.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from regionspot_cache.datasets.images import ImageFailure

THUMBNAIL, THUMBNAIL_QUALITY = 72, 70  # pixels of the longer side
PICTURE, PICTURE_QUALITY = 420, 75
CONTEXT = 0.1  # of a box's sides, around it
SCRIPTS = ("explore_data.js", "explore_map.js", "explore.js")

Pixels = Callable[[int], NDArray[np.uint8]]
"""The RGB pixels [H, W, 3] of the image of a region, by its row; may raise ImageFailure."""


@dataclass
class Pictures:
    """The pictures of a written page as data URIs, within a number of bytes.

    Attributes:
        thumbnails: of every region, "" where its image could not be read.
        pictures: of images by their number, as far as there is room.
        left_out: images without a picture, by reason.
    """

    thumbnails: list[str] = field(default_factory=list)
    pictures: dict[int, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def jpeg(image: NDArray[np.uint8], side: int, quality: int) -> bytes:
    """A picture [H, W, 3] as JPEG, its longer side at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    data = io.BytesIO()
    picture.save(data, "jpeg", quality=quality)
    return data.getvalue()


def thumbnail(image: NDArray[np.uint8], box: NDArray[np.float32]) -> bytes:
    """A box [4] xyxy of an image with a little around it, as a small JPEG."""
    height, width = image.shape[:2]
    around = CONTEXT * (box[2:] - box[:2])
    x0, y0 = np.floor(np.maximum(box[:2] - around, 0)).astype(int).tolist()
    x1, y1 = np.ceil(np.minimum(box[2:] + around, (width, height))).astype(int).tolist()
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    crop = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return jpeg(np.ascontiguousarray(crop), THUMBNAIL, THUMBNAIL_QUALITY)


def boxes_of(table: pa.Table) -> NDArray[np.float32]:
    """float32 [N, 4] xyxy of a table of regions."""
    return np.stack([table[name].to_numpy() for name in ("x0", "y0", "x1", "y1")], axis=1)


def image_numbers(table: pa.Table) -> NDArray[np.int64]:
    """Number of the image of every region, int64 [N], counted from 0 in the order of the table."""
    encoded = table["image_id"].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def doubtful(table: pa.Table) -> NDArray[np.int64]:
    """Rows as the page lists them at first: sure predictions unlike the class, then small margins."""
    if table["predicted"].null_count:  # nothing was recognised
        return np.argsort(-table["novelty"].to_numpy(), kind="stable")
    margin = table["margin"].to_numpy()
    classes, predicted = table["class"].to_pylist(), table["predicted"].to_pylist()
    differs = np.array([a is not None and a != b for a, b in zip(classes, predicted, strict=True)])
    return np.argsort(np.where(differs, -1 - margin, margin), kind="stable")


def embed_pictures(table: pa.Table, pixels: Pixels, limit: int) -> Pictures:
    """Thumbnails of all regions, and pictures of images until `limit` bytes are full."""
    found, used = Pictures(), 0
    numbers, boxes = image_numbers(table), boxes_of(table)
    image: NDArray[np.uint8] | None = None
    last = -1
    for row, number in enumerate(numbers.tolist()):
        if number != last:
            last, reason = number, ""
            try:
                image = pixels(row)
            except ImageFailure as failure:
                image, reason = None, failure.reason
            if image is not None:
                data = _uri(jpeg(image, PICTURE, PICTURE_QUALITY))
                used, reason = (used + len(data), "") if used + len(data) <= limit else (used, "no room")
                if not reason:
                    found.pictures[number] = data
            if reason:
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
        small = "" if image is None else _uri(thumbnail(image, boxes[row]))
        found.thumbnails.append(small if used + len(small) <= limit else "")
        used += len(found.thumbnails[-1])
    return found


def page_data(table: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """All about the regions but their pictures and embeddings, json-able; rows as in the table."""
    names: dict[str, int] = {}

    def number(name: str | None) -> int:
        return -1 if name is None else names.setdefault(name, len(names))

    top = table["top_names"].to_pylist()
    neighbours = table["neighbours"].combine_chunks()
    numbers = image_numbers(table)
    _, firsts = np.unique(numbers, return_index=True)
    shown = table.select(["image_id", "file_name", "width", "height"]).take(firsts).to_pylist()
    return {
        "facts": dict(facts),
        "images": [[row["image_id"], row["file_name"], row["width"], row["height"]] for row in shown],
        "image": numbers.tolist(),
        "box": _rounded(boxes_of(table), 1),
        "id": table["box_id"].to_pylist(),
        "class": [number(name) for name in table["class"].to_pylist()],
        "top": [[number(name) for name in found or ()] for found in top],
        "scores": [_rounded(np.array(found or ()), 4) for found in table["top_scores"].to_pylist()],
        "place": _rounded(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1), 5),
        "novelty": _rounded(table["novelty"].to_numpy(), 4),
        "neighbours": neighbours.field("ids").to_pylist(),
        "distances": [_rounded(np.array(row), 4) for row in neighbours.field("distances").to_pylist()],
        "names": list(names),
    }


def packed(vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Unit vectors [n, E] as signed bytes: what a browser compares them with is off by 1 % at most."""
    values = np.clip(np.round(vectors / max(float(np.abs(vectors).max(initial=0)), 1e-12) * 127), -127, 127)
    data = base64.b64encode(values.astype(np.int8).tobytes()).decode("ascii")
    return {"width": vectors.shape[1], "data": data}


def packed_attention(weights: NDArray[np.float32]) -> dict[str, Any]:
    """Attention of one region, [layers, rows, columns], as bytes, the greatest of each layer 255."""
    greatest = weights.max(axis=(1, 2), keepdims=True)
    values = np.round(weights / np.maximum(greatest, 1e-12) * 255).astype(np.uint8)
    data = [base64.b64encode(layer.tobytes()).decode("ascii") for layer in values]
    return {"rows": weights.shape[1], "columns": weights.shape[2], "layers": data}


def render_explore(title: str, data: Mapping[str, Any], *, served: bool = False) -> str:
    """The HTML of the page.

    Args:
        title: heading.
        data: of `page_data`, with what else the script reads: `thumbnails`, `pictures`, `text`, `embeddings`,
            `attention`, `key`; a served page fetches it instead, and is given what it needs for that.
        served: whether it may talk to the server that it came from.
    """
    script = "\n".join(_template(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode("ascii")
    connect = "connect-src 'self'; img-src 'self' data:" if served else "img-src data:"
    # No "<" in the data, so no name can end the element that holds it.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _page().render(
        title=title,
        policy=Markup(
            f"default-src 'none'; {connect}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(_template("explore.css")),
        script=Markup(script),
        data=Markup(text),
    )


def _rounded(values: NDArray[np.floating], decimals: int) -> list:
    return np.round(values.astype(np.float64), decimals).tolist()


def _uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


@cache
def _page() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_template("explore.html"))


@cache
def _template(name: str) -> str:
    return files("regionspot_cache.reporting").joinpath("templates", name).read_text(encoding="utf-8")
