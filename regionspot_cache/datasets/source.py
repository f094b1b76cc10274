"""Where annotations come from, so that they can be read again when labels are needed."""

from dataclasses import dataclass, field, replace

from regionspot_cache.datasets.regions import BoxPolicy


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """The arguments of `load_dataset`; paths are absolute."""

    dataset: str  # NAME, NAME:SPLIT or a file
    data_root: str  # folder of the catalog's datasets
    images: str | None = None  # image folder, where one was given
    limit: int | None = None  # limit and seed: of the sample
    seed: int = 0
    policy: BoxPolicy = field(default_factory=BoxPolicy)  # how boxes were cleaned

    def __post_init__(self) -> None:
        # Written as it is read back: 2 and 2.0 are one size.
        object.__setattr__(self, "policy", replace(self.policy, min_size=float(self.policy.min_size)))
