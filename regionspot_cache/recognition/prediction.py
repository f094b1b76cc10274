"""What a recogniser says about the boxes of one image, in the forms that people go on with."""

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from regionspot_cache.datasets.regions import xyxy_to_xywh
from regionspot_cache.errors import UsageError
from regionspot_cache.reporting.drawing import comparison, sheet
from regionspot_cache.reporting.scene import Names, Scene

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 1024  # pixels of a picture
IN_REPR, IN_TABLE = 4, 100  # regions that are written out


class Region(NamedTuple):
    """One box and what it shows."""

    box: tuple[float, float, float, float]  # x0, y0, x1, y1, pixels of the image
    name: str
    score: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """What the boxes of an image show. Iterating gives a `Region` for each box, in the order of the boxes.

    In notebooks it shows itself as a picture and a table. Names compete: one alone has score 1 in every box.

    Attributes:
        boxes: float32 [N, 4] xyxy, pixels of the image.
        probabilities: float32 [N, K], rows sum to 1, or to less where a box may show none of the names.
        classes: the K names asked for.
        image: uint8 [H, W, 3].
    """

    boxes: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    image: NDArray[np.uint8] = field(repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The best class of each box."""
        return tuple(self.classes[k] for k in self._best)

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """[N], the probability of the best class among those asked for."""
        return self.probabilities[np.arange(len(self)), self._best]

    @cached_property
    def _best(self) -> NDArray[np.int64]:
        return self.probabilities.argmax(1) if len(self) else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Region]:
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Region: ...
    @overload
    def __getitem__(self, index: slice) -> list[Region]: ...
    def __getitem__(self, index: int | slice) -> Region | list[Region]:
        """The region of a box, or the regions of several."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        x0, y0, x1, y1 = self.boxes[index].tolist()
        return Region((x0, y0, x1, y1), self.names[index], float(self.scores[index]))

    def __repr__(self) -> str:
        said = [f"{region.name} {region.score:.2f}" for region, _ in zip(self, range(IN_REPR), strict=False)]
        more = ", ..." if len(self) > IN_REPR else ""
        count = f"{len(self)} region{'' if len(self) == 1 else 's'}"
        return f"Prediction({count}{': ' if said else ''}{', '.join(said)}{more})"

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The k most probable classes of every box with their probabilities, the best first."""
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, : max(k, 0)]
        found = np.take_along_axis(self.probabilities, ranked, axis=1)
        return [
            [(self.classes[j], p) for j, p in zip(row, values, strict=True)]
            for row, values in zip(ranked.tolist(), found.tolist(), strict=True)
        ]

    def to_transformers(self) -> list[dict[str, Any]]:
        """As pipelines of zero-shot object detection return them; pixels are rounded to whole ones.

        A box is `{"score": 0.9, "label": "car", "box": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}}`.
        """
        corners = ("xmin", "ymin", "xmax", "ymax")
        return [
            {
                "score": score,
                "label": name,
                "box": {corner: round(value) for corner, value in zip(corners, box, strict=True)},
            }
            for box, name, score in self
        ]

    def to_coco(
        self, image_id: int | str, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results, one a box; `bbox` is x, y, width and height.

        Args:
            image_id: as in the annotation file.
            category_ids: of every class; 1 to K in the order of `classes` when not given.

        Raises:
            UsageError: a predicted class without an id.
        """
        ids = category_ids or {name: k for k, name in reversed(list(enumerate(self.classes, 1)))}
        if missing := [name for name in self.names if name not in ids]:
            raise UsageError(f"No category id for {missing[0]!r}.", "An id for every class.")
        boxes = xyxy_to_xywh(self.boxes).tolist()
        return [
            {"image_id": image_id, "category_id": ids[name], "bbox": bbox, "score": score}
            for bbox, (_, name, score) in zip(boxes, self, strict=True)
        ]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame: xmin, ymin, xmax, ymax, name, score. UsageError where it is not installed."""
        pandas = _library("pandas")
        columns = dict(zip(("xmin", "ymin", "xmax", "ymax"), self.boxes.T, strict=True))
        return pandas.DataFrame({**columns, "name": list(self.names), "score": self.scores})

    def to_supervision(self) -> Any:
        """A supervision.Detections; `class_id` is an index into `classes`, names are in `data["class_name"]`.

        UsageError where that library is not installed.
        """
        return _library("supervision").Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self._best,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def picture(self, *, side: int = SIDE) -> "Image":
        """The image with boxes, names and scores, `side` pixels along its longer side."""
        scene = Scene(
            title="image",
            image=self.image,
            boxes=self.boxes,
            named={"prediction": Names(self.names, self.scores)},
        )
        return sheet(comparison(scene), side=side, captions=False)

    def show(self) -> None:
        """Opens `picture` in the system's viewer."""
        self.picture().show()

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self.picture().save(buffer, "PNG")
        source = base64.b64encode(buffer.getvalue()).decode("ascii")
        cells = Markup("<tr><td>{}</td><td>{:.2f}</td><td>{}</td></tr>")
        rows = [
            cells.format(region.name, region.score, ", ".join(f"{value:.0f}" for value in region.box))
            for region, _ in zip(self, range(IN_TABLE), strict=False)
        ]
        more = f"<p>and {len(self) - IN_TABLE} more</p>" if len(self) > IN_TABLE else ""
        head = "<tr><th>name</th><th>score</th><th>box</th></tr>"
        picture = (
            f'<img alt="{escape(repr(self))}" src="data:image/png;base64,{source}" style="max-width:100%">'
        )
        return f"<div>{picture}<table>{head}{Markup().join(rows)}</table>{more}</div>"


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        found = f"The library {name} is not installed."
        raise UsageError(found, "It is needed for this form alone.", f"pip install {name}") from None
