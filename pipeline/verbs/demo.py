"""`rs-cache demo`."""

from pipeline.demo_settings import DemoSettings
from pipeline.verbs.command import verb


@verb(DemoSettings, reports=False)
def demo(settings: DemoSettings) -> None:
    """The whole story on the built-in world in a few minutes, ending in one HTML report."""
    from pipeline.demo import demo as run

    run(settings)
