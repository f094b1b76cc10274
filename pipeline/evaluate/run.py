"""`rs-cache eval`: methods and results files of one dataset, scored by one protocol."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.evaluate.compare import compare_rows, line, sections
from pipeline.evaluate.report import write_evaluation_report
from pipeline.evaluate.scoring import Scored, Scorer, score_results
from pipeline.places import WORKPLACE
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import (
    DATASET_NAMES,
    DetectionDataset,
    evaluation_split,
    load_dataset,
    to_coco_dict,
)
from regionspot_cache.datasets.class_split import load_class_split, restrict
from regionspot_cache.datasets.minival import holds_minival_only
from regionspot_cache.evaluation.ground_truth import GroundTruth, TruthReader, ground_truth
from regionspot_cache.files import numbered_folder


def evaluate(settings: EvalSettings, *, as_json: bool = False) -> list[Scored]:
    """Recognises, scores, writes and prints; one row a method, in the order of the settings.

    Where only results files are scored, neither networks nor images are needed.
    """
    own = None
    if settings.recognisers:  # before the dataset: a wrong checkpoint is said at once
        from pipeline.evaluate.own_methods import OwnMethods

        own = OwnMethods(settings)
    reader = TruthReader(settings.dataset)
    dataset = load_dataset(
        settings.dataset,
        split=evaluation_split(settings.dataset) if settings.dataset in DATASET_NAMES else None,
        data_root=settings.data,
        images=settings.images,
        limit=settings.limit,
        seed=settings.seed,
        require_images=own is not None,
        also=reader.add,
    )
    if settings.class_split:
        dataset = restrict(dataset, load_class_split(settings.class_split))
    truth, others = _ground_truth(dataset, reader)
    with _folder(settings, dataset) as out:
        scorer = Scorer(settings, dataset, truth, out)
        recognised = own.score(scorer) if own else None
        rows = {row.name: row for row in (recognised.rows if recognised else ())}
        rows |= {path.stem: score_results(path, scorer, others) for path in settings.result_files}
        scored = [rows[name] for name in settings.row_names]
        values: dict[str, Any] = {"results": [row.result.to_json() for row in scored]}
        compared = compare_rows(scored, dataset, recognised, settings) if settings.compares else []
        if compared:
            values["comparisons"] = [one.to_json() for one in compared]
        (out / "metrics.json").write_text(json.dumps(values, indent=1) + "\n")
        lines = [*(str(row.result) for row in scored), *map(line, compared)]
        console.result(values, "\n".join(lines), as_json=as_json)
        console.say(f"metrics.json is in {out}.")
        if settings.details:
            write_evaluation_report(out, dataset, scored, recognised, sections(compared, settings))
    return scored


@contextmanager
def _folder(settings: EvalSettings, dataset: DetectionDataset) -> Generator[Path]:
    """The folder of the results: the given one, or a new one that no other evaluation has."""
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        yield settings.out
        return
    boxes = Path(settings.proposals).stem if settings.recognisers else "results"
    name = "-".join(filter(None, (dataset.name, dataset.split, boxes)))
    with numbered_folder(WORKPLACE / "evaluations", name) as folder:
        yield folder


def _ground_truth(
    dataset: DetectionDataset, reader: TruthReader
) -> tuple[GroundTruth, frozenset[str] | None]:
    """The annotations of the sampled images, and which ids a results file may name beside theirs (None: any).

    They are the original ones, met by the reader; the boxes of a CSV in the same form.
    """
    if dataset.format == "openimages":
        return ground_truth(to_coco_dict(dataset)), None if dataset.limit else frozenset()
    ids = frozenset(map(str, reader.images))
    # Results of the whole of LVIS val are scored on minival too, whose own file does not list the rest.
    anything = dataset.split == "minival" and holds_minival_only(reader.images.values())
    return reader.finish(dataset.image_ids, dataset.category_ids), None if anything else ids
