"""How Sphinx makes the documentation of these pages, the docstrings and the notebooks: `make docs`."""

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import regionspot_cache

DOCS = Path(__file__).parent

project = "regionspot-cache"
version = release = version_of(project)
copyright = "the regionspot-cache authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = project
html_show_sphinx = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Notebooks run at every build, each in an empty folder: what they show is what this version does.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of `!rs-cache`
nb_output_stderr = "remove"
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300

default_role = "code"
napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
# Its names are imported when first used; for the pages all of them are.
vars(regionspot_cache).update({name: getattr(regionspot_cache, name) for name in regionspot_cache.__all__})


def _leave_the_pages(app: object, page: str, source: list[str]) -> None:
    """Links to files of the repository become downloads, those to its folders text: neither is a page."""
    here = (DOCS / page).parent

    def of(match: re.Match[str]) -> str:
        text, path = match["text"].replace("`", ""), match["path"].partition("#")[0]
        target = (here / path).resolve()
        if target.is_relative_to(DOCS):
            return match[0]
        if target.is_dir():
            return f"{text} (`{target.relative_to(DOCS.parent)}/`)"
        return f"{{download}}`{text} <{path}>`"

    source[0] = re.sub(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>\.\.[^)\s]*)\)", of, source[0])


def _stars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings write shapes such as [n, *item]; no star of theirs begins an emphasis."""
    for number, line in enumerate(lines):
        parts = line.split("`")
        lines[number] = "`".join(
            [
                re.sub(r"(?<![\\\*])\*(?=\w)", r"\\*", part) if i % 2 == 0 else part
                for i, part in enumerate(parts)
            ]
        )


def setup(app: object) -> None:
    app.connect("autodoc-process-docstring", _stars, priority=600)  # type: ignore[attr-defined]
    app.connect("source-read", _leave_the_pages)  # type: ignore[attr-defined]
