"""`rs-cache import` and `push`: model folders from and to elsewhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.places import WORKPLACE
from pipeline.verbs.train import PromptSettings
from regionspot_cache.backbones import (
    Backbone,
    BackboneSpec,
    ClipSpec,
    NetworkSpec,
    load_backbone,
    load_preset,
    save_preset,
)
from regionspot_cache.errors import InputError, MissingFileError
from regionspot_cache.files import file_sha256, replacing
from regionspot_cache.models.card import model_card
from regionspot_cache.models.hub import BACKBONE_FILE, CARD_FILE, CONFIG_FILE, push_to_hub
from regionspot_cache.models.official import import_official, released_backbone
from regionspot_cache.training.checkpoint import publish_model
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.folder import claim_folder
from regionspot_cache.training.head import RegionHead, read_model_config

RECORDED = "loaded and recorded"
NOT_LOADED = "not at hand when this was imported: only their names and widths are checked"


def import_checkpoint(
    checkpoint: Path, backbone: str, out: Path | None = None, *, as_json: bool = False
) -> Path:
    """A released RegionSpot checkpoint as a model folder for `eval`, `predict` and `push`.

    InputError when the folder holds a model already; other errors as of `import_official`.
    """
    out = out or WORKPLACE / "runs" / checkpoint.stem
    spec = released_backbone(backbone)
    head = import_official(checkpoint, spec)
    with claim_folder(out, ProcessGroup()):
        if (out / CONFIG_FILE).exists():
            raise InputError(f"{out} holds a model already.", "A new folder.", "--out DIR")
        networks = _networks(spec)
        save_preset(spec, out / BACKBONE_FILE)
        publish_model(out, head, _metadata(checkpoint, spec, networks))
    recorded = RECORDED if networks else NOT_LOADED
    facts = {"folder": str(out), "tensors": len(head.state_dict()), "networks": recorded}
    text = f"Imported {facts['tensors']} tensors into {out}; frozen networks {recorded}."
    console.result(facts, text, as_json=as_json)
    return out


def push(
    run: Path, repo_id: str, *, private: bool = False, metrics: Path | None = None, as_json: bool = False
) -> str:
    """A model folder to the hub, after loading it: what others cannot load is not sent.

    `metrics` is a metrics.json of `rs-cache eval`, for the card. Errors of loading, or as of `push_to_hub`.
    """
    config = read_model_config(run)
    RegionHead.from_pretrained(run)
    _warn_of_local_files(run)
    if metrics or not (run / CARD_FILE).exists():
        card = model_card(config, _results(metrics) if metrics else ())
        with replacing(run / CARD_FILE) as staging:
            staging.write_text(card, encoding="utf-8")
    address = push_to_hub(run, repo_id, private=private or None)
    console.result({"address": address}, f"Pushed {run} to {address}.", as_json=as_json)
    return address


def _networks(spec: BackboneSpec) -> Backbone | None:
    """The frozen networks, or None where their weights are not at hand."""
    try:
        return load_backbone(spec, progress=console.fetching)
    except MissingFileError as error:
        console.warn(f"{error.found} The head is imported without fingerprints.")
        return None


def _certain(part: NetworkSpec) -> dict[str, str]:
    """What the fingerprint of a network says whatever its weights."""
    image = {"preprocess": f"squash, {part.resize}"} if isinstance(part, ClipSpec) else {}
    return {"model": part.model, **image}


def _metadata(checkpoint: Path, spec: BackboneSpec, networks: Backbone | None) -> dict[str, Any]:
    text: dict[str, Any] = asdict(PromptSettings(templates="clip80+name", cleaning="raw", average="raw-mean"))
    if networks is not None:
        text["encoder"] = networks.text.text_fingerprint()
    return {
        "library_version": version("regionspot-cache"),
        "imported_from": {
            "file": checkpoint.name,
            "sha256": file_sha256(checkpoint),
            "networks": RECORDED if networks else NOT_LOADED,
        },
        "networks": {
            name: networks.parts[name].fingerprint() if networks else _certain(spec.parts[name])
            for name in spec.head.parts
        },
        "inputs": spec.head.to_dict(),
        "text": text,
    }


def _warn_of_local_files(run: Path) -> None:
    if not (run / BACKBONE_FILE).is_file():
        console.warn(f"no {BACKBONE_FILE} in {run}: RegionPredictor will need --backbone")
        return
    spec = load_preset(run / BACKBONE_FILE, from_model_folder=True)
    for name, part in {**spec.parts, "proposer": spec.proposer}.items():
        for key, value in (("model", part.model), ("weights", part.weights)):
            if value.startswith("local-dir:") or Path(value).exists():
                console.warn(f"{BACKBONE_FILE} names {name}.{key} = {value}, which only this machine has")


def _results(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            f"No metrics at {path}.", "What rs-cache eval wrote.", "rs-cache eval"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}", "metrics.json of rs-cache eval.") from None
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list) or not all(map(_is_result, results)):
        raise InputError(f"{path} has no results.", "metrics.json of rs-cache eval.")
    return results


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("protocol"), dict):
        return False
    metrics = result.get("metrics")
    return isinstance(metrics, dict) and all(isinstance(group, dict) for group in metrics.values())
