"""The page to explore regions, served to the browsers of this machine alone.

Every request needs a token that only the printed address has, so neither other users of the machine nor pages
of other sites read or change anything; the name in the request must be the loopback one, so no name of
elsewhere can be made to point here. Pictures are asked for by the row of a region, never by a path.
"""

import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from regionspot_cache.datasets.images import ImageFailure
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.reporting.explore_page import (
    Pixels,
    boxes_of,
    jpeg,
    packed_attention,
    page_data,
    render_explore,
    thumbnail,
)
from regionspot_cache.reporting.review import ReviewedFile, review_of

HOST = "127.0.0.1"
MOST_FOUND = 200  # regions that a search gives
PICTURE, QUALITY = 1200, 85
LARGEST_REQUEST = 1 << 16
_KEPT_THUMBNAILS = 20_000

Answer = tuple[str, bytes]
"""Content type and content."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the page is about.

    Attributes:
        title: heading.
        table: the regions.
        facts: what they were made from.
        pixels: of the image of a region; called from several threads.
        embeddings: unit vectors of the regions, float32 [N, E].
        reviews: where reviews go.
        embed_words: unit vector [E] of words; None where words cannot be embedded.
        attention: weights [layers, rows, columns] of a region; None where nothing attends.
    """

    title: str
    table: pa.Table
    facts: Mapping[str, Any]
    pixels: Pixels
    embeddings: NDArray[np.float32]
    reviews: ReviewedFile
    embed_words: Callable[[str], NDArray[np.float32]] | None
    attention: Callable[[int], NDArray[np.float32]] | None


class _NotFound(Exception):  # noqa: N818 - an answer, not an error of the program
    """Nothing is at that address."""


class ExploreServer(ThreadingHTTPServer):
    """Serves one set of regions on the loopback interface.

    Args:
        served: what is shown.
        port: 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, served: Served, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.served, self.token = served, secrets.token_urlsafe(24)
        self._boxes = boxes_of(served.table)
        self._regions: bytes | None = None
        self.small = lru_cache(_KEPT_THUMBNAILS)(self._thumbnail)

    @property
    def address(self) -> str:
        """What to open, with the token."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def answer(self, path: str, query: Mapping[str, list[str]]) -> Answer:
        """What a GET request gets; a path that is none raises."""
        fixed = {"/": self._page, "/regions": self._all, "/reviews": self._reviews}
        if path in fixed:
            return fixed[path]()
        if path == "/search" and self.served.embed_words is not None:
            return _json(self._search(self.served.embed_words, (query.get("q") or [""])[0]))
        kinds = {"image": self._image, "thumbnail": self._small, "attention": self._attention}
        found = re.fullmatch(r"/(image|thumbnail|attention)/(\d{1,12})", path)
        if not found or int(found[2]) >= len(self._boxes):
            raise _NotFound
        return kinds[found[1]](int(found[2]))

    def review(self, said: Any) -> Answer:
        """Takes {row, review}, where a review of null takes back what was said."""
        row = said.get("row") if isinstance(said, dict) else None
        if type(row) is not int or not 0 <= row < len(self._boxes):
            raise _NotFound
        review = said.get("review")
        self.served.reviews.set(row, None if review is None else review_of(review, "the page"))
        return _json({"saved": str(self.served.reviews.path)})

    def _page(self) -> Answer:
        html = render_explore(self.served.title, {"token": self.token}, served=True)
        return "text/html; charset=utf-8", html.encode()

    def _all(self) -> Answer:
        if self._regions is None:
            served = self.served
            more = {
                "save": str(served.reviews.path),
                "searchable": served.embed_words is not None,
                "attends": served.attention is not None,
            }
            self._regions = _json(page_data(served.table, served.facts) | more)[1]
        return "application/json", self._regions

    def _reviews(self) -> Answer:
        return _json({"reviews": self.served.reviews.by_row()})

    def _search(self, embed: Callable[[str], NDArray[np.float32]], words: str) -> dict[str, Any]:
        words = " ".join(words.split())
        if not words:
            return {"rows": [], "similarity": []}
        similarity = self.served.embeddings @ embed(words)
        rows = np.argsort(-similarity, kind="stable")[:MOST_FOUND]
        return {"rows": rows.tolist(), "similarity": np.round(similarity[rows].astype(float), 4).tolist()}

    def _image(self, row: int) -> Answer:
        return "image/jpeg", jpeg(self.served.pixels(row), PICTURE, QUALITY)

    def _small(self, row: int) -> Answer:
        return "image/jpeg", self.small(row)

    def _thumbnail(self, row: int) -> bytes:
        return thumbnail(self.served.pixels(row), self._boxes[row])

    def _attention(self, row: int) -> Answer:
        if self.served.attention is None:
            raise _NotFound
        return _json(packed_attention(self.served.attention(row)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    headers_sent: ClassVar[dict[str, str]] = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Frame-Options": "DENY",
    }

    @property
    def _own(self) -> ExploreServer:
        assert isinstance(self.server, ExploreServer)
        return self.server

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = parse_qs(split.query)
        if self._may(query):
            self._try(lambda: self._own.answer(split.path, query))

    def do_POST(self) -> None:
        split = urlsplit(self.path)
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and int(length) <= LARGEST_REQUEST):
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large, or of no length")
            return
        body = self.rfile.read(int(length))
        if not self._may(parse_qs(split.query)):
            return
        if split.path != "/reviews":
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is there")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is expected")
        else:
            self._try(lambda: self._own.review(json.loads(body)))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the command line does."""

    def _may(self, query: Mapping[str, list[str]]) -> bool:
        """Whether the request is of the page itself; answers it if not."""
        host = f"{HOST}:{self._own.server_port}"
        origin = self.headers.get("Origin")
        token = (query.get("token") or [""])[0].encode()
        own = self.headers.get("Host") == host and origin in (None, f"http://{host}")
        if own and hmac.compare_digest(token, self._own.token.encode()):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "open the address that rs-cache explore printed")
        return False

    def _try(self, work: Callable[[], Answer]) -> None:
        try:
            kind, content = work()
        except _NotFound:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is there")
        except ImageFailure as failure:
            self._refuse(HTTPStatus.NOT_FOUND, str(failure))
        except (RegionSpotError, ValueError, RecursionError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:  # a full disk, no right to write
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.filename or ''} {error.strerror}")
        else:
            self._send(HTTPStatus.OK, kind, content)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(status, *_json({"error": why}))

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **self.headers_sent}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _json(value: Any) -> Answer:
    return "application/json", json.dumps(value, allow_nan=False).encode()
