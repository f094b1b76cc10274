"""`rs-cache bench`."""

from pipeline.bench.settings import BenchSettings
from pipeline.verbs.command import verb


@verb(BenchSettings)
def bench(settings: BenchSettings, *, as_json: bool) -> None:
    """Measure speeds here, side by side with what people use for each part.

    Example: rs-cache bench read extract --out benchmarks/2030-01-31-workstation.md
    """
    from pipeline.bench.run import bench as run

    run(settings, as_json=as_json)
