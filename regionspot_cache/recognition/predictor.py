"""Names for the boxes of one image: pay once in `set_image`, then ask `predict` as often as you like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot_cache.backbones import Backbone, load_backbone, load_preset
from regionspot_cache.backbones.presets import Position
from regionspot_cache.backbones.vocabulary import text_embeddings
from regionspot_cache.datasets.images import ImageFailure, read_image
from regionspot_cache.errors import InputError
from regionspot_cache.identity import require_same, without_arithmetic
from regionspot_cache.models.hub import BACKBONE_FILE, CONFIG_FILE, model_folder
from regionspot_cache.recognition import RegionInputs, RegionSpot
from regionspot_cache.training.head import RegionHead, read_model_config


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the boxes of an image show.

    Attributes:
        boxes: float32 [N, 4] xyxy, pixels of the image.
        names: the best class of each box.
        scores: float32 [N], its probability among the classes asked for.
        probabilities: float32 [N, K], rows sum to 1.
        classes: the K names asked for.
    """

    boxes: NDArray[np.float32]
    names: tuple[str, ...]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]


class RegionPredictor:
    """RegionSpot on single images.

    Example:
        predictor = RegionPredictor.from_pretrained("rs-cache-data/runs/shapes")
        prediction = predictor.set_image("street.jpg").predict([[10, 20, 200, 180]], ["car", "bus"])

    Args:
        head: a trained head.
        backbone: the frozen networks that it was trained on.
        prompts: keyword arguments of `vocabulary.text_embeddings`: templates, cleaning, average.
        position: the SAM token that the head takes.
    """

    def __init__(
        self,
        head: RegionHead,
        backbone: Backbone,
        *,
        prompts: dict[str, Any],
        position: Position = "transformer",
    ) -> None:
        self.backbone, self.prompts = backbone, prompts
        self.method = RegionSpot(head, position=position)
        self._image: NDArray[np.uint8] | None = None
        self._embedding: torch.Tensor | None = None
        self._map: NDArray[np.float32] | None = None

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, backbone: str | Path | None = None, device: str = "cpu"
    ) -> Self:
        """A predictor from a model folder written by training.

        Args:
            folder: holds config.json, model.safetensors and backbone.yaml; or, as text, a hub id
                "ORG/NAME[@REVISION]". A local folder always wins.
            backbone: a preset or YAML file instead of the folder's own.
            device: where the networks run.

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
        return cls(head, networks, prompts=prompts, position=config["token_position"])

    def set_image(self, image: NDArray[np.uint8] | Path | str) -> Self:
        """Runs both frozen networks on an image: uint8 [H, W, 3] RGB, or a file.

        Raises:
            InputError: not an image.
        """
        pixels = _pixels(image)
        inputs = RegionInputs(self.backbone, pixels, np.zeros((0, 4), np.float32))
        self._image, self._embedding = pixels, inputs.embedding
        self._map = inputs.map.cpu().numpy()
        return self

    def inputs(self, boxes: Any) -> RegionInputs:
        """Boxes [N, 4] of the present image with its features; they are recognised together.

        Raises:
            InputError: no image yet, or boxes that are not xyxy pixels inside the image.
        """
        if self._image is None:
            raise InputError("predict before set_image", "An image.", "predictor.set_image(image)")
        inputs = RegionInputs(
            self.backbone, self._image, _checked(boxes, self._image.shape[:2]), cached_map=self._map
        )
        if self._embedding is not None:
            inputs.embedding = self._embedding
        return inputs

    def predict(self, boxes: Any, classes: Sequence[str]) -> Prediction:
        """Names boxes of the present image.

        Args:
            boxes: [N, 4] xyxy, pixels.
            classes: K names, in any words.
        """
        text = self.embed(classes)
        inputs = self.inputs(boxes)
        probabilities = self.method.logits(inputs, text).softmax(-1).cpu().numpy()  # [N, K]
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
        embeddings = text_embeddings(self.backbone.clip, classes, **self.prompts)
        return torch.from_numpy(embeddings).to(self.backbone.clip.device)


def require_backbone(config: dict[str, Any], backbone: Backbone, model: str) -> None:
    """Refuses a head with frozen networks that it was not trained on. Precision may differ.

    Raises:
        InputError: its config does not say on which.
        IdentityError: names the first key that differs.
    """
    check_origin(config, model)
    for part, network in (("sam", backbone.sam), ("clip", backbone.clip)):
        found = network.fingerprint()
        recorded = without_arithmetic(config[part])
        require_same(
            {part: recorded},
            {part: {key: found.get(key) for key in recorded}},
            what=model,
            wanted_by="this backbone",
            remedy=f"Give its own with --backbone, or leave that out to use {model}/{BACKBONE_FILE}.",
        )


def check_origin(config: Mapping[str, Any], model: str) -> None:
    """That a model's config says what its head was trained on.

    Raises:
        InputError: networks, token position or prompts are missing or of another kind.
    """
    good = {
        "sam": isinstance(config.get("sam"), dict),
        "clip": isinstance(config.get("clip"), dict),
        "token_position": config.get("token_position") in get_args(Position),
        "text": _are_prompts(config.get("text")),
    }
    wrong = [key for key, fits in good.items() if not fits]
    if wrong:
        raise InputError(
            f"{model}/{CONFIG_FILE} does not say what the head was trained on: {', '.join(wrong)}",
            "sam, clip, token_position and text as training writes them",
            "train again or restore the file",
        )


def _are_prompts(text: Any) -> bool:
    if not isinstance(text, dict):
        return False
    templates = text.get("templates")
    several = isinstance(templates, list) and all(isinstance(template, str) for template in templates)
    return (several or isinstance(templates, str)) and all(
        isinstance(text.get(name), str) for name in ("cleaning", "average")
    )


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
