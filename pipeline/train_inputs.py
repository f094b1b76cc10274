"""What training on labels and training on captions have in common: opened caches and embedded names."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.places import WORKPLACE
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones import Encoder, TextEncoder
from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.errors import IdentityError
from regionspot_cache.store import Cache, open_cache


def opened(path: str, head: HeadInputs, networks: Mapping[str, Encoder], *others: str) -> Cache:
    """The parts that the head reads, and others; made with these networks, as far as they are known here."""
    expected = {part: encoder.fingerprint() for part, encoder in networks.items()}
    parts = tuple(dict.fromkeys((*head.parts, *others)))
    try:
        cache = open_cache(path, parts=parts, expect=expected)
    except IdentityError as error:
        other = f"--set backbone=FILE of the networks that made the cache, or {error.remedy}"
        raise IdentityError(error.found, error.expected, other) from None
    for array in head.arrays:
        cache.array(array)
    return cache


def embed_names(encoder: TextEncoder, names: Sequence[str], prompts: PromptSettings) -> NDArray[np.float32]:
    """Text embeddings of class names, kept on disk between runs; float32 [K, E]."""
    with console.progress("embedding class names", len(names)) as ticker:
        return text_embeddings(
            encoder,
            names,
            templates=prompts.templates,
            cleaning=prompts.cleaning,
            average=prompts.average,
            cache_dir=WORKPLACE / "text",
            progress=lambda done, total: ticker.update(done, "classes", total=total),
        )
