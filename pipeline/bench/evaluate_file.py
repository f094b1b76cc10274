"""A results file of boxes and masks, scored by the command line in a process of its own: time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.bench.evaluate_data import HEIGHT, WIDTH, random_problem
from pipeline.bench.settings import EvaluateBench
from regionspot_cache.evaluation import Detections
from regionspot_cache.evaluation.results_file import image_entries
from regionspot_cache.evaluation.rle import annotation_rle
from regionspot_cache.json_stream import write_json_array

VERTICES = 32  # of an outline
# The peak is asked for in the process itself: ru_maxrss of a child would hold its parent's memory.
_RUN = """
import sys, time
from pipeline.bench.evaluate_once import peak_bytes
from pipeline.cli import run
start = time.perf_counter()
code = run(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(f"{time.perf_counter() - start} {peak_bytes()}")
sys.exit(code)
"""


def write_problem(work: EvaluateBench, folder: Path) -> tuple[Path, Path]:
    """Writes annotations with outlines and detections with boxes and masks, all of them ellipses."""
    annotations, found = random_problem(work.images, work.detections, work.categories)
    boxes = np.array([annotation["bbox"] for annotation in annotations["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    for annotation, outline in zip(annotations["annotations"], _outlines(boxes), strict=True):
        annotation["segmentation"] = [outline]
    for image in annotations["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    truth, results = folder / "val.json", folder / "results.json"
    truth.write_text(json.dumps(annotations))
    del annotations
    write_json_array(results, (_entries(found, image) for image in range(work.images)))
    return truth, results


def score_file(truth: Path, results: Path, out: Path, *options: str) -> tuple[float, float]:
    """`rs-cache eval` of the file: seconds of the verb, gigabytes at the peak of its process."""
    noted = out / "peak.txt"
    out.mkdir()
    command = ["eval", "--dataset", str(truth), "--method", f"results:{results}", "--out", str(out), *options]
    subprocess.run([sys.executable, "-c", _RUN, str(noted), *command], check=True, stdout=subprocess.DEVNULL)
    seconds, peak = map(float, noted.read_text().split())
    return seconds, peak / 1e9


def _outlines(boxes: np.ndarray) -> list[list[float]]:
    """The ellipses in boxes [n,4] xyxy, as polygons."""
    turn = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    circle = (1 + np.stack([np.cos(turn), np.sin(turn)], axis=1)) / 2  # [V,2]
    points = boxes[:, None, :2] + circle * (boxes[:, 2:] - boxes[:, :2])[:, None]
    return points.round(2).reshape(len(boxes), -1).tolist()


def _entries(found: Detections, image: int) -> list[dict]:
    boxes = found.boxes[found.box_index[found.rows(image)]].astype(np.float64)
    entries = image_entries(found, image, "bbox")
    for entry, outline in zip(entries, _outlines(boxes), strict=True):
        rle = annotation_rle([outline], HEIGHT, WIDTH)
        entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return entries
