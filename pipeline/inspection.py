"""`rs-cache status`, `info` and `verify`: how far a cache is, what is in it, and whether it is whole."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.console import counts
from pipeline.contents import Contents, waited
from pipeline.recompute import recomputed
from regionspot_cache.datasets.augmentation import Augmentation
from regionspot_cache.errors import DamageError, IdentityError, IncompleteError
from regionspot_cache.store import Cache, Problem, open_cache, open_writer
from regionspot_cache.store import verify as verify_store
from regionspot_cache.store.segments import within

TOLERANCE = 1e-3  # cosine distance of a recomputed token
TOLERANCE_INT4 = 2e-2  # what was converted to int4 was rounded twice


def status(path: str, *, as_json: bool = False) -> None:
    """Prints progress of every part, failures by reason, and where the time went."""
    there = Contents(path)
    facts: dict[str, Any] = {
        "cache": path,
        "images": there.images,
        "boxes": there.boxes,
        "updating": there.updating,
        "failed_images": len(there.failures),
        "failures": there.failures_by_reason,
        "parts": {part: _part_status(there, part) for part in there.parts},
    }
    console.result(facts, _status_text(facts, there.told), as_json=as_json)


def _part_status(there: Contents, part: str) -> dict[str, Any]:
    markers, made = there.markers[part], there.spec(part).fingerprint
    return {
        "network": " ".join(str(made[key]) for key in ("library", "model") if key in made),
        "partitions": there.partitions,
        "committed": len(markers),
        "images": dict(sum((Counter(marker.counts) for marker in markers.values()), Counter())),
        "bytes": there.bytes(part),
        "seconds": {step: round(value, 2) for step, value in there.seconds(part).items()},
        "failures": [failure for _, marker in sorted(markers.items()) for failure in marker.failures],
    }


def _status_text(facts: dict[str, Any], told: str) -> str:
    lines = [f"{facts['cache']}: {told}, {facts['boxes']} boxes"]
    if facts["updating"]:
        lines.append("an update is not finished: rs-cache extract --update with the same arguments goes on")
    for part, value in facts["parts"].items():
        share = value["committed"] / value["partitions"]
        lines.append(
            f"{part:<5} {value['committed']}/{value['partitions']} partitions ({share:.0%}), "
            f"{console.size(value['bytes'])}; images: {counts(value['images'])}"
        )
        lines.append(f"      network: {value['network'] or 'of no known name'}")
        steps = ", ".join(f"{step} {s:.1f}" for step, s in value["seconds"].items())
        lines.append("; ".join(filter(None, [f"      seconds: {steps}", waited(value["seconds"])])))
        lines += [f"      failed: {f['file_name']}: {f['reason']}" for f in value["failures"][:20]]
        if len(value["failures"]) > 20:
            lines.append(f"      and {len(value['failures']) - 20} more; --json lists them all")
    return "\n".join(lines)


def info(path: str, *, as_json: bool = False) -> None:
    """Prints where labels come from, parts with their arrays and fingerprints, bytes and dropped boxes."""
    there = Contents(path)
    cache, writer = there.cache, there.writers[0]
    facts: dict[str, Any] = {
        "cache": path,
        "annotations": asdict(cache.source) if cache.source else None,
        "identity": dict(writer.record.identity),
        "images": there.images,
        **_view_counts(cache),
        "boxes": there.boxes,
        "partitions": there.partitions,
        "partition_size": cache.partition_size,
        "segments": len(there.writers),
        "removed_images": sum(w.record.shape.num_images for w in there.writers) - there.images,
        "image_root": cache.image_root,
        "dropped": dict(cache.dropped),
        "parts": {part: _part_info(there, part) for part in there.parts},
    }
    console.result(facts, _info_text(facts), as_json=as_json)


def _view_counts(cache: Cache) -> dict[str, Any]:
    """How often each view occurs, of a cache with extra views of its images."""
    if cache.augmentation is None or cache.views is None:
        return {}
    names = Augmentation(**cache.augmentation).names
    found = np.bincount(cache.views[cache.live], minlength=len(names)).tolist()
    return {"views": dict(zip(names, found, strict=True))}


def _part_info(there: Contents, part: str) -> dict[str, Any]:
    complete = len(there.markers[part]) == there.partitions
    return {**asdict(there.spec(part)), "bytes": there.bytes_by_array(part), "complete": complete}


def _info_text(facts: dict[str, Any]) -> str:
    source = facts["annotations"]
    lines = [
        f"cache       {facts['cache']}",
        f"annotations {source['dataset'] if source else 'not recorded'}",
        f"images      {facts['images']} in {facts['partitions']} partitions of {facts['partition_size']}",
        f"boxes       {facts['boxes']}",
        f"dropped     {counts(facts['dropped'])}",
        f"image root  {facts['image_root']}",
    ]
    if facts["segments"] > 1 or facts["removed_images"]:
        told = f"{facts['segments'] - 1} added segments, {facts['removed_images']} images given up"
        lines.insert(3, f"updates     {told}")
    if "views" in facts:
        made = ", ".join(f"{key} {value}" for key, value in facts["identity"]["augmentation"].items())
        lines.insert(3, f"views       {counts(facts['views'])} ({made})")
    for name, part in facts["parts"].items():
        lines.append(f"{name} part, {'complete' if part['complete'] else 'not complete'}")
        for array in part["arrays"]:
            per = "box" if array["ragged"] else "image"
            lines.append(
                f"  {array['name']:<14} {array['dtype']} {list(array['item_shape'])} for every {per}"
            )
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
        facts["recomputed"] = recomputed(open_cache(path), recompute, backbone, images)
    worst = max(facts.get("recomputed", {}).get("cosine_distance", {}).values(), default=0.0)
    text = f"{path}: no problem found ({facts['level']})." if not problems else "\n".join(map(str, problems))
    if "recomputed" in facts:
        text += f"\nrecomputed {facts['recomputed']['images']} images: largest cosine distance {worst:.2e}"
    console.result(facts, text, as_json=as_json)
    if problems:
        _judge(path, problems, repair=repair)
    tolerance = TOLERANCE_INT4 if facts.get("recomputed", {}).get("int4") else TOLERANCE
    if worst > tolerance:
        raise IdentityError(
            f"Recomputed tokens differ by a cosine distance of {worst:.2e}.",
            f"At most {tolerance}: the networks or images are not those of the cache.",
            f"rs-cache extract --cache {path} --rebuild",
        )


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
        f"{len(damage)} problems in {path}; the first: {damage[0]}",
        "Every stored byte as it was committed.",
        "rs-cache extract with the same arguments repairs it."
        if repair
        else f"rs-cache verify {path} --full --repair, then rs-cache extract with the same arguments.",
    )


def _discard(path: str, damage: list[Problem]) -> None:
    found = {(p.segment, p.part, p.partition) for p in damage if p.part and p.partition is not None}
    for segment, part, partition in sorted(found):
        open_writer(within(path, segment)).discard(part, partition)
        console.say(f"uncommitted {part} partition {partition}{f' of {segment}' if segment else ''}")
