"""What a person says of regions, kept in a COCO file: names accepted or changed, regions rejected.

The file is the one that the regions came from with these changes, so nothing of it is lost; a rejected box
goes from `annotations` to `rejected_annotations`. `reviews` lists what was said, to be continued from.
"""

import copy
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from regionspot_cache.config import validate
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.files import read_json, replacing

Action = Literal["accept", "rename", "reject"]
REVIEWS, REJECTED, REVIEW = "reviews", "rejected_annotations", "review"
LONGEST_NAME = 1000


@dataclass(frozen=True, kw_only=True)
class Review:
    """What was said of one region; a rejected one has no name."""

    action: Action
    name: str | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and 0 < len(self.name.strip()) <= LONGEST_NAME
        if (self.action == "reject") == named or (self.action == "reject" and self.name is not None):
            raise UsageError(
                f"A review {self.action!r} with the name {self.name!r:.80}.",
                "A name to accept or rename, none to reject.",
            )


class ReviewedFile:
    """Reviews by annotation id, written into a COCO file beside its source after every one.

    Safe from several threads: reviews that come while the file is written go into it together.

    Args:
        path: the file, which appears whole or not at all.
        coco: the annotations as they were.
        ids: annotation ids of the regions by row.

    Raises:
        InputError: the file is there and is none that was written here.
    """

    def __init__(self, path: Path, coco: Mapping[str, Any], ids: Sequence[int]) -> None:
        self.path, self._coco, self._ids = path, coco, list(ids)
        self._found: dict[int, Review] = read_reviews(path) if path.exists() else {}
        self._state, self._writing = threading.Lock(), threading.Lock()
        self._version = self._written = 0

    def by_row(self) -> dict[int, dict[str, Any]]:
        """What was said, by row of the regions, json-able."""
        with self._state:
            found = dict(self._found)
        return {row: asdict(found[number]) for row, number in enumerate(self._ids) if number in found}

    def set(self, row: int, review: Review | None) -> None:
        """Says something of a region, or takes it back; returns when it is on disk."""
        with self._state:
            if review is None:
                self._found.pop(self._ids[row], None)
            else:
                self._found[self._ids[row]] = review
            self._version += 1
            mine = self._version
        with self._writing:
            if self._written >= mine:  # another thread has written it
                return
            with self._state:
                found, version = dict(self._found), self._version
            content = json.dumps(reviewed(self._coco, found))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as staging:
                staging.write_text(content, encoding="utf-8")
            self._written = version


def reviewed(coco: Mapping[str, Any], reviews: Mapping[int, Review]) -> dict[str, Any]:
    """COCO annotations with reviews by annotation id; names that are new become categories.

    Args:
        coco: as read; not changed.
        reviews: of some of its annotations.
    """
    categories = copy.deepcopy(list(coco["categories"]))
    names = {category["id"]: category["name"].strip() for category in categories}
    numbers: dict[str, int] = {}
    for number, name in names.items():
        numbers.setdefault(name, number)
    kept, rejected = [], []
    for annotation in coco["annotations"]:
        review = reviews.get(annotation.get("id"))
        if review is None:
            kept.append(annotation)
            continue
        changed = {**annotation, REVIEW: review.action}
        if review.name is None:
            rejected.append(changed)
            continue
        if names.get(annotation["category_id"]) != review.name:  # equal names may have several numbers
            if review.name not in numbers:
                numbers[review.name] = max(names, default=0) + 1
                names[numbers[review.name]] = review.name
                categories.append({"id": numbers[review.name], "name": review.name})
            changed["category_id"] = numbers[review.name]
        kept.append(changed)
    said = [{"annotation_id": number, **asdict(review)} for number, review in sorted(reviews.items())]
    more = {REJECTED: [*coco.get(REJECTED, ()), *rejected], REVIEWS: said}
    return {**coco, "annotations": kept, "categories": categories, **more}


def read_reviews(path: Path) -> dict[int, Review]:
    """What was said, by annotation id. Raises MissingFileError, and InputError for a file without reviews."""
    expected, remedy = "A file that rs-cache explore --serve wrote.", "--save FILE"
    content = read_json(path, expected, remedy)
    entries = content.get(REVIEWS) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path} is there and has no {REVIEWS}.", expected, remedy)
    found = {}
    for entry in entries:
        number = entry.get("annotation_id") if isinstance(entry, dict) else None
        if type(number) is not int:
            raise InputError(f"{path}: a review without annotation_id.", expected, remedy)
        found[number] = review_of({key: entry[key] for key in entry if key != "annotation_id"}, str(path))
    return found


def review_of(values: Any, source: str) -> Review:
    """A review as it comes from a file or a page. UsageError: it is none."""
    if not isinstance(values, dict):
        raise UsageError(f"{source}: a review that is no mapping.", f"action: {', '.join(get_args(Action))}.")
    return validate(Review, values, source)
