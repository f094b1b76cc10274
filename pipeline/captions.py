"""`rs-cache propose` and `concepts`: regions of captioned images, and the concepts of their captions."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.places import WORKPLACE
from pipeline.verbs.captions import ConceptSettings, ProposeSettings
from regionspot_cache.backbones import RegionProposer, load_backbone, load_preset, load_proposer
from regionspot_cache.backbones.presets import BackboneSpec, SamSpec
from regionspot_cache.datasets import DetectionDataset, load_dataset
from regionspot_cache.datasets.caption_sources import load_captions
from regionspot_cache.datasets.captions import CaptionedImages
from regionspot_cache.datasets.concepts import ConceptPool, overlap, pool_of_captions
from regionspot_cache.datasets.region_file import RegionWork, write_region_file
from regionspot_cache.extraction.devices import resolve_device

FOLDER = WORKPLACE / "captions"
NOVEL = "novel"


def propose(settings: ProposeSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Writes the region file, or continues it, and returns what the verb reports.

    Raises:
        IdentityError, InputError, MissingFileError: as of `load_captions` and `write_region_file`.
    """
    found = load_captions(
        settings.source, data_root=settings.data, images=settings.images, exclude=settings.exclude
    )
    out = _out(settings.out, f"{found.name}-regions.json")
    records = found.sample(settings.limit, settings.seed)
    console.say(
        f"{found.name}: {len(records)} of {len(found)} images, "
        f"{sum(len(record.captions) for record in records)} captions; "
        f"left out at reading: {console.counts(found.dropped)}"
    )
    proposer = _proposer(settings)
    work = RegionWork(
        records=records,
        root=found.image_root,
        proposer=proposer,
        identity=_identity(found, settings),
        top_n=settings.top_n,
        threads=settings.decode_threads,
    )
    with console.progress("proposing", len(records)) as ticker:
        start = time.monotonic()
        first: list[int] = []  # images that an earlier run left

        def progress(done: int, total: int) -> None:
            first.append(done) if not first else None
            per_second = (done - first[0]) / max(time.monotonic() - start, 1e-9)
            ticker.update(done, console.rate(per_second, "image"), total=total)

        counts = write_region_file(out, work, progress)
    return _report(out, found, counts, proposer, settings, as_json=as_json)


def _identity(found: CaptionedImages, settings: ProposeSettings) -> dict[str, Any]:
    sample = {} if settings.limit is None else {"limit": settings.limit, "seed": settings.seed}
    return {"name": found.name, "sha256": found.sha256(), **sample}


def _proposer(settings: ProposeSettings) -> RegionProposer:
    """The proposer of the backbone with our own number of boxes; of the networks only what it needs."""
    spec = load_preset(settings.backbone)
    spec = replace(spec, proposer=replace(spec.proposer, top_n=settings.top_n, nms=settings.nms))
    networks = load_backbone(spec, resolve_device(settings.device), console.fetching, parts=(_needed(spec),))
    return load_proposer(networks, console.fetching)


def _needed(spec: BackboneSpec) -> str:
    """The part whose embeddings, or at least whose device, the proposer takes."""
    sams = [
        name for name, part in spec.parts.items() if isinstance(part, SamSpec) and part.model == "packaged"
    ]
    return sams[0] if sams and spec.proposer.model == "packaged" else next(iter(spec.parts))


def _report(
    out: Path,
    found: CaptionedImages,
    counts: Counter[str],
    proposer: RegionProposer,
    settings: ProposeSettings,
    *,
    as_json: bool,
) -> dict[str, Any]:
    unread = {reason: count for reason, count in counts.items() if reason.startswith("image: ")}
    if unread:
        console.warn(f"images that could not be read and are not in {out}: {console.counts(unread)}")
    if not counts["captions"]:
        console.warn(f"{found.name} has no captions: its regions can be trained on, whole images cannot")
    following = f"rs-cache extract --dataset {out} --images {found.image_root} --backbone {settings.backbone}"
    facts = {
        "file": str(out),
        "image_root": str(found.image_root),
        **{name: counts[name] for name in ("images", "boxes", "captions")},
        "dropped": dict(found.dropped + Counter(unread)),
        "proposals": proposer.identity(),
        "next": following,
    }
    text = (
        f"{out}: {counts['boxes']} boxes and {counts['captions']} captions of {counts['images']} images.\n"
        f"next: {following}"
    )
    console.result(facts, text, as_json=as_json)
    return facts


def concepts(settings: ConceptSettings, *, as_json: bool = False) -> ConceptPool:
    """Writes the pool, says what is in it and which classes of another dataset it has, and returns it.

    Raises:
        InputError, MissingFileError, UsageError: as of `load_captions` and `pool_of_captions`.
    """
    found = load_captions(settings.source, data_root=settings.data, required=False)
    out = _out(settings.out, f"{found.name}-concepts.txt")
    with console.progress("parsing captions of images", len(found)) as ticker:

        def told():
            for done, record in enumerate(found.records, 1):
                yield record
                if done % 1000 == 0 or done == len(found):
                    ticker.update(done, console.rate(done / max(ticker.elapsed, 1e-9), "image"))

        pool = pool_of_captions(told(), min_images=settings.min_images, source=found.name)
    pool.save(out)
    first = ", ".join(f"{name} ({count})" for name, count in zip(pool.names[:5], pool.images, strict=False))
    facts = {"file": str(out), **pool.identity(), "dropped": dict(found.dropped)}
    text = (
        f"{out}: {len(pool)} concepts in at least {settings.min_images} images each, such as {first}; "
        f"SHA-256 {pool.sha256[:12]}."
    )
    if settings.overlap:
        dataset = load_dataset(settings.overlap, data_root=settings.data, require_images=False)
        facts["overlap"] = shared = _overlap(pool, dataset)
        groups = "; ".join(f"{name} {one['found']} of {one['classes']}" for name, one in shared.items())
        text += f"\nclass names of {settings.overlap} in the pool: {groups}"
    console.result(facts, text, as_json=as_json)
    return pool


def _overlap(pool: ConceptPool, dataset: DetectionDataset) -> dict[str, dict[str, Any]]:
    """By group of classes: all, those of each frequency, and those held out of training."""
    groups: dict[str, list[str]] = {"all": list(dataset.class_names)}
    columns = zip(dataset.class_names, dataset.class_frequency, dataset.class_novel, strict=True)
    for name, frequency, novel in columns:
        for group in filter(None, (frequency, NOVEL if novel else "")):
            groups.setdefault(group, []).append(name)
    found = {group: overlap(pool, names) for group, names in groups.items()}
    return {
        group: {"classes": len(names), "found": len(found[group]), "names": found[group]}
        for group, names in groups.items()
    }


def _out(asked: Path | None, name: str) -> Path:
    """The file to write, its folder made."""
    out = asked or FOLDER / name
    out.parent.mkdir(parents=True, exist_ok=True)
    return out
