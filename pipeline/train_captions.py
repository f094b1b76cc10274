"""Caches of regions without labels as sources of `rs-cache train`: teacher, concept pool, captions."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from pipeline import console
from pipeline.places import WORKPLACE
from pipeline.train_inputs import embed_names, opened
from pipeline.verbs.train import PromptSettings, TrainSettings
from regionspot_cache.backbones import Backbone, Encoder, TextEncoder
from regionspot_cache.backbones.load import load_part
from regionspot_cache.datasets.caption_sources import load_captions
from regionspot_cache.datasets.captions import CaptionedImages
from regionspot_cache.datasets.concepts import read_pool
from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.store import Cache
from regionspot_cache.training.caption_source import CaptionSource, EveryBox
from regionspot_cache.training.derived import derived_root
from regionspot_cache.training.targets import (
    CaptionEmbeddings,
    ConceptTargets,
    Progress,
    caption_embeddings,
    concept_targets,
)

DERIVED = WORKPLACE / "derived"  # of caches that are remote or not the user's to write


def caption_sources(text: Backbone, settings: TrainSettings, device: str) -> list[CaptionSource]:
    """The caches of `settings.captions`; what is derived from them is kept beside them.

    `text` is the part that embeds texts; its spec says what the head relates, and has the teacher.

    Raises:
        UsageError: the backbone has no such teacher.
        IdentityError: a cache was made with other networks.
        InputError, MissingFileError: the pool, an array or the captions are not there.
    """
    wanted = settings.captions
    if not wanted.caches or wanted.pool is None:
        return []
    pool, prompts = read_pool(wanted.pool), PromptSettings(templates=wanted.templates)
    part = wanted.teacher.partition("/")[0]
    teacher, embedder = _teacher(text, part, device)
    # Opened first: a cache of other networks is said before names are embedded.
    networks, head = {**text.parts, part: teacher}, text.spec.head
    caches = [opened(path, head, networks, part) for path in wanted.caches]
    of_teacher = embed_names(embedder, pool.names, prompts)
    of_student = embed_names(text.text, pool.names, prompts)
    named = {"sha256": pool.sha256, **asdict(prompts), "encoder": embedder.text_fingerprint()}

    def concepts(cache: Cache, root: Path, progress: Progress) -> ConceptTargets:
        return concept_targets(
            cache,
            wanted.teacher,
            of_teacher,
            named,
            root,
            top_k=wanted.top_k,
            temperature=wanted.temperature,
            device=device,
            progress=progress,
        )

    def source(path: str, cache: Cache) -> CaptionSource:
        name = Path(path).name
        root = derived_root(cache.url, DERIVED)
        with console.progress(f"{name}: concepts", cache.num_partitions) as ticker:
            targets = concepts(cache, root, lambda done, _: ticker.update(done, "partitions"))
        return CaptionSource(
            name=name,
            cache=EveryBox(cache),
            inputs=head,
            class_names=pool.names,
            text_embeddings=of_student,
            text_identity={**asdict(prompts), "encoder": text.text.text_fingerprint()},
            scale=settings.scales.get(name, 1.0),
            concepts=targets,
            captions=_captions(name, cache, text.text, root, settings),
            teacher_part=part,
            options=wanted.options,
        )

    return [source(path, cache) for path, cache in zip(wanted.caches, caches, strict=True)]


def _teacher(text: Backbone, part: str, device: str) -> tuple[Encoder, TextEncoder]:
    """The network of a part, which embeds texts too."""
    spec = text.spec
    if part not in spec.parts:
        raise UsageError(
            f"captions.teacher = {part}/...: backbone {spec.name} has the parts {', '.join(spec.parts)}.",
            "A part that embeds every box, and texts.",
            "Add `teacher: {network: regionclip}` to the backbone file, and rs-cache extract --part teacher.",
        )
    encoder = text.parts.get(part) or load_part(spec.parts[part], device, console.fetching)
    if not isinstance(encoder, TextEncoder):
        raise UsageError(f"Part {part} of backbone {spec.name} embeds no texts.", "A teacher that does.")
    return encoder, encoder


def _captions(
    name: str, cache: Cache, encoder: TextEncoder, root: Path, settings: TrainSettings
) -> CaptionEmbeddings:
    """Embedded captions of the images of a cache; says how many there are."""
    of_image = _by_file_name(_read_captions(name, cache, settings))
    texts = [of_image(file_name) for file_name in cache.file_names]
    with console.progress(f"{name}: captions", cache.num_partitions) as ticker:

        def progress(done: int, _: int) -> None:
            ticker.update(done, "partitions")

        found = caption_embeddings(cache, texts.__getitem__, encoder, root, progress=progress)
    with_some = int((cache.live & (found.counts > 0)).sum())
    console.say(f"{name}: {int(found.counts.sum())} captions of {with_some} of {cache.live.sum()} images")
    return found


def _read_captions(name: str, cache: Cache, settings: TrainSettings) -> CaptionedImages:
    given, source = settings.datasets.get(name), cache.source
    if given is None and source is None:
        raise InputError(
            f"{cache.url} does not say for which region file it was made.",
            "Captions.",
            f"--set datasets.{name}=FILE.json",
        )
    data_root = settings.data if given is not None or source is None else Path(source.data_root)
    return load_captions(given or source.dataset, data_root=data_root, required=False)


def _by_file_name(found: CaptionedImages) -> Callable[[str], Sequence[str]]:
    """Captions by the name of the file, or by its last part where only one image has it."""
    whole = {record.file_name: record.captions for record in found.records}
    last: dict[str, Sequence[str]] = {}
    for file_name, captions in whole.items():
        key = PurePosixPath(file_name).name
        last[key] = () if key in last else captions
    return lambda name: whole.get(name, last.get(PurePosixPath(name).name, ()))
