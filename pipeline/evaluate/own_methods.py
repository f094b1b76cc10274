"""The methods of this package in an evaluation: one pass over the images, a scored row a method, pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import console
from pipeline.console import counts
from pipeline.evaluate.cached import cached_features
from pipeline.evaluate.recognise import Recognised, Recognition, Regions, Tally
from pipeline.evaluate.report import OwnRows
from pipeline.evaluate.scoring import Scored, Scorer
from pipeline.report_figures import figures, pick_images, see
from pipeline.train import embed_names
from pipeline.verbs.evaluate import WITH_HEAD, EvalSettings
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones import Backbone, load_backbone, load_preset, load_proposer
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.datasets.regions import box_iou
from regionspot_cache.errors import MissingFileError, near_path
from regionspot_cache.evaluation import DetectionProtocol, IouType, regionclip_protocol, write_results
from regionspot_cache.evaluation.selection import pair_scores
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.models.hub import BACKBONE_FILE
from regionspot_cache.recognition import (
    OfficialRegionSpot,
    Recogniser,
    RegionSpot,
    embedding_method,
    with_networks_of,
)
from regionspot_cache.recognition.predictor import head_inputs, require_backbone
from regionspot_cache.recognition.proposals import Proposals, ground_truth_proposals, load_proposals
from regionspot_cache.reporting.page import ReportSection, Text
from regionspot_cache.reporting.scene import Scene
from regionspot_cache.training.head import RegionHead, read_model_config

ATTENTION_OF = 4  # boxes of an image
PROPOSALS = 8  # of an image
SAME_OBJECT = 0.5  # IoU


def pictures(
    recognition: Recognition, methods: Sequence[Recogniser], boxes: Proposals, settings: EvalSettings
) -> list[ReportSection]:
    """A few images, recognised once more; the first method that has attention shows it.

    Args:
        boxes: what the methods recognised.
    """
    dataset = recognition.dataset
    shown: list[ReportSection] = []
    count = 0
    attending_first = sorted(methods, key=lambda method: not hasattr(method, "attention"))
    for i in pick_images(dataset, settings.seed).tolist():
        if count == settings.pictures:
            break
        try:
            scene = _scene(recognition, attending_first, i, boxes)
        except ImageFailure:  # counted in the pass
            continue
        if scene is not None:
            shown += figures(scene, attention_of=ATTENTION_OF)
            count += 1
    body = _explanation(attending_first[0].name, boxes, settings)
    return [Text(title="Pictures", body=body), *shown] if shown else []


def _explanation(first: str, boxes: Proposals, settings: EvalSettings) -> str:
    which = "the annotated boxes"
    if boxes.scores is not None:
        which = (
            f"up to {PROPOSALS} boxes that {first} scores highest, none on top of another; a name has a tick "
            f"or a cross where its box meets an annotated one (IoU of {SAME_OBJECT} or more)"
        )
    files = ""
    if settings.result_files:
        files = " Rows that were read from files name boxes of their own and are in the tables alone."
    return (
        f"Images drawn by seed {settings.seed}, with {which}: what each method says; SAM's masks; then the "
        f"cross-attention of up to {ATTENTION_OF} boxes over the patches of the image in every layer of the "
        f"head: the brighter, the more attention.{files}"
    )


def _scene(
    recognition: Recognition, methods: Sequence[Recogniser], index: int, boxes: Proposals
) -> Scene | None:
    """One image as the methods name it; None without boxes."""
    record = recognition.dataset[index]
    classes = recognition.dataset.class_names
    proposed, objectness = boxes[record.image_id]
    inputs = recognition.inputs(index, proposed)
    if not len(inputs.boxes):
        return None
    scores = {  # as in the detections
        method.name: pair_scores(
            method.probabilities(inputs, recognition.text_of(method)),
            objectness,
            method.score_rule or recognition.score_rule,
        )
        for method in methods
    }
    names = [classes[label] for label in record.labels]
    seen = partial(
        see, f"Image {record.image_id}", inputs, scores, classes, methods[0], masks=recognition.masks
    )
    if objectness is None:
        return seen(truth=names)
    kept = _distinct(inputs.boxes, scores[methods[0].name].max(axis=1))
    met = _met(inputs.boxes[kept], record.boxes, names)
    return seen(kept=kept, truth=met, annotated=(record.boxes, names))


def _distinct(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """The best-scored boxes [n] of which no two show the same object, best first."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] == -np.inf:  # left out by the score rule
            break
        if len(kept) < PROPOSALS and not (box_iou(boxes[[i]], boxes[kept]) >= SAME_OBJECT).any():
            kept.append(i)
    return np.array(kept, np.intp)


