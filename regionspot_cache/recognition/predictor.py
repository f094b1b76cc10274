"""Names for the boxes of one image: pay once in `set_image`, then ask `predict` as often as you like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from regionspot_cache.backbones import Backbone, MaskEncoder, load_backbone, load_preset
from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.images import ImageFailure, read_image
from regionspot_cache.errors import InputError
from regionspot_cache.identity import require_same, without_arithmetic
from regionspot_cache.models.hub import BACKBONE_FILE, CONFIG_FILE, model_folder
from regionspot_cache.recognition import RegionInputs, RegionSpot
from regionspot_cache.training.head import RegionHead, read_model_config


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the boxes of an image show."""

    boxes: NDArray[np.float32]  # [N, 4] xyxy, pixels of the image
    names: tuple[str, ...]  # the best class of each box
    scores: NDArray[np.float32]  # [N], its probability among the classes asked for
    probabilities: NDArray[np.float32]  # [N, K], rows sum to 1
    classes: tuple[str, ...]  # the K names asked for


class RegionPredictor:
    """RegionSpot on single images.

    Example:
        predictor = RegionPredictor.from_pretrained("rs-cache-data/runs/shapes")
        prediction = predictor.set_image("street.jpg").predict([[10, 20, 200, 180]], ["car", "bus"])

    Args:
        head: a trained head.
        backbone: the frozen networks that it was trained on.
        prompts: keyword arguments of `vocabulary.text_embeddings`: templates, cleaning, average.
        arrays: what the head relates.
    """

    def __init__(
        self,
        head: RegionHead,
        backbone: Backbone,
        *,
        prompts: dict[str, Any],
        arrays: HeadInputs | None = None,
    ) -> None:
        self.backbone, self.prompts = backbone, prompts
        self.method = RegionSpot(head, arrays)
        self._image: RegionInputs | None = None

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, backbone: str | Path | None = None, device: str = "cpu"
    ) -> Self:
        """A predictor from a model folder written by training.

        Args:
            folder: as of `model_folder`; holds config.json, model.safetensors and backbone.yaml.
            backbone: a preset or YAML file instead of the folder's own.

        Raises:
            MissingFileError: a file is missing.
            IdentityError: the backbone is not the one that the head was trained on.
            UsageError: the folder's own backbone file names code to run, see `load_preset`.
        """
        folder = model_folder(folder)
        config = read_model_config(folder)
        spec = load_preset(backbone or folder / BACKBONE_FILE, from_model_folder=backbone is None)
        networks = load_backbone(spec, device)
        require_backbone(config, networks, str(folder))
        text = config["text"]
        prompts = {name: text[name] for name in ("templates", "cleaning", "average")}
        head = RegionHead.from_pretrained(folder, device=device)
        return cls(head, networks, prompts=prompts, arrays=head_inputs(config))

    def set_image(self, image: NDArray[np.uint8] | Path | str) -> Self:
        """Runs both frozen networks on an image: uint8 [H, W, 3] RGB, or a file. InputError: not an image."""
        inputs = RegionInputs(self.backbone, _pixels(image), np.zeros((0, 4), np.float32))
        inputs.memory(self.method.arrays.memory)
        for part, encoder in self.backbone.parts.items():
            if isinstance(encoder, MaskEncoder):
                inputs.embedding_of(part)
        self._image = inputs
        return self

    def inputs(self, boxes: Any) -> RegionInputs:
        """Boxes [N, 4] of the present image with its features; they are recognised together.

        Raises:
            InputError: no image yet, or boxes that are not xyxy pixels inside the image.
        """
        if self._image is None:
            raise InputError("predict before set_image", "An image.", "predictor.set_image(image)")
        return self._image.on(_checked(boxes, self._image.size))

    def predict(self, boxes: Any, classes: Sequence[str]) -> Prediction:
        """Names boxes [N, 4] xyxy, pixels, of the present image by K classes in any words."""
        text = self.embed(classes)
        inputs = self.inputs(boxes)
        probabilities = self.method.probabilities(inputs, text)  # [N, K]
        best = probabilities.argmax(1) if len(probabilities) else np.zeros(0, np.int64)
        return Prediction(
            boxes=inputs.boxes,
            names=tuple(classes[int(i)] for i in best),
            scores=probabilities[np.arange(len(best)), best],
            probabilities=probabilities,
            classes=tuple(classes),
        )

    def embed(self, classes: Sequence[str]) -> torch.Tensor:
        """Text embeddings of class names by the prompts of training, float32 [K, E]."""
        embeddings = text_embeddings(self.backbone.text, classes, **self.prompts)
        return torch.from_numpy(embeddings).to(self.backbone.text.device)


def head_inputs(config: Mapping[str, Any]) -> HeadInputs:
    """The arrays that the head of a checked config relates."""
    return HeadInputs(query=config["inputs"]["query"], memory=tuple(config["inputs"]["memory"]))


def require_backbone(config: Mapping[str, Any], backbone: Backbone, model: str) -> None:
    """Refuses a head with networks that it was not trained on (IdentityError) but for their precision.

    Raises as `check_origin` too.
    """
    check_origin(config, model)
    for part, fingerprint in config["networks"].items():
        recorded = without_arithmetic(fingerprint)
        found = backbone.parts[part].fingerprint() if part in backbone.parts else {}
        require_same(
            {part: recorded},
            {part: {key: found.get(key) for key in recorded}},
            what=model,
            wanted_by="this backbone",
            remedy=f"Give its own with --backbone, or leave that out to use {model}/{BACKBONE_FILE}.",
        )


class _Inputs(BaseModel):
    query: str
    memory: list[str] = Field(min_length=1)


class _Prompts(BaseModel):
    templates: str | list[str]
    cleaning: str
    average: str


class _Origin(BaseModel):
    networks: dict[str, dict[str, Any]]
    inputs: _Inputs
    text: _Prompts


def check_origin(config: Mapping[str, Any], model: str) -> None:
    """InputError where a model's config does not say what its head was trained on."""
    try:
        _Origin.model_validate(dict(config), strict=True)
    except ValidationError as error:
        wrong = dict.fromkeys(str(part["loc"][0]) for part in error.errors())
        raise InputError(
            f"{model}/{CONFIG_FILE} does not say what the head was trained on: {', '.join(wrong)}",
            "networks, inputs and text as training writes them",
            "train again or restore the file",
        ) from None


def _pixels(image: NDArray[np.uint8] | Path | str) -> NDArray[np.uint8]:
    if isinstance(image, (str, Path)):
        try:
            return read_image(Path(image))
        except ImageFailure as failure:
            raise InputError(f"{failure}.", "An image file that can be decoded.") from None
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"an image of {image.dtype} {list(image.shape)}", "uint8 [H, W, 3] RGB")
    return image


def _checked(boxes: Any, size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    try:
        found = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):  # texts, or rows of different lengths
        found = np.full((1, 4), np.nan, np.float32)
    if found.size and found.shape[-1:] != (4,):
        found = np.full((1, 4), np.nan, np.float32)
    found = found.reshape(-1, 4)
    clipped = np.clip(found, 0, [width, height, width, height]).astype(np.float32)
    good = np.isfinite(found).all() and (clipped[:, 2:] > clipped[:, :2]).all()
    if not good:
        shown = boxes.tolist() if isinstance(boxes, np.ndarray) else boxes
        raise InputError(
            f"boxes {str(shown)[:200]} in an image of {width} x {height} pixels",
            "x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1, inside the image",
        )
    return clipped
