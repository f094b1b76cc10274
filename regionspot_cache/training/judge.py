"""How a head names the labelled regions of a cache, without the networks that made its features."""

from collections.abc import Sequence

import numpy as np
import torch

from regionspot_cache.evaluation.confidence import Counted
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import SourceReader, make_batch
from regionspot_cache.training.order import usable_images
from regionspot_cache.training.sources import TrainingSource

BATCH = 16  # images


@torch.inference_mode()
def count_right(heads: Sequence[RegionHead], source: TrainingSource) -> Counted:
    """What each head names right among the classes of the source, by image of its cache and true class.

    Heads are on one device and are put into evaluation mode. Views of an image beside the picture itself do
    not count, nor images that could not be read when features were made.
    """
    device = next(heads[0].parameters()).device
    images = usable_images(source.cache, source.name, parts=source.parts, views="original").images
    text, reader = torch.from_numpy(source.text_embeddings).to(device), SourceReader(source, images)
    shape = (len(images), len(source.class_names))
    right, total = np.zeros((len(heads), *shape), np.int64), np.zeros(shape, np.int64)
    for start in range(0, len(images), BATCH):
        chosen = images[start : start + BATCH]
        batch = make_batch(0, 0, reader, chosen, len(chosen), pin=False).to(device)
        labels = batch.labels.cpu().numpy()
        rows = start + batch.real.nonzero()[:, 0].cpu().numpy()
        np.add.at(total, (rows, labels), 1)
        for head, of_head in zip(heads, right, strict=True):
            embeddings = head.eval()(batch.tokens, batch.feature_map(), batch.real).flatten(0, 1)
            named = head.logits(embeddings[batch.places], text).argmax(-1).cpu().numpy()
            np.add.at(of_head, (rows, labels), named == labels)
    return Counted(images=images, right=right, total=total)
