"""The methods of this package in an evaluation: one pass over the images, a scored row a method, pictures."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline import console
from pipeline.console import counts
from pipeline.evaluate.cached import cached_features
from pipeline.evaluate.pictures import pictures, worst_images
from pipeline.evaluate.recognise import Recognised, Recognition, Regions, Tally
from pipeline.evaluate.report import BOXES_FILE, OwnRows
from pipeline.evaluate.scoring import Scored, Scorer
from pipeline.train import embed_names
from pipeline.verbs.evaluate import EvalSettings, OwnRow
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones import Backbone, load_backbone, load_preset, load_proposer
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import InputError, MissingFileError, near_path
from regionspot_cache.evaluation import DetectionProtocol, IouType, regionclip_protocol, write_results
from regionspot_cache.evaluation.box_table import BoxTable, box_table
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
from regionspot_cache.training.head import RegionHead, read_model_config


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
        self.backbone = load_backbone(spec, self.device, console.fetching)
        precisions = {name: part.precision for name, part in spec.parts.items()}
        console.arithmetic(self.device, precisions, self.backbone.compilation)
        with_head = [row.checkpoint for row in settings.own_rows if row.checkpoint is not None]
        configs = {path: read_model_config(path) for path in with_head}
        self.methods = [self._method(row, configs) for row in settings.own_rows]
        self.checkpoints = {row.name: row.checkpoint for row in settings.own_rows}
        self.prompts = settings.prompts or _trained_prompts(configs)

    def _method(self, row: OwnRow, configs: Mapping[Path, dict[str, Any]]) -> Recogniser:
        if row.checkpoint is None:
            return embedding_method(row.method, self.backbone)
        config = configs[row.checkpoint]
        require_backbone(config, self.backbone, str(row.checkpoint))
        head = RegionHead.from_pretrained(row.checkpoint, device=self.device)
        kind = OfficialRegionSpot if row.method == "official" else RegionSpot
        method = kind(head, head_inputs(config))
        method.name = row.name
        return method

    def score(self, scorer: Scorer) -> OwnRows:
        """Recognises the regions of the scorer's dataset; a row a method, and what a report shows.

        Raises:
            MissingFileError: no proposals or cache where they were named.
            IdentityError, IncompleteError: a named cache that cannot be read.
        """
        settings, dataset, backbone = self.settings, scorer.dataset, self.backbone
        regions = regions_of(settings, dataset, backbone)
        parts = {path.partition("/")[0] for method in self.methods for path in method.reads}
        cached = cached_features(settings.cache, dataset, backbone, parts)
        texts = {
            part: embed_names(backbone.text_of(part), dataset.class_names, self.prompts)
            for part in dict.fromkeys([None, *(method.text_part for method in self.methods)])
        }
        tensors = {part: torch.from_numpy(text).to(self.device) for part, text in texts.items()}
        with self._table(scorer) as table:
            recognition = Recognition(
                dataset=dataset,
                backbone=backbone,
                texts=tensors,
                regions=regions,
                cached=cached,
                masks=settings.masks and scorer.truth.has_masks,
                score_rule=settings.rule,
                ap=settings.ap,
                protocol=_protocol(settings, scorer),
                batch_size=settings.batch_size,
                threads=settings.threads,
                table=table,
            )
            found = recognition.run(self.methods)
        _say_coverage(recognition, found)
        boxes = _recognised(recognition, found, scorer.out)
        tallies, given = found.tallies, boxes.scores is None
        objects = {name: tally.objects for name, tally in tallies.items()}
        worst = worst_images(dataset, objects[self.methods[0].name])
        return OwnRows(
            rows=[
                self._score(scorer, method, tallies[method.name], recognition, boxes)
                for method in self.methods
            ],
            text=texts[None],
            confusion={name: tally.confusion.result() for name, tally in tallies.items()} if given else {},
            objects=objects,
            pictures=pictures(recognition, self.methods, boxes, settings, worst),
        )

    def _score(
        self,
        scorer: Scorer,
        method: Recogniser,
        tally: Tally,
        recognition: Recognition,
        boxes: Proposals,
    ) -> Scored:
        given, prompts, checkpoint = boxes.scores is None, self.prompts, self.checkpoints[method.name]
        head = "" if checkpoint is None else f" {checkpoint}"
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

    @contextmanager
    def _table(self, scorer: Scorer) -> Generator[BoxTable | None]:
        if not self.settings.details:
            yield None
            return
        files = [scorer.out / f"{BOXES_FILE}.{ending}" for ending in ("parquet", "csv")]
        with box_table(scorer.dataset, *files) as table:
            yield table


def _own_backbone(settings: EvalSettings) -> Path:
    path = settings.checkpoints[0] / BACKBONE_FILE
    if not path.is_file():
        raise MissingFileError(
            f"There is no trained head in {settings.checkpoints[0]}.",
            f"{near_path(settings.checkpoints[0])}A folder written by rs-cache train.",
            "rs-cache train, or --checkpoint DIR, or --method clip-box --set backbone=tiny",
        )
    return path


def _trained_prompts(configs: Mapping[Path, Mapping[str, Any]]) -> PromptSettings:
    """Those that the heads were trained with. InputError: not with the same."""
    found: dict[Path, PromptSettings] = {}
    for path, config in configs.items():
        text = config.get("text", {})
        known = {name: text[name] for name in ("templates", "cleaning", "average") if name in text}
        found[path] = PromptSettings(**known)
    first, *others = found.items() or [(Path(), PromptSettings())]
    for path, prompts in others:
        if prompts != first[1]:
            raise InputError(
                f"{first[0]} was trained with {first[1]}, {path} with {prompts}.",
                "Heads trained with the same prompts: one text embedding a class.",
                "Say which to use, such as --set prompts.templates=single.",
            )
    return first[1]


def regions_of(settings: EvalSettings, dataset: DetectionDataset, backbone: Backbone) -> Regions:
    """The boxes that `settings.proposals` says: annotated ones, those of a proposer, or of a file."""
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
