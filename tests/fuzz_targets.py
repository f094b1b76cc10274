"""Readers of images, JSON, pickles, class names, model folders and weights, for `tests.fuzzing`."""

import io
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_safetensors

from regionspot_cache.backbones import vocabulary
from regionspot_cache.backbones.presets import PRESETS, save_preset
from regionspot_cache.backbones.vocabulary import prompts, read_class_names
from regionspot_cache.backbones.weights import read_state
from regionspot_cache.datasets.images import ImageFailure, image_size, read_image
from regionspot_cache.errors import InputError
from regionspot_cache.json_stream import JsonFile
from regionspot_cache.models.folder import read_model_config, read_weights
from regionspot_cache.models.hub import model_folder
from regionspot_cache.models.official import export_official, read_official
from regionspot_cache.models.safe_pickle import load_arrays
from regionspot_cache.recognition.predictor import check_origin
from regionspot_cache.training.head import HeadConfig, RegionHead
from tests.fuzzing import Target
from tests.models.test_folder import CONFIG, ORIGIN

RGB = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


def _image(kind: str, mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    grey16 = RGB[:, :, 0].astype(np.uint16) * 257
    image = Image.fromarray(grey16) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    image.save(file, kind, **options)
    return file.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return exif.tobytes()


def _read_image(path: Path) -> None:
    image_size(path)
    pixels = read_image(path, exif="apply", max_pixels=10**6)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == pixels.shape[2] == 3


_FRAMES = [Image.fromarray(np.roll(RGB, step)) for step in (1, 2)]
_IMAGES = {
    "jpeg": _image("JPEG", "RGB", exif=_exif()),
    "progressive": _image("JPEG", "RGB", progressive=True),
    "cmyk": _image("JPEG", "CMYK"),
    "png": _image("PNG", "RGBA", exif=_exif()),
    "png16": _image("PNG", "I;16"),
    "palette": _image("PNG", "P", transparency=b"\0\x80"),
    "gif": _image("GIF", "P", save_all=True, append_images=_FRAMES),
    "tiff": _image("TIFF", "RGB", compression="tiff_lzw"),
    "webp": _image("WEBP", "RGB", save_all=True, append_images=_FRAMES),
    "bmp": _image("BMP", "RGB"),
    "ppm": _image("PPM", "RGB"),
}
_JSON = json.dumps(
    [{"id": 1, "name": "caf\u00e9", "boxes": [[1.5, -2e3]], "x": None}, [], "text"] * 3
).encode()


def _pickled(protocol: int) -> bytes:
    boxes = [np.arange(8, dtype=np.float32).reshape(2, 4), np.zeros((0, 4))]
    content = {"ids": [7, "b"], "boxes": boxes, "scores": [np.float64(0.5), b"x"], "mode": (0, None, True)}
    return pickle.dumps(content, protocol)


def _checkpoint(**options: object) -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, **options)
    return file.getvalue()


def _model(folder: Path) -> None:
    RegionHead(CONFIG).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(ORIGIN | config))
    (folder / "classes.txt").write_text("cat\nbig dog\n")
    save_preset(PRESETS["tiny"], folder / "backbone.yaml")


def _read_model(folder: Path) -> None:
    folder = model_folder(str(folder))
    config = read_model_config(folder)
    check_origin(config, str(folder))
    read_weights(folder)
    RegionHead.from_pretrained(folder)
    names = read_class_names(folder / "classes.txt")
    assert all(prompts(name) for name in names)


def _official(folder: Path, suffix: str) -> None:
    sizes = HeadConfig(token_dim=256, map_dim=16, text_dim=8, maps=((1, 14, 14),), depth=1)
    export_official(RegionHead(sizes), folder / "head.pth")
    if suffix == ".safetensors":
        state = torch.load(folder / "head.pth", weights_only=True)["model"]
        (folder / "head.safetensors").write_bytes(save_safetensors(state))
        (folder / "head.pth").unlink()


def _read_official(folder: Path, suffix: str) -> object:
    return read_official(folder / f"head{suffix}")


def _embeddings() -> bytes:
    file = io.BytesIO()
    np.save(file, RGB[:4, :, 0].astype(np.float32))
    return file.getvalue()


def _read_embeddings(path: Path) -> None:
    if vocabulary._read(path, 4) is None:
        raise InputError(f"{path} is computed again.")


def _official_target(suffix: str) -> Target:
    return Target(
        name=f"official {suffix}",
        sample=partial(_official, suffix=suffix),
        read=partial(_read_official, suffix=suffix),
        share=0.3,
    )


TARGETS = [
    *(
        Target(
            name=f"image {kind}",
            sample=data,
            suffix=".img",
            read=_read_image,
            also=(ImageFailure,),
            share=0.4,
        )
        for kind, data in _IMAGES.items()
    ),
    Target(
        name="json stream", sample=_JSON, suffix=".json", read=lambda path: list(JsonFile(path).entries())
    ),
    *(
        Target(name=f"pickle {protocol}", sample=_pickled(protocol), suffix=".pkl", read=load_arrays)
        for protocol in (0, 2, 4)
    ),
    Target(
        name="class names", sample="cat\n\n big dog \ncaf\u00e9\n".encode(), read=read_class_names, share=0.4
    ),
    Target(
        name="weights .safetensors", sample=save_safetensors(STATE), suffix=".safetensors", read=read_state
    ),
    Target(name="weights .pth", sample=_checkpoint(), suffix=".pth", read=read_state),
    Target(
        name="weights, old .pth",
        sample=_checkpoint(_use_new_zipfile_serialization=False),
        suffix=".pth",
        read=read_state,
    ),
    Target(name="model folder", sample=_model, read=_read_model, share=0.3),
    Target(name="text embeddings", sample=_embeddings(), suffix=".npy", read=_read_embeddings, share=0.5),
    _official_target(".pth"),
    _official_target(".safetensors"),
]
