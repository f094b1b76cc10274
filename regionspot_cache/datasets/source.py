"""Where annotations come from, so that they can be read again when labels are needed."""

from dataclasses import dataclass, field, replace

from regionspot_cache.datasets.regions import BoxPolicy


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """The arguments of `load_dataset`; paths are absolute.

    Attributes:
        dataset: NAME, NAME:SPLIT or a file.
        data_root: folder of the catalog's datasets.
        images: image folder, where one was given.
        limit, seed: of the sample.
        policy: how boxes were cleaned.
    """

    dataset: str
    data_root: str
    images: str | None = None
    limit: int | None = None
    seed: int = 0
    policy: BoxPolicy = field(default_factory=BoxPolicy)

    def __post_init__(self) -> None:
        # Written as it is read back: 2 and 2.0 are one size.
        object.__setattr__(self, "policy", replace(self.policy, min_size=float(self.policy.min_size)))
