"""`rs-cache convert`."""

from dataclasses import dataclass

from pipeline.options import option, verb
from pipeline.verbs.inspect import CacheSettings
from regionspot_cache.store.storage import StorageName


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(CacheSettings):
    """Into what, and where it goes."""

    dtype: StorageName = option("int4", "--dtype", "Storage type of the new cache, none finer than now.")
    out: str = option(..., "--out", "Folder or object-store URL of the new cache.", "DIR")


@verb(ConvertSettings)
def convert(settings: ConvertSettings, *, as_json: bool) -> None:
    """Store a cache again in a denser type, without the networks. Resumes by default.

    Example: rs-cache convert rs-cache-data/caches/o365-train-bl --dtype int4 --out o365-int4
    """
    from pipeline.reencode import convert as run

    run(settings.cache, settings.out, settings.dtype, as_json=as_json)
