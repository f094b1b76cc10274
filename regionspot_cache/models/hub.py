"""Model folders: the files of one, and where they come from and go to on the Hugging Face hub.

A hub id is "ORG/NAME" or "ORG/NAME@REVISION". Only the files named here are ever fetched or uploaded; none of
them is a pickle.
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from regionspot_cache.errors import InputError, MissingFileError, UsageError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
BACKBONE_FILE = "backbone.yaml"
CLASSES_FILE = "classes.txt"
CARD_FILE = "README.md"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, BACKBONE_FILE, CLASSES_FILE, CARD_FILE)

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


def model_folder(name: Path | str) -> Path:
    """The local folder of a model: `name` itself, or the fetched copy when it is a hub id.

    A folder of that name always wins, what lies in a folder ORG that is here is no hub id, and a `Path`
    never is one. Raises MissingFileError.
    """
    hub_id = _HUB_ID.fullmatch(name) if isinstance(name, str) else None
    if hub_id is None or os.path.exists(name) or os.path.isdir(os.path.dirname(name)):
        return Path(name)
    import huggingface_hub  # costs a second, and only hub users need it

    with _explained(
        f"{name} is no folder here and could not be fetched from the hub",
        f"An existing folder, or ORG/NAME[@REVISION] on the hub with {CONFIG_FILE} and {WEIGHTS_FILE}.",
        "Check the name and the network; a private repository needs `hf auth login`.",
        MissingFileError,
    ):
        fetched = huggingface_hub.snapshot_download(
            hub_id["repo"], revision=hub_id["revision"], allow_patterns=list(MODEL_FILES)
        )
    return Path(fetched)


def push_to_hub(
    folder: Path | str,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload the files of a model folder, creating the repository where there is none.

    Args:
        folder: holds at least config.json and model.safetensors; other than model files stay here.
        repo_id: "ORG/NAME", whose address is returned.
        private: of a new repository; None leaves it to the organisation's default.
        token: of the hub; the one of `hf auth login` or $HF_TOKEN when not given.

    Raises:
        UsageError: `repo_id` is not ORG/NAME.
        MissingFileError: no model in the folder.
        InputError: no token, no network, or the hub refuses.
    """
    hub_id = _HUB_ID.fullmatch(repo_id)
    if hub_id is None or hub_id["revision"]:
        raise UsageError(f"{repo_id!r} is no repository of the hub.", "ORG/NAME, for example me/street-head.")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not os.path.isfile(Path(folder) / name):
            raise MissingFileError(
                f"no {name} in {folder}", "the folder of a trained head", "rs-cache train --out DIR"
            )
    import huggingface_hub

    if token is None and huggingface_hub.get_token() is None:
        raise InputError(
            f"No token to push {repo_id} with.",
            "A token of the hub that may write.",
            "hf auth login   or set HF_TOKEN",
        )
    api = huggingface_hub.HfApi(token=token)
    with _explained(
        f"{repo_id} could not be pushed",
        "A network, and a token that may write there.",
        "Check both and run the same command again; what is uploaded already is not sent twice.",
        InputError,
    ):
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            allow_patterns=list(MODEL_FILES),
            commit_message="Upload a region recognition head",
        )
    return str(address)


@contextmanager
def _explained(
    found: str, expected: str, remedy: str, kind: type[InputError] | type[MissingFileError]
) -> Generator[None, None, None]:
    """Errors of the hub's library, most of which speak of HTTP, in three lines."""
    # The library re-exports the base of its HTTP client's errors, whichever client its version has.
    from huggingface_hub.errors import HFValidationError, HTTPError

    from regionspot_cache.backbones.weights import missing_hub, why_not_fetched  # it imports torch

    missing_hub()
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        raise kind(f"{found}: {why_not_fetched(error)}", expected, remedy) from error
