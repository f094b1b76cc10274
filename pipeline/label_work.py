"""The recognition behind `rs-cache label`: networks and words, a pass over images with its journal."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.evaluate.cached import FoundFeatures, cached_features
from pipeline.evaluate.own_methods import OwnMethods, regions_of
from pipeline.evaluate.recognise import Recognition
from pipeline.label_journal import Journal
from pipeline.label_review import Found
from pipeline.train_inputs import embed_names
from pipeline.verbs.evaluate import WITH_HEAD, EvalSettings
from pipeline.verbs.label import LabelSettings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.box_formats import BoxSet
from regionspot_cache.datasets.tables import offsets_of
from regionspot_cache.files import file_sha256
from regionspot_cache.models.hub import WEIGHTS_FILE
from regionspot_cache.recognition import EmbeddedImage, Recogniser, RecognitionEngine
from regionspot_cache.recognition.examples import Examples, prototypes
from regionspot_cache.recognition.predictor import RegionPredictor
from regionspot_cache.recognition.synonyms import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a pass over the images leaves.

    Attributes:
        boxes: float32 [T, 4] and offsets [M + 1]: those of the dataset, or the proposed ones.
        failures: images that could not be read, by reason.
        faults: the first of each reason: its file and what is wrong with it.
        from_cache: how many images took each array from the cache.
    """

    found: Found
    boxes: tuple[NDArray[np.float32], NDArray[np.int64]]
    failures: Counter[str]
    faults: dict[str, str]
    from_cache: Counter[str]
    images: int
    seconds: float


