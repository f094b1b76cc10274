"""What the tests of the stages share."""

from collections.abc import Iterator

import pytest

from tests.pipeline.launcher import Launcher


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts commands as processes."""
    found = Launcher(tmp_path_factory.mktemp("launched"))
    yield found
    found.close()
