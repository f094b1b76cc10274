"""The first contact with an object store: permanent mistakes are said at once, in words."""

import re
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from regionspot_cache.errors import RegionSpotError

_METADATA_SERVICE = r"169\.254\.169\.254|metadata\.google|/computeMetadata/"

# What the text of an error holds, what that means, what would be right, and what to do; the first that fits.
_CAUSES = (
    (
        rf"{_METADATA_SERVICE}|NoCredentials|MissingAccountKey|credential",
        "no credentials were found",
        "credentials in the environment, or in the role of this machine",
        "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... (or those of your store) and run it again",
    ),
    (
        r"NoSuchBucket|BucketNotFound|ContainerNotFound|404 Not Found",
        "there is no such bucket",
        "a bucket that exists, at this endpoint",
        "create it, or correct the URL (and AWS_ENDPOINT_URL, if the store is not that of AWS)",
    ),
    (
        r"incorrectly configured region|AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocation",
        "the bucket is in another region, or behind another endpoint",
        "the region and endpoint of the bucket",
        "export AWS_REGION=... (and AWS_ENDPOINT_URL, if the store is not that of AWS) and run it again",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|401 Unauthorized|ExpiredToken|InvalidToken",
        "the credentials are refused",
        "credentials that are valid for this store",
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or those of your store) and run it again",
    ),
    (
        r"AccessDenied|403 Forbidden",
        "access is denied",
        "credentials with rights to list, read and write there",
        "have the rights granted, or use other credentials, and run it again",
    ),
    (
        r"error sending request|Connection refused|dns error|timed out",
        "nothing answers there",
        "an object store that can be reached from this machine",
        "check AWS_ENDPOINT_URL (or that of your store), AWS_ALLOW_HTTP=true for http://, and the network",
    ),
)


def require_contact(url: str) -> None:
    """Asks a store for one listing, with little patience.

    Raises:
        RegionSpotError: there is no such bucket, there are no or wrong credentials, the region is another
            one, or nothing answers.
    """
    # Client options given here would replace those of the environment; a connection has 5 seconds anyway.
    retries: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
    try:
        with_little_patience = from_url(url, retry_config=retries)
        next(iter(obstore.list(with_little_patience, "staging", chunk_size=1)), None)
    except BaseError as error:
        raise explained(error, f"cannot open {url}") from error


def explained(error: BaseError, what: str) -> RegionSpotError:
    """An error of obstore in words; its own first line where the cause is none of the usual ones."""
    text = str(error)
    for pattern, found, expected, remedy in _CAUSES:
        if re.search(pattern, text):
            return RegionSpotError(f"{what}: {found}", expected, remedy)
    return RegionSpotError(
        f"{what}: {text.splitlines()[0][:300]}",
        "an object store that can be reached, with rights to read and write",
        "check the URL, the credentials and the quota, then run the same command again",
    )