def _met(
    boxes: NDArray[np.float32], annotated: NDArray[np.float32], names: Sequence[str]
) -> list[str | None]:
    """The name of the annotated box that each box meets best, None where it meets none."""
    if not len(annotated):
        return [None] * len(boxes)
    iou = box_iou(boxes, annotated)
    return [names[int(row.argmax())] if row.max() >= SAME_OBJECT else None for row in iou]


class OwnMethods:
    """The networks and methods that `settings.recognisers` need, loaded.

    Raises:
        MissingFileError: no checkpoint there.
        IdentityError: a checkpoint of other frozen networks or another width.
    """

    def __init__(self, settings: EvalSettings) -> None:
        self.settings, self.device = settings, resolve_device(settings.device)
        spec = load_preset(
            settings.backbone or _own_backbone(settings), from_model_folder=settings.backbone is None
        )
        spec = with_networks_of(settings.methods, spec, settings.regionclip)
        console.arithmetic(self.device, **{name: part.precision for name, part in spec.parts.items()})
        self.backbone = load_backbone(spec, self.device, console.fetching)
        config = read_model_config(settings.checkpoint) if set(WITH_HEAD) & set(settings.methods) else {}
        self.methods = [self._method(name, config) for name in settings.recognisers]
        self.prompts = settings.prompts or _trained_prompts(config)

    def _method(self, name: str, config: dict[str, Any]) -> Recogniser:
        if name not in WITH_HEAD:
            return embedding_method(name, self.backbone)
        checkpoint = self.settings.checkpoint
        require_backbone(config, self.backbone, str(checkpoint))
        head = RegionHead.from_pretrained(checkpoint, device=self.device)
        return (OfficialRegionSpot if name == "official" else RegionSpot)(head, head_inputs(config))

    def score(self, scorer: Scorer) -> OwnRows:
        """Recognises the regions of the scorer's dataset; a row a method, and what a report shows.

        Raises:
            MissingFileError: no proposals or cache where they were named.
            IdentityError, IncompleteError: a named cache that cannot be read.
        """
        settings, dataset, backbone = self.settings, scorer.dataset, self.backbone
        regions = _regions(settings, dataset, backbone)
        parts = {path.partition("/")[0] for method in self.methods for path in method.reads}
        cached = cached_features(settings.cache, dataset, backbone, parts)
        texts = {
            part: embed_names(backbone.text_of(part), dataset.class_names, self.prompts)
            for part in dict.fromkeys([None, *(method.text_part for method in self.methods)])
        }
        recognition = Recognition(
            dataset=dataset,
            backbone=backbone,
            texts={part: torch.from_numpy(text).to(self.device) for part, text in texts.items()},
            regions=regions,
            cached=cached,
            masks=settings.masks and scorer.truth.has_masks,
            score_rule=settings.rule,
            ap=settings.ap,
            protocol=_protocol(settings, scorer),
            batch_size=settings.batch_size,
            threads=settings.threads,
        )
        found = recognition.run(self.methods)
        _say_coverage(recognition, found)
        boxes = _recognised(recognition, found, scorer.out)
        tallies, given = found.tallies, boxes.scores is None
        return OwnRows(
            rows=[
                _score(scorer, method, tallies[method.name], recognition, boxes, self.prompts)
                for method in self.methods
            ],
            text=texts[None],
            confusion={name: tally.confusion.result() for name, tally in tallies.items()} if given else {},
            pictures=pictures(recognition, self.methods, boxes, settings),
        )


