"""Names for the boxes of one image: pay once in `set_image`, then ask `predict` as often as you like."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from torch.nn.functional import normalize

from regionspot_cache.backbones import Backbone, MaskEncoder, load_backbone, load_preset
from regionspot_cache.backbones.presets import HeadInputs
from regionspot_cache.backbones.vocabulary import listed_names
from regionspot_cache.errors import InputError, UsageError, one_of
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.identity import for_reading, require_same
from regionspot_cache.models.hub import BACKBONE_FILE, CONFIG_FILE, model_folder
from regionspot_cache.recognition.embedding import embedding_method, with_networks_of
from regionspot_cache.recognition.examples import Examples, Source, prototypes, read_examples
from regionspot_cache.recognition.inputs import RegionInputs
from regionspot_cache.recognition.methods import Recogniser, RegionSpot
from regionspot_cache.recognition.pictures import to_pixels
from regionspot_cache.recognition.prediction import Prediction
from regionspot_cache.recognition.words import ClassEmbeddings
from regionspot_cache.training.head import RegionHead, read_model_config

METHODS = ("clip-box", "clip-mask", "clip-roi", "clip-roi-mask", "regionclip")
Classes = str | Sequence[str]


class RegionPredictor:
    """Recognition of regions of single images, by a trained head or by an embedding method.

    Images are whatever `pictures.to_pixels` reads: paths, PIL images, arrays, tensors. Class names are a
    list, or one text with commas between.

    Example:
        predictor = RegionPredictor.from_pretrained("rs-cache-data/runs/shapes")
        prediction = predictor.set_image("street.jpg").predict([[10, 20, 200, 180]], "car, bus")

    Args:
        method: how regions are embedded and compared.
        backbone: the frozen networks that it reads.
        prompts: keyword arguments of `vocabulary.text_embeddings`: templates, cleaning, average.
    """

    def __init__(
        self,
        method: Recogniser,
        backbone: Backbone,
        *,
        prompts: Mapping[str, Any] | None = None,
    ) -> None:
        self.backbone, self.method = backbone, method
        self._classes = ClassEmbeddings(backbone.text_of(method.text_part), prompts or {})
        self._image: RegionInputs | None = None

    def __repr__(self) -> str:
        size = (
            f"an image of {self._image.size[1]} x {self._image.size[0]} pixels" if self._image else "no image"
        )
        return f"{type(self).__name__}({self.method.name} on {self.backbone.spec.name}, {size})"

    @property
    def prompts(self) -> Mapping[str, Any]:
        """How class names become prompts."""
        return self._classes.prompts

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, backbone: str | Path | None = None, device: str = "cpu"
    ) -> Self:
        """A predictor from a model folder written by training.

        Args:
            folder: as of `model_folder`; holds config.json, model.safetensors and backbone.yaml.
            backbone: a preset or YAML file instead of the folder's own.
            device: as of `resolve_device`; "auto" takes a GPU where there is one.

        Raises:
            MissingFileError: a file is missing.
            IdentityError: the backbone is not the one that the head was trained on.
            UsageError: there is no such device, or the folder's own backbone file names code to run, see
                `load_preset`.
        """
        folder, device = model_folder(folder), resolve_device(device)
        config = read_model_config(folder)
        spec = load_preset(backbone or folder / BACKBONE_FILE, from_model_folder=backbone is None)
        networks = load_backbone(spec, device)
        require_backbone(config, networks, str(folder))
        text = config["text"]
        prompts = {name: text[name] for name in ("templates", "cleaning", "average")}
        head = RegionHead.from_pretrained(folder, device=device)
        return cls(RegionSpot(head, head_inputs(config)), networks, prompts=prompts)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Path = "tiny",
        *,
        method: str = "clip-box",
        device: str = "cpu",
        prompts: Mapping[str, Any] | None = None,
    ) -> Self:
        """A predictor without a trained head.

        Args:
            backbone: a preset or YAML file.
            method: one of `METHODS`, see `recognition.embedding`.
            device: as of `from_pretrained`.
            prompts: as of the class.

        Raises:
            UsageError: no such method, backbone or device, or a backbone without a network for the method.
        """
        if method not in METHODS:
            trained = "RegionPredictor.from_pretrained(FOLDER)" if method == RegionSpot.name else ""
            raise UsageError(
                f"There is no method {method!r} without a head.", one_of(method, METHODS), trained
            )
        networks = load_backbone(with_networks_of([method], load_preset(backbone)), resolve_device(device))
        return cls(embedding_method(method, networks), networks, prompts=prompts)

    def set_image(self, image: Any) -> Self:
        """Runs the frozen networks on an image, as of `pictures.to_pixels`. InputError: not an image."""
        self._image = self._encoded(image)
        return self

    def inputs(self, boxes: Any) -> RegionInputs:
        """Boxes [N, 4] of the present image with its features; they are recognised together.

        Raises:
            InputError: no image yet, or boxes that are not xyxy pixels inside the image.
        """
        if self._image is None:
            raise InputError("predict before set_image", "An image.", "predictor.set_image(image)")
        return self._image.on(_checked(boxes, self._image.size))

    def predict(
        self, boxes: Any, classes: Classes | None = None, *, examples: Examples | Source | None = None
    ) -> Prediction:
        """Names boxes of the present image.

        Args:
            boxes: [N, 4] xyxy, pixels.
            classes: K names in any words; those of the examples when not given.
            examples: pictures of regions of some of the classes, which then count beside the words; what
                `embed_examples` returns or reads. Embed them once if you ask often.

        Raises:
            InputError: what is not such boxes, names or examples, or no image yet.
        """
        inputs = self.inputs(boxes)
        return self._named(inputs, *self._text(classes, examples))

    def predict_batch(
        self,
        images: Sequence[Any],
        boxes: Sequence[Any],
        classes: Classes | None = None,
        *,
        examples: Examples | Source | None = None,
    ) -> list[Prediction]:
        """`predict` for several images with boxes [N_i, 4] of each; the present image stays.

        The networks see the images one after the other. InputError names the image that cannot be used.
        """
        if isinstance(images, (str, Path)) or len(images) != len(boxes):
            count = "one image" if isinstance(images, (str, Path)) else f"{len(images)} images"
            found = f"{count} with boxes of {len(boxes)}"
            raise InputError(found, "A list of images, and boxes [N, 4] for each of them.")
        text = self._text(classes, examples)
        predictions = []
        for position, (image, own) in enumerate(zip(images, boxes, strict=True)):
            try:
                encoded = self._encoded(image)
                predictions.append(self._named(encoded.on(_checked(own, encoded.size)), *text))
            except InputError as error:
                found = f"image {position} of {len(images)}: {error.found}"
                raise type(error)(found, error.expected, error.remedy) from None
        return predictions

    def embed(self, classes: Classes) -> torch.Tensor:
        """Text embeddings of class names, float32 [K, E], rows of length 1; each name is embedded once."""
        return self._classes(listed_names(classes))

    def embed_regions(self, image_or_boxes: Any, boxes: Any = None) -> torch.Tensor:
        """Embeddings in the space of `embed`, float32 [N, E], rows of length 1.

        `embed_regions(boxes)` is of the present image, `embed_regions(image, boxes)` of another one, which
        does not become the present. InputError as of `predict`.
        """
        if boxes is None:
            return self._regions(self.inputs(image_or_boxes))
        encoded = self._encoded(image_or_boxes)
        return self._regions(encoded.on(_checked(boxes, encoded.size)))

    def embed_examples(self, source: Source, *, images: Path | None = None) -> Examples:
        """Embeds example regions, to be given to `predict` again and again.

        Args:
            source, images: as of `examples.read_examples`.

        Raises:
            InputError: there is not one that can be read; also as of `read_examples`.
        """
        left_out: Counter[str] = Counter()
        rows: list[NDArray[np.float32]] = []
        names: list[str] = []
        for example in read_examples(source, left_out, images=images):
            rows.append(self.embed_regions(example.image, example.boxes).cpu().numpy())
            names += example.names
        if not names:
            counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            raise InputError(f"No example region; left out: {counts or 'nothing'}.", "At least one image.")
        known = tuple(dict.fromkeys(names))
        labels = np.array([known.index(name) for name in names])
        return Examples(names=known, embeddings=np.concatenate(rows), labels=labels, left_out=left_out)

    def _encoded(self, image: Any) -> RegionInputs:
        """An image after the networks whose output does not depend on boxes."""
        inputs = RegionInputs(self.backbone, to_pixels(image), np.zeros((0, 4), np.float32))
        for path in self.method.reads:
            part, _, name = path.partition("/")
            encoder = self.backbone.parts.get(part)  # none for the positions of boxes
            if isinstance(encoder, MaskEncoder):
                inputs.embedding_of(part)
            elif encoder is not None and not encoder.arrays[name].per_box:
                inputs.memory((path,))
        return inputs

    def _text(
        self, classes: Classes | None, examples: Examples | Source | None
    ) -> tuple[tuple[str, ...], torch.Tensor]:
        """Names, and what stands for them [K, E]."""
        if examples is not None and not isinstance(examples, Examples):
            examples = self.embed_examples(examples)
        if classes is None:
            if examples is None:
                raise InputError("Neither classes nor examples.", "Names, such as ['car', 'bus'].")
            classes = examples.names
        names = listed_names(classes)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(
                f"classes: {twice!r} is there twice.", "Every name once: they share the probability."
            )
        text = self._classes(names)
        if examples is None:
            return names, text
        made = prototypes(examples.embeddings, examples.labels_among(names), text.cpu().numpy())
        return names, torch.from_numpy(made.embeddings).to(text.device)

    def _named(self, inputs: RegionInputs, names: tuple[str, ...], text: torch.Tensor) -> Prediction:
        probabilities = self.method.probabilities(inputs, text)  # [N, K]
        return Prediction(boxes=inputs.boxes, probabilities=probabilities, classes=names, image=inputs.image)

    def _regions(self, inputs: RegionInputs) -> torch.Tensor:
        return normalize(self.method.embed([inputs])[0], dim=-1)


def head_inputs(config: Mapping[str, Any]) -> HeadInputs:
    """The arrays that the head of a checked config relates."""
    return HeadInputs(query=config["inputs"]["query"], memory=tuple(config["inputs"]["memory"]))


def require_backbone(config: Mapping[str, Any], backbone: Backbone, model: str) -> None:
    """Refuses a head with networks that it was not trained on (IdentityError) but for their precision.

    Raises as `check_origin` too.
    """
    check_origin(config, model)
    for part, fingerprint in config["networks"].items():
        recorded = for_reading(fingerprint)
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
    fractions = 0 < found.max(initial=0) <= 1  # nobody asks for a part of the first pixel
    good = np.isfinite(found).all() and (clipped[:, 2:] > clipped[:, :2]).all() and not fractions
    if not good:
        shown = boxes.tolist() if isinstance(boxes, np.ndarray) else boxes
        raise InputError(
            f"boxes {str(shown)[:200]} in an image of {width} x {height} pixels",
            "x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1, inside the image",
            f"boxes * [{width}, {height}, {width}, {height}]" if fractions else "",
        )
    return clipped
