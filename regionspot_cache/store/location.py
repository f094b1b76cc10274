"""From a path or URL to the objects there."""

import importlib.util
from pathlib import Path

from regionspot_cache.errors import MissingFileError
from regionspot_cache.store.local import LocalObjects
from regionspot_cache.store.objects import Objects


def open_objects(location: str | Path) -> Objects:
    """Objects of a folder, or of a URL that obstore knows (s3://, gs://, az://, memory://, file://).

    Raises:
        MissingFileError: a URL is given and obstore is not installed.
    """
    if "://" not in str(location):
        return LocalObjects(Path(location).absolute())
    if importlib.util.find_spec("obstore") is None:
        raise MissingFileError(
            f"{location} needs the package obstore, which is not installed",
            "a local folder, or obstore beside regionspot-cache",
            "pip install 'regionspot-cache[remote]'",
        )
    from regionspot_cache.store.remote import RemoteObjects

    return RemoteObjects.from_url(str(location))
