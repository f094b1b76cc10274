"""Draw the built-in world: textured shapes on cluttered backgrounds, a function of a random generator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regionspot_cache.datasets.shapes_classes import CLASSES, COLOURS

SCENE_SIZE = 256
MIN_DIAMETER, MAX_DIAMETER = 24.0, 128.0
MIN_OBJECTS, MAX_OBJECTS = 3, 12
MIN_VISIBLE = 0.4  # an object that shows less of itself is not annotated
MIN_SIDE = 8  # pixels of the visible box

Array = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn image and its annotated objects, largest first."""

    image: NDArray[np.uint8]  # uint8 [S,S,3], RGB
    labels: NDArray[np.int64]  # int64 [N], class indices
    masks: NDArray[np.bool_]  # bool [N,S,S], visible pixels
    boxes: Array  # float32 [N,4] xyxy, the smallest ones around the masks
    hidden: tuple[int, ...]  # labels of objects that were drawn but are too much occluded to be annotated


def image_rng(*key: int) -> np.random.Generator:
    """Counter-based generator of one image: the same key gives the same image in every process."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_scene(rng: np.random.Generator, probabilities: NDArray[np.float64], size: int = SCENE_SIZE) -> Scene:
    """Draw a scene of 3 to 12 objects whose classes follow `probabilities` [C]."""
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    labels = rng.choice(len(CLASSES), size=count, p=probabilities)
    scale = size / SCENE_SIZE
    radii = np.exp(rng.uniform(np.log(MIN_DIAMETER / 2), np.log(MAX_DIAMETER / 2), count)) * scale
    radii = np.sort(radii)[::-1]
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, np.int16)
    areas = np.zeros(count, np.int64)
    centres = np.zeros((count, 2))
    for k in range(count):
        centres[k] = _place(rng, centres[:k], radii[: k + 1], size)
        areas[k] = _paint(rng, canvas, owner, k, int(labels[k]), centres[k], radii[k])
    return _annotate(_finish(rng, canvas), owner, labels, areas)


def draw_single(
    rng: np.random.Generator, label: int, size: int, radius: tuple[float, float] = (0.25, 0.48)
) -> NDArray[np.uint8]:
    """Draw one object alone on a cluttered background: u8 [size,size,3]; its radius is a share of size."""
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, np.int16)
    r = rng.uniform(*radius) * size
    slack = max(size / 2 - r, 0.05 * size)
    centre = size / 2 + rng.uniform(-slack, slack, 2)
    _paint(rng, canvas, owner, 0, label, centre, r)
    return _finish(rng, canvas)


def _background(rng: np.random.Generator, size: int) -> Array:
    """A muted gradient with a coarse random texture, a few lines and blobs: f32 [size,size,3]."""
    corners = rng.uniform(70, 175, (2, 2, 1)) + rng.uniform(-14, 14, (2, 2, 3))
    cells = int(rng.integers(3, 12))
    coarse = rng.uniform(-1, 1, (cells, cells, 1)) * rng.uniform(0, 26)
    canvas = _enlarge(corners, size) + _enlarge(coarse, size)
    for _ in range(int(rng.integers(2, 8))):
        _clutter(rng, canvas)
    return canvas


def _enlarge(grid: NDArray[np.float64], size: int) -> Array:
    """Interpolate [h,w,c] to f32 [size,size,c]."""
    planes = [Image.fromarray(grid[..., c].astype(np.float32)) for c in range(grid.shape[-1])]
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in planes], axis=-1)


def _clutter(rng: np.random.Generator, canvas: Array) -> None:
    """Blend one faint line or blob of a muted colour into the canvas, in place."""
    size = canvas.shape[0]
    colour = (rng.uniform(50, 200) + rng.uniform(-18, 18, 3)).astype(np.float32)
    centre = rng.uniform(0, size, 2).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    thickness = rng.uniform(0.004, 0.012) * size
    length = rng.uniform(0.1, 0.4) * size
    if rng.random() < 0.4:
        thickness, length = rng.uniform(0.02, 0.1) * size, rng.uniform(0.03, 0.14) * size
    rows, columns = _window(centre, float(np.hypot(length, thickness)), size)
    x, y = _grid(rows, columns, centre, angle, 1.0)
    distance = np.sqrt((x / length) ** 2 + (y / thickness) ** 2)
    alpha = np.clip((1 - distance) * thickness + 0.5, 0, 1)[..., None] * rng.uniform(0.4, 0.9)
    canvas[rows, columns] += alpha.astype(np.float32) * (colour - canvas[rows, columns])


def _place(
    rng: np.random.Generator, centres: NDArray[np.float64], radii: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Choose a centre: mostly the freest of eight candidates, sometimes just anywhere (occlusion)."""
    radius = radii[-1]
    candidates = rng.uniform(0.85 * radius, size - 0.85 * radius, (8, 2))
    if len(centres) == 0 or rng.random() < 0.15:
        return candidates[0]
    distance = np.linalg.norm(candidates[:, None] - centres[None], axis=-1)
    return candidates[np.argmax((distance - radii[:-1]).min(axis=1))]


