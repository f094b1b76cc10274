"""From sources and config to what the loop needs: usable images, readers, order, texts, the first head."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch

from regionspot_cache.errors import InputError, UsageError
from regionspot_cache.identity import for_reading, require_same
from regionspot_cache.training.config import TrainConfig
from regionspot_cache.training.head import RegionHead, read_model_config
from regionspot_cache.training.head_config import HeadOptions
from regionspot_cache.training.loader import SourceReader
from regionspot_cache.training.objectives import Objective, objective
from regionspot_cache.training.order import SampleOrder, UsableImages, usable_images, window_partitions
from regionspot_cache.training.sources import FeatureSource, build_head_config, model_metadata

_HOST_BYTES = 4 * 2**30
_GPU_SHARE = 0.6  # weights, moments and a step of the largest head take below 2 GB


@dataclass(frozen=True, kw_only=True)
class StageData:
    """The sources of one stage, in its order."""

    order: SampleOrder  # source index and images of every step
    readers: tuple[SourceReader, ...]
    objectives: tuple[Objective, ...]  # the loss of each source
    known: tuple[torch.Tensor | None, ...]  # `FeatureSource.known` of each


@dataclass(frozen=True, kw_only=True)
class RunData:
    """All sources of a run with the images that can be trained on."""

    config: TrainConfig
    sources: tuple[FeatureSource, ...]
    usable: tuple[UsableImages, ...]
    readers: tuple[SourceReader, ...]

    @classmethod
    def prepare(cls, sources: Sequence[FeatureSource], config: TrainConfig, device: torch.device) -> Self:
        """Check names, find the usable images of each source, and read the small ones onto the device."""
        _check_names(sources, config)
        usable = tuple(usable_images(s.cache, s.name, parts=s.parts, views=config.views) for s in sources)
        pairs = zip(sources, usable, strict=True)
        readers = tuple(SourceReader(source, table.images) for source, table in pairs)
        _load_small(readers, usable, memory_limit(config, device), device)
        return cls(config=config, sources=tuple(sources), usable=usable, readers=readers)

    @property
    def left_out(self) -> dict[str, Counter[str]]:
        return {source.name: table.left_out for source, table in zip(self.sources, self.usable, strict=True)}

    def stage(self, index: int, device: torch.device) -> StageData:
        """What stage `index` reads."""
        names = [source.name for source in self.sources]
        chosen = [names.index(name) for name in self.config.stages[index].sources or names]
        sources = [self.sources[i] for i in chosen]
        order = SampleOrder(
            [self.usable[i] for i in chosen],
            [self._window(self.sources[i], self.usable[i]) for i in chosen],
            self.config.batch_size,
            seed=(self.config.seed, index),
        )
        return StageData(
            order=order,
            readers=tuple(self.readers[i] for i in chosen),
            objectives=tuple(objective(source, self.config, device) for source in sources),
            known=tuple(
                None if source.known is None else torch.as_tensor(source.known).to(device).float()
                for source in sources
            ),
        )

    def _window(self, source: FeatureSource, usable: UsableImages) -> int:
        cache = source.cache
        if self.config.shuffle == "global":
            return max(1, -(-cache.num_images // cache.partition_size))
        # Of the maps of a partition, an epoch reads one view of every image.
        maps = max(1, cache.partition_size * usable.per_epoch // len(usable.images))
        return window_partitions(self.config.window_bytes, source.map_bytes, maps)


def initial_head(sources: Sequence[FeatureSource], config: TrainConfig) -> RegionHead:
    """The head before the first step: from the seed, or from `init_from`, which must fit (IdentityError)."""
    torch.manual_seed(config.seed)
    head = RegionHead(build_head_config(sources, config.head))
    if config.init_from:
        given, own = read_model_config(config.init_from), model_metadata(sources)
        if "networks" in given:  # those of an imported head say their arithmetic
            given["networks"] = {part: for_reading(facts) for part, facts in given["networks"].items()}
        shared = [key for key in ("networks", "inputs") if key in given]
        require_same(
            {key: given[key] for key in shared},
            {key: own[key] for key in shared},
            what=config.init_from,
            wanted_by="these caches",
            remedy="extract the caches with the networks of that head: rs-cache extract --backbone",
        )
        start = RegionHead.from_pretrained(config.init_from)
        _require_same_options(start, head, config.init_from)
        head.load_checked(start.state_dict(), source=config.init_from)
    return head


def _require_same_options(start: RegionHead, head: RegionHead, folder: str) -> None:
    """Tensors alone do not tell a head that normalises its map, say, from one that does not."""
    free = ("dropout", "self_attention")  # one may well want others of the same weights
    names = [option.name for option in fields(HeadOptions) if option.name not in free]
    found, wanted = ({name: getattr(one.config, name) for name in names} for one in (start, head))
    unlike = [f"--set training.head.{name}={found[name]}" for name in names if found[name] != wanted[name]]
    require_same(found, wanted, what=folder, wanted_by="this run", remedy=" ".join(unlike))


def run_identity(sources: Sequence[FeatureSource], config: TrainConfig) -> dict[str, Any]:
    """What a resumed run must have in common with the run it continues."""
    return {"config": config.identity(), "sources": {source.name: source.identity() for source in sources}}


def _check_names(sources: Sequence[FeatureSource], config: TrainConfig) -> None:
    names = [source.name for source in sources]
    if not names:
        raise InputError("no cache to train on", "at least one", "rs-cache train --cache DIR")
    if len(set(names)) < len(names):
        raise UsageError(f"two caches are called {Counter(names).most_common(1)[0][0]}", "distinct names")
    for name in ("towards_initial", "distillation"):
        if getattr(config, name) and not config.init_from:
            raise UsageError(
                f"{name} is {getattr(config, name)} without an initial head",
                "the folder of a trained head",
                f"--init RUN, or --set training.{name}=0",
            )
    if config.distillation and all(source.known is None for source in sources):
        raise UsageError(
            f"distillation is {config.distillation}, and no source has classes that the initial head knew",
            "text embeddings of these: FeatureSource.known",
        )
    for stage in config.stages:
        if unknown := set(stage.sources) - set(names):
            raise UsageError(f"stage {stage.name}: no cache {min(unknown)}", f"one of {', '.join(names)}")


def memory_limit(config: TrainConfig, device: torch.device) -> int:
    """Bytes that maps may take of the memory of a device."""
    if device.type != "cuda":
        return _HOST_BYTES if config.memory_bytes is None else config.memory_bytes
    free = int(_GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return free if config.memory_bytes is None else min(free, config.memory_bytes)


def _load_small(
    readers: Sequence[SourceReader], usable: Sequence[UsableImages], limit: int, device: torch.device
) -> None:
    pairs = zip(readers, usable, strict=True)
    sizes = [
        (reader.source.map_bytes * len(table.images) + reader.source.query_bytes, reader)
        for reader, table in pairs
    ]
    for size, reader in sorted(sizes, key=lambda pair: pair[0]):
        limit -= size
        if limit >= 0:
            reader.load(device)
