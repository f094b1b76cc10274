"""What an object store refuses for good is said within seconds, in three lines."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import create_cache, open_cache
from regionspot_cache.store.objects import open_objects
from tests.store.small_world import clip_part, make_dataset


class Refusing(BaseHTTPRequestHandler):
    """An S3 server that answers every request with one error."""

    answer = (404, "NoSuchBucket")

    def do_GET(self) -> None:
        status, code = self.answer
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{found.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield Refusing
    found.shutdown()
    found.server_close()
    thread.join()


def refusal(url: str = "s3://bucket/cache") -> RegionSpotError:
    started = time.monotonic()
    with pytest.raises(RegionSpotError) as caught:
        open_objects(url)
    assert time.monotonic() - started < 30
    assert caught.value.expected
    assert caught.value.remedy
    for part in (caught.value.found, caught.value.expected, caught.value.remedy):
        assert "\n" not in part
        assert "169.254" not in part
        assert "Debug source" not in part
    return caught.value


@pytest.mark.parametrize(
    ("answer", "found", "remedy"),
    [
        ((404, "NoSuchBucket"), "there is no such bucket", "create it"),
        ((301, "PermanentRedirect"), "another region", "AWS_REGION"),
        ((400, "AuthorizationHeaderMalformed"), "another region", "AWS_REGION"),
        ((403, "InvalidAccessKeyId"), "credentials are refused", "AWS_ACCESS_KEY_ID"),
        ((403, "AccessDenied"), "access is denied", "rights"),
        ((503, "SlowDown"), "503", "run the same command again"),
    ],
)
def test_what_a_store_refuses(server: type[Refusing], answer: tuple, found: str, remedy: str) -> None:
    server.answer = answer
    error = refusal()
    assert error.found.startswith("cannot open s3://bucket/cache: ")
    assert found in error.found
    assert remedy in error.remedy


def test_a_refused_connection(server: type[Refusing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = refusal()
    assert "nothing answers there" in error.found
    assert "AWS_ENDPOINT_URL" in error.remedy


def test_no_credentials(server: type[Refusing], monkeypatch: pytest.MonkeyPatch) -> None:
    # In place of the service of the machine that hands out credentials, which is asked when there are none.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/computeMetadata/")
    assert "no credentials were found" in refusal().found


def test_reading_and_writing_are_refused_the_same_way(server: type[Refusing]) -> None:
    server.answer = (404, "NoSuchBucket")
    with pytest.raises(RegionSpotError, match="there is no such bucket"):
        open_cache("s3://bucket/cache")
    with pytest.raises(RegionSpotError, match="there is no such bucket"):
        create_cache("s3://bucket/cache", make_dataset(4), parts=[clip_part()])