def _own_backbone(settings: EvalSettings) -> Path:
    path = settings.checkpoint / BACKBONE_FILE
    if not path.is_file():
        raise MissingFileError(
            f"There is no trained head in {settings.checkpoint}.",
            f"{near_path(settings.checkpoint)}A folder written by rs-cache train.",
            "rs-cache train, or --checkpoint DIR, or --method clip-box --set backbone=tiny",
        )
    return path


def _trained_prompts(config: Mapping[str, Any]) -> PromptSettings:
    text = config.get("text", {})
    return PromptSettings(
        **{name: text[name] for name in ("templates", "cleaning", "average") if name in text}
    )


def _regions(settings: EvalSettings, dataset: DetectionDataset, backbone: Backbone) -> Regions:
    if settings.proposals == "gt":
        return Regions(known=ground_truth_proposals(dataset))
    if settings.proposals == "rpn":
        proposer = load_proposer(backbone, console.fetching)
        return Regions(proposer=proposer, top_n=settings.top_n)
    path = Path(settings.proposals)
    known = load_proposals(
        path,
        dataset,
        top_n=settings.top_n,
        boxes_in=settings.proposal_boxes,
        scores_as=settings.proposal_scores,
    )
    if known.dropped:
        console.warn(f"{path}: left out {counts(dict(known.dropped))}")
    return Regions(known=known)


def _protocol(settings: EvalSettings, scorer: Scorer) -> DetectionProtocol:
    if settings.protocol == "shared":
        return DetectionProtocol(top_k=settings.cap)
    metric = "LVIS" if scorer.truth.federated else "COCO"
    published = regionclip_protocol(metric, given=settings.proposals == "gt")
    return replace(published, top_k=min(published.top_k, settings.cap))


def _say_coverage(recognition: Recognition, found: Recognised) -> None:
    total, used = len(recognition.dataset), found.from_cache
    arrays = ", ".join(f"{path} of {count}" for path, count in sorted(used.items())) or "nothing"
    console.say(f"From the cache, of {total} images: {arrays}.")
    if found.failures:
        console.warn(f"images without detections: {counts(dict(found.failures))}")


def _recognised(recognition: Recognition, found: Recognised, out: Path) -> Proposals:
    """The boxes that were recognised; those of a proposer are written too."""
    regions = recognition.regions
    if regions.known is not None:
        return regions.known
    assert regions.proposer is not None
    identity = regions.proposer.identity()
    text = ", ".join(
        f"{key} {str(value)[:12] if key.endswith('sha256') else value}" for key, value in identity.items()
    )
    proposals = Proposals.from_images(f"RPN, top {regions.top_n} ({text})", found.regions)
    proposals.save(out / "proposals.npz")
    return proposals


def _score(
    scorer: Scorer,
    method: Recogniser,
    tally: Tally,
    recognition: Recognition,
    boxes: Proposals,
    prompts: PromptSettings,
) -> Scored:
    given = boxes.scores is None
    head = f" {scorer.settings.checkpoint}" if method.name in WITH_HEAD else ""
    rule = method.score_rule or recognition.score_rule
    if rule == "official" and (scorer.settings.ap == "fixed" or scorer.settings.protocol != "shared"):
        rule = "official, of all pairs"  # the first choice that the rule makes in an image is not made
    origin = {
        "method": f"{method.name} on {recognition.backbone.spec.name}{head}",
        "proposals": boxes.identity,
        "templates": prompts.templates,
        "class_names": prompts.cleaning,
        "score_rule": "probability" if given else rule,
        "detections": str(recognition.protocol),
    }
    detections = tally.collector.build()
    kinds: tuple[IouType, ...] = ("bbox", "segm") if recognition.masks else ("bbox",)
    for kind in kinds if scorer.settings.details else ():
        write_results(scorer.out / f"{method.name}-{kind}.json", detections, kind)
    return scorer.score(
        method.name,
        detections,
        origin,
        masks=recognition.masks,
        accuracy=tally.accuracy if given else None,
        proposals=None if given else boxes,
    )