class Labeller:
    """The method of the settings, and the words that it compares with.

    Raises as `OwnMethods`, and InputError for examples that cannot be used.
    """

    def __init__(self, settings: LabelSettings, vocabulary: Vocabulary) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.eval = EvalSettings(
            checkpoints=(settings.checkpoint,),
            backbone=settings.backbone,
            methods=(settings.method,),
            proposals=settings.proposals,
            top_n=settings.top_n,
            prompts=settings.prompts,
            regionclip=settings.regionclip,
            device=settings.device,
        )
        own = OwnMethods(self.eval)
        [self.method] = own.methods
        self.backbone, self.prompts = own.backbone, own.prompts
        self.text = torch.from_numpy(self._words()).to(own.device)

    @cached_property
    def examples(self) -> Examples | None:
        """The embedded examples of the settings."""
        if self.settings.examples is None:
            return None
        method: Recogniser = self.method
        found = RegionPredictor(method, self.backbone).embed_examples(self.settings.examples)
        if found.left_out:
            console.warn(f"examples left out: {counts(found.left_out)}")
        return found

    @property
    def example_embeddings(self) -> torch.Tensor:
        """Of every example, [n, E]."""
        assert self.examples is not None
        return torch.from_numpy(self.examples.embeddings).to(self.text.device)

    def _words(self) -> NDArray[np.float32]:
        """[W, E], words that have examples mixed with them."""
        words = self.vocabulary.words
        text = embed_names(self.backbone.text_of(self.method.text_part), words, self.prompts)
        if self.examples is None:
            return text
        found = prototypes(self.examples.embeddings, self.examples.labels_among(words), text)
        console.say(f"Examples count {found.weight:.1f}, words {1 - found.weight:.1f}.")
        return found.embeddings

    def probabilities(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        """Of classes [N, K] for embedded boxes [N, E]."""
        return self.vocabulary.best_words(self.method.scores(embeddings, self.text).cpu().numpy())

    def cached(self, dataset: DetectionDataset) -> FoundFeatures:
        """Features of the images that caches have."""
        parts = {path.partition("/")[0] for path in self.method.reads}
        return cached_features(self.settings.cache, dataset, self.backbone, parts)

    def identity(self, boxes: BoxSet, cached: FoundFeatures, known: str) -> dict[str, Any]:
        """All that decides the answers; `known` says where boxes come from."""
        dataset, settings = boxes.dataset, self.settings
        head = settings.method in WITH_HEAD
        regions = hashlib.sha256(dataset.boxes.tobytes() + dataset.offsets.tobytes())
        return {
            "data": {
                "sha256": dataset.annotation_sha256,
                "boxes": regions.hexdigest(),
                "images": str(Path(dataset.image_root).absolute()),
            },
            "proposals": known,
            "method": settings.method,
            "checkpoint": file_sha256(settings.checkpoint / WEIGHTS_FILE) if head else None,
            "networks": {name: part.fingerprint() for name, part in self.backbone.parts.items()},
            "classes": [self.vocabulary.words, self.vocabulary.owner.tolist()],
            "prompts": asdict(self.prompts),
            "text": hashlib.sha256(self.text.cpu().numpy().tobytes()).hexdigest(),
            "top": settings.top,
            "batch_size": settings.batch_size,
            "caches": cached.urls,
        }

    def run(self, boxes: BoxSet, labels: NDArray[np.int64], cached: FoundFeatures) -> "Work":
        """The work on all boxes of a set; `labels` [T] are the classes of their labels, -1 for none."""
        dataset = boxes.dataset
        regions = regions_of(self.eval, dataset, self.backbone)
        recognition = Recognition(
            dataset=dataset,
            backbone=self.backbone,
            texts={},
            regions=regions,
            cached=cached,
            masks=False,
            score_rule="product",
        )
        return Work(labeller=self, boxes=boxes, labels=labels, recognition=recognition)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A pass over the images of a set."""

    labeller: Labeller
    boxes: BoxSet
    labels: NDArray[np.int64]
    recognition: Recognition

    @property
    def known(self) -> str:
        """Where the boxes come from."""
        regions = self.recognition.regions
        if regions.known is not None:
            return regions.known.identity
        assert regions.proposer is not None
        return f"top {regions.top_n} of {regions.proposer.identity()}"

    def go_on(self, journal: Journal) -> Pass:
        """Recognises what the journal does not have yet, and reads all of it."""
        todo, size = self._todo(), self.labeller.settings.batch_size
        regions, start = self.recognition.regions, journal.batches * size
        engine = RecognitionEngine(
            methods=[self.labeller.method],
            proposer=regions.proposer,
            batch_size=size,
            threads=self.labeller.settings.threads,
        )
        # A batch of the journal is one of the networks, so an interrupted run computes what others do.
        batch, done = list[dict[str, Any]](), start
        if start:
            console.say(f"{min(start, len(todo))} of {len(todo)} images are done already.")
        with console.progress("labelling", len(todo)) as ticker:
            for image in engine.run(self.recognition, todo[start:]):
                batch.append(self._entry(image))
                done += 1
                if len(batch) == size or done == len(todo):
                    journal.add(batch)
                    batch = []
                rate = (done - start) / max(ticker.elapsed, 1e-9)
                ticker.update(done, console.rate(rate, "image"))
            seconds = ticker.elapsed
        return self._read(journal, done - start if done > start else 0, seconds)

    def _todo(self) -> list[int]:
        """Images that have boxes, or may have some."""
        dataset, regions = self.boxes.dataset, self.recognition.regions
        every = [i for i in range(len(dataset)) if i not in self.boxes.failures]
        if regions.known is None:
            return every
        return [i for i in every if len(regions.known[dataset.image_ids[i]].boxes)]

    def _entry(self, image: EmbeddedImage) -> dict[str, Any]:
        """One image for the journal."""
        entry: dict[str, Any] = {"image": image.index}
        if image.failure is not None:
            return entry | {"failure": image.failure.reason, "fault": image.failure.detail}
        found = self.labeller.probabilities(image.embeddings[0])
        top = min(self.labeller.settings.top, found.shape[1])
        rows = np.argsort(-found, axis=1, kind="stable")
        second = rows[:, 1] if found.shape[1] > 1 else None
        each = np.arange(len(found))
        margins = found[each, rows[:, 0]] - (0 if second is None else found[each, second])
        entry |= {"rows": rows[:, :top].tolist(), "margins": margins.tolist()}
        entry |= {"scores": np.take_along_axis(found, rows[:, :top], 1).tolist()}
        entry["from_cache"] = sorted(image.inputs.from_cache)
        if self.given:
            own = self.labels[self._of(image.index)]
            entry["own"] = [float(found[i, k]) if k >= 0 else None for i, k in enumerate(own.tolist())]
        else:
            entry["boxes"] = image.inputs.boxes.tolist()
        return entry

    @property
    def given(self) -> bool:
        """Whether the boxes are those of the data."""
        return self.labeller.settings.proposals == "gt"

    def _of(self, index: int) -> slice:
        offsets = self.boxes.dataset.offsets
        return slice(int(offsets[index]), int(offsets[index + 1]))

    def _read(self, journal: Journal, images: int, seconds: float) -> Pass:
        dataset, names = self.boxes.dataset, self.labeller.vocabulary.names
        boxes, offsets = (dataset.boxes, dataset.offsets) if self.given else _proposed(journal, len(dataset))
        total, top = len(boxes), min(self.labeller.settings.top, len(names))
        found = Found(
            rows=np.full((total, top), -1, np.int32),
            scores=np.zeros((total, top), np.float32),
            margins=np.zeros(total, np.float32),
            own=np.full(total, np.nan, np.float32),
        )
        failures, faults = Counter[str](), dict[str, str]()
        for failure in self.boxes.failures.values():
            failures[failure.reason] += 1
            faults.setdefault(failure.reason, failure.detail)
        from_cache: Counter[str] = Counter()
        for entry in journal:
            if "failure" in entry:
                failures[entry["failure"]] += 1
                faults.setdefault(entry["failure"], entry["fault"])
                continue
            rows = slice(int(offsets[entry["image"]]), int(offsets[entry["image"] + 1]))
            found.rows[rows] = _matrix(entry["rows"], top)
            found.scores[rows] = _matrix(entry["scores"], top)
            found.margins[rows] = entry["margins"]
            if "own" in entry:
                found.own[rows] = [np.nan if value is None else value for value in entry["own"]]
            from_cache.update(entry["from_cache"])
        return Pass(
            found=found,
            boxes=(boxes, offsets),
            failures=failures,
            faults=faults,
            from_cache=from_cache,
            images=images,
            seconds=seconds,
        )


def _matrix(values: Sequence[Sequence[float]], width: int) -> NDArray[Any]:
    return np.array(values).reshape(-1, width)


def _proposed(journal: Journal, images: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [T, 4] and offsets [M + 1] that the journal has."""
    sizes = np.zeros(images, np.int64)
    parts = [np.zeros((0, 4), np.float32)]
    for entry in journal:
        if "boxes" in entry:
            sizes[entry["image"]] = len(entry["boxes"])
            parts.append(np.array(entry["boxes"], np.float32).reshape(-1, 4))
    return np.concatenate(parts), offsets_of(sizes)
