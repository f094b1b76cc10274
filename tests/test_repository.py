"""The repository as people and tools find it: its documents, their links, and what it must not mention."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "benchmarks", "configs", "docs", "pipeline", "regionspot_cache", "tests", "tools")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# In pieces, because this file is searched too: hosts of package registries, and folders of one machine.
FORBIDDEN = [
    "py" + r"pi\.(org|python)",
    "python" + r"hosted\.",
    r"registry\." + "npm",
    r"conda\." + "anaconda",
    "anaconda" + r"\.(org|com)",
    r"download\.pytorch\.org/" + "whl",
    r"(?<![\w.~*-])/" + r"(work|root|home|Users|opt)/\w",
]


def files() -> dict[str, str]:
    """The text files of the repository by their path."""
    paths = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    found = {}
    for path in sorted(paths):
        if {"__pycache__", "_build"} & set(path.parts):
            continue
        try:
            found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and weights
    return found


TEXTS = files()
LINKS = [
    (name, link)
    for name, text in TEXTS.items()
    if name.endswith(".md")
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
]


def heading_anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("file", "link"), sorted(set(LINKS)))
def test_links_of_all_pages_lead_somewhere(file: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / file).parent / path if path else ROOT / file
    assert target.exists()
    assert target.resolve().is_relative_to(ROOT)
    assert not anchor or anchor in heading_anchors(target.read_text(encoding="utf-8"))


def test_every_page_can_be_found() -> None:
    """By a link of another page, in the folder and on the site, whose index is linked by `make docs`."""
    linked = {((ROOT / file).parent / link.partition("#")[0]).resolve() for file, link in LINKS}
    pages = set((ROOT / "docs").glob("*.md")) | set((ROOT / "docs" / "notebooks").glob("*.md"))
    assert {page for page in pages if page not in linked} == {ROOT / "docs" / "index.md"}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_registry_and_no_machine_is_named(pattern: str) -> None:
    assert [name for name, text in TEXTS.items() if re.search(pattern, text)] == []


def test_the_patterns_find_what_they_are_for() -> None:
    samples = ["https://" + "py" + "pi.org/simple", "files.python" + "hosted.org", "cd " + "/work" + "/x"]
    samples += ["registry." + "npmjs.org", "conda.ana" + "conda.org", "'/ho" + "me/me/data'"]
    for sample in samples:
        assert any(re.search(pattern, sample) for pattern in FORBIDDEN), sample
    assert not any(re.search(pattern, "~/work/x ./home/x a/root/b /data/work") for pattern in FORBIDDEN)


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    citation = yaml.safe_load(TEXTS["CITATION.cff"])
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    papers = {identifier["value"] for paper in citation["references"] for identifier in paper["identifiers"]}
    assert papers == {"arXiv:2311.01373", "arXiv:2112.09106"}


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    assert re.findall(r"^## \[(.+?)\]", TEXTS["CHANGELOG.md"], re.MULTILINE)[0] == "Unreleased"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"])
def test_the_files_that_people_look_for_are_there(name: str) -> None:
    assert TEXTS[name].strip()


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z][\w-]*)", TEXTS["CONTRIBUTING.md"] + TEXTS[".ci/run"])))
)
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", TEXTS["Makefile"], re.MULTILINE)


def test_the_checks_run_what_contributors_are_told() -> None:
    [line] = [line for line in TEXTS[".ci/run"].splitlines() if line.startswith("make ")]
    assert line.split()[-1] == "test"  # its closing line is the last that is printed
    assert {"check", "wheel", "test"} <= set(line.split())


def test_pins_and_bounds_agree() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins: dict[str, list[Requirement]] = {}
    for line in (TEXTS["requirements.txt"] + TEXTS["requirements-optional.txt"]).splitlines():
        pin = Requirement(line)
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    for text in PROJECT["dependencies"] + extras:
        bound = Requirement(text)
        for pin in pins[canonicalize_name(bound.name)]:
            [version] = pin.specifier
            assert bound.specifier.contains(version.version), f"{pin} against {bound}"