def _window(centre: NDArray[np.floating], radius: float, size: int) -> tuple[slice, slice]:
    low = np.clip(np.floor(centre - radius - 2), 0, size).astype(int)
    high = np.clip(np.ceil(centre + radius + 2), 0, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _grid(
    rows: slice, columns: slice, centre: NDArray[np.floating], angle: float, radius: float
) -> tuple[Array, Array]:
    """Coordinates of a window's pixels in the object's own frame, in units of its radius: two f32 [h,w]."""
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - np.float32(centre[1]))[:, None]
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - np.float32(centre[0]))[None]
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    return x * cos + y * sin, y * cos - x * sin


def _paint(
    rng: np.random.Generator,
    canvas: Array,
    owner: NDArray[np.int16],
    k: int,
    label: int,
    centre: NDArray[np.float64],
    radius: float,
) -> int:
    """Paint object k over the canvas and take over its pixels; its full area in pixels is returned."""
    kind = CLASSES[label]
    rows, columns = _window(centre, 1.1 * radius, canvas.shape[0])
    u, v = _grid(rows, columns, centre, rng.uniform(-0.45, 0.45), radius)
    alpha = np.clip(0.5 - _outline(kind.shape, u, v) * np.float32(radius), 0, 1)
    colour = np.clip(np.array(COLOURS[kind.colour]) + rng.uniform(-14, 14, 3), 0, 255).astype(np.float32)
    shade = 1 + rng.uniform(-0.12, 0.12) * u + rng.uniform(-0.12, 0.12) * v
    tone = (1 - np.float32(0.68) * _pattern(rng, kind.texture, u, v)) * shade
    window = canvas[rows, columns]
    window += alpha[..., None] * (tone[..., None] * colour - window)
    inside = alpha > 0.5
    owner[rows, columns][inside] = k
    return int(inside.sum())


def _outline(shape: str, u: Array, v: Array) -> Array:
    """Signed distance to the shape's edge, roughly, in radii: negative inside."""
    r = np.sqrt(u * u + v * v)
    if shape == "circle":
        return r - 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.82
    if shape == "triangle":
        return np.maximum(v - 0.72, 0.87 * np.abs(u) - 0.5 * v - 0.5)
    if shape == "star":
        spread = (
            np.abs((np.arctan2(u, -v) / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2
        )  # 0 on a tip, 1 between tips
        return (r - (1.0 - 0.6 * spread ** np.float32(0.8))) * 0.7
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.98, b - 0.3), np.maximum(a - 0.3, b - 0.98))
    if shape == "ring":
        return np.abs(r - 0.71) - 0.25
    if shape == "crescent":
        return np.maximum(r - 0.97, 0.78 - np.sqrt((u - 0.46) ** 2 + v * v))
    return np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.34)  # bar


def _pattern(rng: np.random.Generator, texture: str, u: Array, v: Array) -> Array:
    """Where the dark tone of a texture lies, 0 to 1: f32 [h,w]. Periods grow with the object."""
    frequency = np.float32(2 * np.pi / rng.uniform(0.5, 0.62))
    a, b = u * frequency + rng.uniform(0, 6.28), v * frequency + rng.uniform(0, 6.28)
    if texture == "striped":
        return _soft(np.sin(a if rng.random() < 0.5 else (a + b) * np.float32(0.71)))
    if texture == "checkered":
        return _soft(np.sin(a * np.float32(0.8)) * np.sin(b * np.float32(0.8)) * 2)
    if texture == "dotted":
        return _soft(np.cos(a) + np.cos(b) - np.float32(0.75))
    return np.zeros_like(u)


def _soft(wave: Array) -> Array:
    return np.clip(wave * np.float32(2.5) + np.float32(0.5), 0, 1).astype(np.float32)


def _finish(rng: np.random.Generator, canvas: Array) -> NDArray[np.uint8]:
    """Add exposure and sensor noise and round: u8 [S,S,3]."""
    noise = rng.standard_normal(canvas.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.uniform(2, 7))
    exposed = canvas * np.float32(rng.uniform(0.88, 1.1)) + noise
    return np.clip(exposed + 0.5, 0, 255).astype(np.uint8)


def _annotate(
    image: NDArray[np.uint8], owner: NDArray[np.int16], labels: NDArray[np.int64], areas: NDArray[np.int64]
) -> Scene:
    kept, boxes, masks, hidden = [], [], [], []
    for k, label in enumerate(labels):
        mask = owner == k
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        visible = int(mask.sum())
        if visible < MIN_VISIBLE * areas[k] or min(len(xs), len(ys)) < MIN_SIDE:
            hidden += [int(label)] if visible else []
            continue
        kept.append(label)
        masks.append(mask)
        boxes.append((xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    return Scene(
        image=image,
        labels=np.array(kept, np.int64),
        masks=np.array(masks, bool).reshape(-1, *owner.shape),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        hidden=tuple(hidden),
    )
