"""`rs-cache convert`: a cache in another storage type, beside the first."""

from typing import Any

from pipeline import console
from pipeline.contents import Contents
from regionspot_cache.store.convert import convert as convert_store
from regionspot_cache.store.storage import StorageName


def convert(path: str, out: str, dtype: StorageName, *, as_json: bool = False) -> dict[str, Any]:
    """Converts a cache, and prints sizes and how far features moved; errors as of `store.convert`."""
    with console.progress("converting", 1) as ticker:
        moved = convert_store(
            path, out, dtype, progress=lambda done, total: ticker.update(done, "partitions", total=total)
        )
    sizes = [sum(there.bytes(part) for part in there.parts) for there in (Contents(path), Contents(out))]
    facts = {"cache": out, "dtype": dtype, "bytes": sizes[1], "bytes_before": sizes[0], "arrays": moved}
    lines = [f"{out} is complete and verified: {console.size(sizes[1])} instead of {console.size(sizes[0])}."]
    lines += [
        f"{name}: cosine with the features of {path}: mean {found['cosine_mean']:.5f}, "
        f"worst {found['cosine_worst']:.5f}"
        for name, found in moved.items()
    ]
    console.result(facts, "\n".join(lines), as_json=as_json)
    return facts
