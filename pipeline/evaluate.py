"""`rs-cache eval`: regions of a dataset recognised by one or more methods, scored by one protocol."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline import console
from pipeline.methods import make_method
from pipeline.partition import resolve_device
from pipeline.plan import cache_path, counts
from pipeline.recognise import Recognised, Recognition, Regions, Tally
from pipeline.scoring import Origin, Scored, Scorer
from pipeline.settings import EvalSettings, PromptSettings
from pipeline.train import embed_names
from regionspot_cache.backbones import Backbone, load_backbone, load_preset, load_proposer
from regionspot_cache.datasets import DATASET_NAMES, DetectionDataset, load_dataset, to_coco_dict
from regionspot_cache.errors import IdentityError, IncompleteError, MissingFileError, UsageError
from regionspot_cache.evaluation import EvaluationResult
from regionspot_cache.evaluation.ground_truth import load_annotations, restrict
from regionspot_cache.head import read_model_config
from regionspot_cache.hub import BACKBONE_FILE
from regionspot_cache.proposals import Proposals, ground_truth_proposals, load_proposals
from regionspot_cache.recognition import Recogniser
from regionspot_cache.store import Cache, open_cache


def evaluate(settings: EvalSettings, *, as_json: bool = False) -> list[Scored]:
    """Recognises, scores, writes and prints; one row a method.

    Raises:
        MissingFileError: no checkpoint, dataset or proposals there.
        IdentityError: a checkpoint of other frozen networks or another width.
    """
    device = resolve_device(settings.device)
    spec = load_preset(
        settings.backbone or _own_backbone(settings), from_model_folder=settings.backbone is None
    )
    backbone = load_backbone(spec, device, console.fetching)
    config = read_model_config(settings.checkpoint) if "regionspot" in settings.methods else {}
    methods = [make_method(name, settings, config, backbone, device) for name in settings.methods]
    dataset = load_dataset(
        settings.dataset,
        split="val" if settings.dataset in DATASET_NAMES else None,
        data_root=settings.data,
        images=settings.images,
        limit=settings.limit,
        seed=settings.seed,
    )
    truth, regions = _ground_truth(dataset), _regions(settings, dataset, backbone)
    prompts = settings.prompts or _trained_prompts(config)
    cache = _cache(settings, dataset, backbone)
    recognition = Recognition(
        dataset=dataset,
        backbone=backbone,
        text=torch.from_numpy(embed_names(backbone.clip, dataset.class_names, prompts)).to(device),
        regions=regions,
        cache=cache,
        masks=settings.masks and all("segmentation" in a for a in truth["annotations"]),
        score_rule=settings.score_rule,
        cap=settings.cap,
    )
    found = recognition.run(methods)
    _say_coverage(recognition, found)
    settings.out.mkdir(parents=True, exist_ok=True)
    scorer, boxes = Scorer(settings, dataset, truth), _recognised(recognition, found, settings.out)
    scored = [_score(scorer, m, found.tallies[m.name], recognition, boxes, prompts) for m in methods]
    _show([row.result for row in scored], settings.out, as_json=as_json)
    return scored


def _own_backbone(settings: EvalSettings) -> Path:
    path = settings.checkpoint / BACKBONE_FILE
    if not path.is_file():
        raise MissingFileError(
            f"There is no trained head in {settings.checkpoint}.",
            "A folder written by rs-cache train.",
            "rs-cache train, or --checkpoint DIR, or --method clip-box --set backbone=tiny",
        )
    return path


def _trained_prompts(config: Mapping[str, Any]) -> PromptSettings:
    text = config.get("text", {})
    return PromptSettings(
        **{name: text[name] for name in ("templates", "cleaning", "average") if name in text}
    )


def _ground_truth(dataset: DetectionDataset) -> Mapping[str, Any]:
    """The original annotations of the sampled images; the boxes of a CSV in the same form."""
    if dataset.format == "openimages":
        return to_coco_dict(dataset)
    return restrict(load_annotations(dataset.annotation_files[0]), dataset.image_ids)


def _regions(settings: EvalSettings, dataset: DetectionDataset, backbone: Backbone) -> Regions:
    if settings.proposals == "gt":
        return Regions(known=ground_truth_proposals(dataset))
    if settings.proposals == "rpn":
        proposer = load_proposer(backbone.spec.proposer, backbone.sam, console.fetching)
        return Regions(proposer=proposer, top_n=settings.top_n)
    path = Path(settings.proposals)
    if not path.suffix:
        raise UsageError(f"--proposals {settings.proposals}.", "gt, rpn or a file of boxes.")
    known = load_proposals(path, dataset, top_n=settings.top_n)
    if known.dropped:
        console.warn(f"{path}: left out {counts(dict(known.dropped))}")
    return Regions(known=known, top_n=settings.top_n)


def _cache(settings: EvalSettings, dataset: DetectionDataset, backbone: Backbone) -> Cache | None:
    """The cache of this dataset and backbone, if there is one; a named one must fit."""
    path = cache_path(settings.cache, dataset, backbone.spec)
    fingerprints = {"sam": backbone.sam.fingerprint(), "clip": backbone.clip.fingerprint()}
    try:
        cache = open_cache(path, expect=fingerprints)
    except (MissingFileError, IdentityError, IncompleteError):
        if settings.cache:
            raise
        return None
    if cache.dataset.annotation_sha256 == dataset.annotation_sha256:
        return cache
    if settings.cache:
        raise IdentityError(f"{path} was made from other annotations than {dataset.name}.", "The same file.")
    return None


def _say_coverage(recognition: Recognition, found: Recognised) -> None:
    total, used = len(recognition.dataset), found.from_cache
    console.say(
        f"{used['map']} of {total} maps and the tokens of {used['tokens']} images came from the cache."
    )
    if found.failures:
        console.warn(f"images without detections: {counts(dict(found.failures))}")


def _recognised(recognition: Recognition, found: Recognised, out: Path) -> Proposals:
    """The boxes that were recognised; those of a proposer are written too."""
    regions = recognition.regions
    if regions.known is not None:
        return regions.known
    assert regions.proposer is not None
    identity = regions.proposer.identity()
    text = ", ".join(f"{key} {str(value)[:12]}" for key, value in identity.items())
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
    head = f" {scorer.settings.checkpoint}" if method.name == "regionspot" else ""
    rule = method.score_rule or recognition.score_rule
    origin = Origin(
        method=f"{method.name} on {recognition.backbone.spec.name}{head}",
        proposals=boxes.identity,
        templates=prompts.templates,
        class_names=prompts.cleaning,
        score_rule="probability" if given else rule,
    )
    return scorer.score(
        method.name,
        tally.builder.build(),
        origin,
        masks=recognition.masks,
        accuracy=tally.accuracy if given else None,
        proposals=None if given else boxes,
    )


def _show(results: list[EvaluationResult], out: Path, *, as_json: bool) -> None:
    values = {"results": [result.to_json() for result in results]}
    (out / "metrics.json").write_text(json.dumps(values, indent=1) + "\n")
    console.result(values, "\n".join(map(str, results)), as_json=as_json)
    console.say(f"Detections and metrics.json are in {out}.")
