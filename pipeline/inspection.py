"""`rs-cache status`, `info` and `verify`: how far a cache is, what is in it, and whether it is whole."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import console
from pipeline.console import counts
from pipeline.failures import by_reason, failures_of, failures_text
from regionspot_cache.backbones.presets import BackboneSpec, load_preset
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.errors import DamageError, IdentityError, IncompleteError, InputError
from regionspot_cache.identity import require_same, without_arithmetic
from regionspot_cache.store import Cache, CacheWriter, Problem, open_cache, open_writer
from regionspot_cache.store import verify as verify_store

if TYPE_CHECKING:
    from pipeline.features import Encoders

TOLERANCE = 1e-3  # cosine distance of a recomputed token; int8 alone makes about 1e-4


def status(path: str, *, as_json: bool = False) -> None:
    """Prints progress of every part, failures by reason, and where the time went."""
    writer = open_writer(path)
    facts: dict[str, Any] = {
        "cache": path,
        "images": writer.record.shape.num_images,
        "boxes": writer.record.shape.num_boxes,
    }
    failures = failures_of(writer.markers(part) for part in writer.parts)
    facts["failed_images"], facts["failures"] = len(failures), by_reason(failures)
    facts["parts"] = {part: _part_status(writer, part) for part in writer.parts}
    told = failures_text(facts["images"], failures)
    console.result(facts, _status_text(facts, told), as_json=as_json)


def _part_status(writer: CacheWriter, part: str) -> dict[str, Any]:
    markers = writer.markers(part)
    seconds: defaultdict[str, float] = defaultdict(float)
    outcomes: Counter[str] = Counter()
    for marker in markers.values():
        outcomes.update(marker.counts)
        for step, value in marker.timings.items():
            seconds[step] += value
    return {
        "partitions": writer.num_partitions,
        "committed": len(markers),
        "images": dict(outcomes),
        "bytes": sum(marker.stored_bytes for marker in markers.values()),
        "seconds": {step: round(value, 2) for step, value in seconds.items()},
        "failures": [failure for _, marker in sorted(markers.items()) for failure in marker.failures],
    }


def _status_text(facts: dict[str, Any], told: str) -> str:
    lines = [f"{facts['cache']}: {told}, {facts['boxes']} boxes"]
    for part, value in facts["parts"].items():
        share = value["committed"] / value["partitions"]
        lines.append(
            f"{part:<5} {value['committed']}/{value['partitions']} partitions ({share:.0%}), "
            f"{console.size(value['bytes'])}; images: {counts(value['images'])}"
        )
        lines.append("      seconds: " + ", ".join(f"{step} {s:.1f}" for step, s in value["seconds"].items()))
        lines += [f"      failed: {f['file_name']}: {f['reason']}" for f in value["failures"][:20]]
        if len(value["failures"]) > 20:
            lines.append(f"      and {len(value['failures']) - 20} more; --json lists them all")
    return "\n".join(lines)


def info(path: str, *, as_json: bool = False) -> None:
    """Prints dataset, classes, parts with their arrays and fingerprints, bytes and dropped boxes."""
    writer = open_writer(path)
    record, shape = writer.record, writer.record.shape
    identity = dict(record.identity)
    classes = identity.get("class_names", [])
    facts = {
        "cache": path,
        "dataset": identity["dataset"],
        "split": identity["split"],
        "identity": {k: v for k, v in identity.items() if not isinstance(v, (list, tuple)) or len(v) < 16},
        "classes": len(classes),
        "images": shape.num_images,
        **_view_counts(writer),
        "boxes": shape.num_boxes,
        "partitions": shape.num_partitions,
        "partition_size": shape.partition_size,
        "image_root": record.image_root,
        "dropped": dict(record.dropped),
        "parts": {name: _part_info(writer, name) for name in writer.parts},
    }
    console.result(facts, _info_text(facts), as_json=as_json)


def _view_counts(writer: CacheWriter) -> dict[str, Any]:
    """How often each view occurs, of a cache with extra views of its images."""
    if not writer.record.shape.views:
        return {}
    names = Augmentation(**writer.record.identity["augmentation"]).names
    found = np.concatenate([writer.plan.views(p).numbers for p in range(writer.num_partitions)])
    return {"views": dict(zip(names, np.bincount(found, minlength=len(names)).tolist(), strict=True))}


def _part_info(writer: CacheWriter, part: str) -> dict[str, Any]:
    spec = writer.parts[part]
    sizes: Counter[str] = Counter()
    for marker in writer.markers(part).values():
        for key, entry in marker.objects.items():
            sizes[key.rsplit("/", 1)[0]] += entry.bytes
    return {**spec.to_dict(), "bytes": dict(sizes), "complete": not writer.pending(part)}


def _info_text(facts: dict[str, Any]) -> str:
    lines = [
        f"cache       {facts['cache']}",
        f"dataset     {facts['dataset']} {facts['split']}".rstrip(),
        f"images      {facts['images']} in {facts['partitions']} partitions of {facts['partition_size']}",
        f"boxes       {facts['boxes']} of {facts['classes']} classes",
        f"dropped     {counts(facts['dropped'])}",
        f"image root  {facts['image_root']}",
    ]
    if "views" in facts:
        made = ", ".join(f"{key} {value}" for key, value in facts["identity"]["augmentation"].items())
        lines.insert(3, f"views       {counts(facts['views'])} ({made})")
    for name, part in facts["parts"].items():
        lines.append(f"{name} part, {'complete' if part['complete'] else 'not complete'}")
        for array in part["arrays"]:
            per = "box" if array["ragged"] else "image"
            lines.append(f"  {array['name']:<14} {array['dtype']} {array['item_shape']} for every {per}")
        lines += [f"  {path:<24} {console.size(size):>12}" for path, size in part["bytes"].items()]
        lines += [
            f"  {key:<24} {value}" for key, value in part["fingerprint"].items() if key != "architecture"
        ]
    return "\n".join(lines)


def verify(
    path: str,
    *,
    full: bool = False,
    recompute: int = 0,
    repair: bool = False,
    backbone: str = "tiny",
    images: Path | None = None,
    as_json: bool = False,
) -> None:
    """Prints every problem of a cache.

    Args:
        path: folder or URL of the cache.
        full: read every byte.
        recompute: run the encoders again on this many random images and compare.
        repair: make damaged partitions uncommitted, so that the next extract does them again.
        backbone: preset of the encoders, for `recompute`.
        images: image root, when it has moved since the extraction.
        as_json: print JSON.

    Raises:
        DamageError: a problem was found.
        IncompleteError: there is no damage, but not everything is committed.
    """
    with console.progress("verifying", 1) as ticker:
        problems = verify_store(
            path,
            level="full" if full else "fast",
            progress=lambda done, total: ticker.update(done, "partitions", total=total),
        )
    facts: dict[str, Any] = {"cache": path, "level": "full" if full else "fast"}
    facts["problems"] = [problem._asdict() for problem in problems]
    if recompute and not problems:
        facts["recomputed"] = recomputed(
            open_cache(path, parts=tuple(open_writer(path).parts)), recompute, backbone, images
        )
    worst = max(facts.get("recomputed", {}).get("cosine_distance", {}).values(), default=0.0)
    text = (
        f"{path}: no problem found ({facts['level']})." if not problems else "\n".join(map(_line, problems))
    )
    if "recomputed" in facts:
        text += f"\nrecomputed {facts['recomputed']['images']} images: largest cosine distance {worst:.2e}"
    console.result(facts, text, as_json=as_json)
    if problems:
        _judge(path, problems, repair=repair)
    if worst > TOLERANCE:
        raise IdentityError(
            f"Recomputed tokens differ by a cosine distance of {worst:.2e}.",
            f"At most {TOLERANCE}: the networks or images are not those of the cache.",
            f"rs-cache extract --cache {path} --rebuild",
        )


def _line(problem: Problem) -> str:
    return f"{problem.key}: {problem.kind}: {problem.detail}"


def _judge(path: str, problems: list[Problem], *, repair: bool) -> None:
    damage = [problem for problem in problems if problem.is_damage]
    if not damage:
        raise IncompleteError(
            f"{path} is not finished: {len(problems)} partitions or parts are not committed or sealed.",
            "A sealed cache.",
            f"rs-cache extract with the same arguments completes it; rs-cache status {path}",
        )
    if repair:
        _discard(path, damage)
    raise DamageError(
        f"{len(damage)} problems in {path}; the first: {_line(damage[0])}",
        "Every stored byte as it was committed.",
        "rs-cache extract with the same arguments repairs it."
        if repair
        else f"rs-cache verify {path} --full --repair, then rs-cache extract with the same arguments.",
    )


def _discard(path: str, damage: list[Problem]) -> None:
    """Uncommits every damaged partition; extraction does it again."""
    writer = open_writer(path)
    for part, partition in sorted(
        {(p.part, p.partition) for p in damage if p.part and p.partition is not None}
    ):
        writer.discard(part, partition)
        console.say(f"uncommitted {part} partition {partition}")


def recomputed(cache: Cache, count: int, backbone: str, images: Path | None) -> dict[str, Any]:
    """Runs the encoders again on `count` random images; the largest cosine distance of every array."""
    from pipeline.features import Clock, ImageLoader, PartitionFeatures

    encoders = _encoders_of(cache, load_preset(backbone))
    good = np.flatnonzero(np.logical_and.reduce([cache.ok_mask(part) for part in cache.parts]))
    chosen = np.random.default_rng().choice(good, size=min(count, len(good)), replace=False)
    loader = ImageLoader(
        root=images or Path(cache.dataset.image_root),
        exif=cache.dataset.exif,
        encoders=encoders,
        clock=Clock(),
    )
    worst: defaultdict[str, float] = defaultdict(float)
    for i in chosen.tolist():
        planned, slot = cache.partition(i // cache.partition_size), i % cache.partition_size
        features = PartitionFeatures(planned, encoders, loader.clock, dtype="float16")
        for batch in loader.batches(planned, [slot], size=1, threads=1):
            features.add(batch)
        if slot in features.failures:
            raise InputError(
                f"{planned.file_names[slot]}: {features.failures[slot][1]}", "The image of the extraction."
            )
        rows = slice(*planned.offsets[slot : slot + 2])
        for name, values in features.arrays.get("sam", {}).items():
            _note(worst, f"sam/{name}", cache.read_tokens(i, name), np.asarray(values)[rows])
        for name, values in features.arrays.get("clip", {}).items():
            _note(worst, f"clip/{name}", cache.read_map(i), np.asarray(values)[slot])
    return {"images": len(chosen), "cosine_distance": dict(worst)}


def _note(worst: dict[str, float], name: str, stored: Any, again: Any) -> None:
    a, b = stored.astype(np.float64), again.astype(np.float64)
    norms = np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
    distance = 1 - (a * b).sum(-1) / norms
    worst[name] = max(worst[name], float(distance.max(initial=0.0)))


def _encoders_of(cache: Cache, spec: BackboneSpec) -> "Encoders":
    """The networks of the parts that the cache has; the token positions are the cache's."""
    from pipeline.features import Encoders
    from regionspot_cache.backbones import load_clip, load_sam

    sam = clip = None
    if "sam" in cache.parts:
        positions = tuple(cache.parts["sam"].fingerprint["positions"])
        sam = load_sam(replace(spec.sam, positions=positions))
        _require_same(cache, "sam", sam.fingerprint())
    if "clip" in cache.parts:
        clip = load_clip(spec.clip)
        _require_same(cache, "clip", clip.fingerprint())
    return Encoders(sam=sam, clip=clip)


def _require_same(cache: Cache, part: str, fingerprint: dict[str, Any]) -> None:
    require_same(
        {part: without_arithmetic(cache.parts[part].fingerprint)},
        {part: without_arithmetic(fingerprint)},
        what="the cache",
        wanted_by="these networks",
        remedy="Name the networks that it was made with: rs-cache verify CACHE --recompute K --backbone NAME",
    )
