"""`rs-cache explore`: the written page, and the server over HTTP."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.explore import make_server
from pipeline.regions import RegionsFound
from pipeline.verbs.explore import ExploreSettings, is_cache
from regionspot_cache.errors import InputError
from regionspot_cache.reporting.explore_server import HOST, ExploreServer
from regionspot_cache.reporting.regions_table import region_table
from tests.pipeline.explore_world import ODD, find, labels_in, server_of, settings_of
from tests.running import rs_cache

RUN = Path("rs-cache-data/runs/small")
CACHE = Path("rs-cache-data/caches/shapes-train-small")


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


def test_a_page_of_a_cache(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    ran = rs_cache("explore", CACHE, "--checkpoint", RUN, "--out", page, "--json", cwd=finished)
    assert ran.code == 0, ran.err
    data = data_of(page)
    assert ran.json["regions"] == len(data["image"]) == len(data["thumbnails"])
    assert ran.json["pictures"] == len(data["pictures"]) == len(data["images"]) == 24
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data["thumbnails"])
    assert len(data["attention"]) == 40
    assert data["text"]["rows"].count(-1) == 0
    assert ran.json["bytes"] == page.stat().st_size < 2_000_000


def test_a_page_takes_whole_images_and_no_more_bytes_than_said(finished: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", RUN, "--set", "most=30", "--out", tmp_path / "p.html")
    ran = rs_cache("explore", CACHE, *options, "--json", cwd=finished)
    assert ran.code == 0, ran.err
    assert 15 < ran.json["regions"] <= 30
    data = data_of(tmp_path / "p.html")
    whole = json.loads((finished / "rs-cache-data/datasets/shapes/train.json").read_text())["annotations"]
    shown = {image[0] for image in data["images"]}
    assert sorted(data["id"]) == sorted(one["id"] for one in whole if one["image_id"] in shown)


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        ((CACHE, "--serve", "--out", "p.html"), 2, "--serve with --out"),
        ((CACHE, "--save", "p.json"), 2, "--save without --serve"),
        (("shapse:val",), 2, "shapse"),
        (("none/labels.json",), 1, "none/labels.json"),
    ],
)
def test_what_cannot_be_explored(
    arguments: tuple[object, ...], code: int, found: str, finished: Path
) -> None:
    ran = rs_cache("explore", *arguments, "--checkpoint", RUN, cwd=finished)
    assert (ran.code, found in ran.error["error"]) == (code, True), ran.err


def test_serving_says_where_until_ctrl_c(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(server: ExploreServer) -> None:
        assert server.server_address[0] == HOST
        raise KeyboardInterrupt

    monkeypatch.setattr(ExploreServer, "serve_forever", interrupted)
    options = ("--checkpoint", RUN, "--limit", 2, "--serve", "--save", tmp_path / "r.json")
    ran = rs_cache("explore", CACHE, *options, cwd=finished)
    assert ran.code == 0, ran.err
    assert re.search(rf"Open http://{HOST}:\d+/\?token=[\w-]{{32}}\n", ran.out)
    assert f"Reviews go to {tmp_path / 'r.json'}" in ran.out
    assert "what was reviewed is saved" in ran.err


def test_a_folder_with_the_name_of_a_dataset_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("coco", "mine"):
        Path(name).mkdir()
    assert [is_cache(source) for source in ("coco", "coco:val", "./coco", "mine", "s3://a/b")] == [
        *(False, False),
        *(True, True, True),
    ]


@pytest.fixture(scope="module")
def explored(
    finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExploreSettings, RegionsFound]:
    labels = labels_in(tmp_path_factory.mktemp("labels"), finished)
    settings = settings_of(labels, finished, serve=True)
    return settings, find(settings)


@pytest.fixture
def server(explored: tuple[ExploreSettings, RegionsFound], tmp_path: Path) -> Iterator[ExploreServer]:
    settings, found = explored
    chosen = ExploreSettings(**{**vars(settings), "save": tmp_path / "new.json"})
    with server_of(found, chosen) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: ExploreServer, path: str, body: object = None, *, token: str | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=20)
    joint = "&" if "?" in path else "?"
    target = f"{path}{joint}token={server.token if token is None else token}"
    kind = {} if body is None else {"Content-Type": "application/json"}
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    connection.request(
        method, target, content, {**kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
    )
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_the_page_its_regions_and_pictures_are_served(server: ExploreServer) -> None:
    status, page, headers = ask(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"connect-src 'self'" in page
    assert headers["Cache-Control"] == "no-store"
    regions = json.loads(ask(server, "/regions")[1])
    total = len(regions["image"])
    assert (regions["searchable"], regions["attends"]) == (True, True)
    assert ODD in regions["names"]
    for path in ("/image/0", f"/thumbnail/{total - 1}"):
        status, picture, headers = ask(server, path)
        assert (status, headers["Content-Type"], picture[:2]) == (200, "image/jpeg", b"\xff\xd8")
    attention = json.loads(ask(server, "/attention/1")[1])
    assert len(attention["layers"]) == 2  # the depth of the head
    assert ask(server, f"/image/{total}")[0] == 404


def test_words_find_regions_by_the_text_encoder(
    server: ExploreServer, explored: tuple[ExploreSettings, RegionsFound]
) -> None:
    status, content, _ = ask(server, "/search?q=red%20star")
    found = json.loads(content)
    _, regions = explored
    assert regions.embedder is not None
    similarity = regions.regions.embeddings @ regions.embedder.embed_words(["red star"])[0]
    assert status == 200
    assert found["rows"] == np.argsort(-similarity, kind="stable").tolist()
    assert json.loads(ask(server, "/search?q=%20")[1]) == {"rows": [], "similarity": []}


def test_reviews_are_kept_in_a_new_file(
    server: ExploreServer, explored: tuple[ExploreSettings, RegionsFound]
) -> None:
    settings, found = explored
    before = Path(settings.source).read_bytes()
    said = {"action": "rename", "name": "a <new> name"}
    assert ask(server, "/reviews", {"row": 2, "review": said})[0] == 200
    assert ask(server, "/reviews", {"row": 3, "review": {"action": "reject", "name": None}})[0] == 200
    reviews = json.loads(ask(server, "/reviews")[1])["reviews"]
    assert reviews == {"2": said, "3": {"action": "reject", "name": None}}
    again = server_of(found, ExploreSettings(**{**vars(settings), "save": server.served.reviews.path}))
    again.server_close()
    assert again.served.reviews.by_row() == {int(row): review for row, review in reviews.items()}
    written = json.loads(server.served.reviews.path.read_text())
    assert len(written["annotations"]) == len(json.loads(before)["annotations"]) - 1
    assert Path(settings.source).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"token": ""}, 403),
        ({"token": "x" * 32}, 403),
        ({"token": "%C3%A9"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "elsewhere.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"body": b"{"}, 400),
        ({"body": {"row": 0, "review": {"action": "eat"}}}, 400),
        ({"body": {"row": "0", "review": None}}, 404),
        ({"body": {"row": -1, "review": None}}, 404),
        ({"body": b"[" * 5000}, 400),
        ({"body": b" " * 70_000}, 413),
    ],
)
def test_what_is_not_of_the_page_changes_nothing(
    change: dict[str, Any], status: int, server: ExploreServer
) -> None:
    given = {"body": {"row": 0, "review": {"action": "reject", "name": None}}, **change}
    found, content, _ = ask(server, "/reviews", **given)
    assert found == status
    assert json.loads(content)["error"]
    assert not server.served.reviews.path.exists()


@pytest.mark.parametrize(
    "path",
    [
        "/../labels.json",
        "/image/../../labels.json",
        "/image/-1",
        "/image/%2e%2e",
        "/image/1e3",
        "/thumbnail/x",
        "/image/99999999999999999999",
        "/labels.json",
        "//etc/passwd",
        "/attention/",
        "/image/0/",
    ],
)
def test_no_path_leads_to_a_file(path: str, server: ExploreServer) -> None:
    assert ask(server, path)[0] == 404
    assert ask(server, path, token="")[0] == 403


def test_the_annotations_themselves_are_never_the_file_of_reviews(
    explored: tuple[ExploreSettings, RegionsFound],
) -> None:
    settings, found = explored
    wrong = ExploreSettings(**{**vars(settings), "save": Path(settings.source)})
    with pytest.raises(InputError, match="is the annotation file itself"):
        make_server(found, region_table(found.regions, found.facts), wrong)
