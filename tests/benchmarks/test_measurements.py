"""Every measurement at its smallest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import encoder, evaluate, examples, extract, live, own_labels, plan, read, train, workers
from benchmarks.evaluate import random_problem, write_problem
from benchmarks.harness import OURS, Findings, Row
from benchmarks.read import STREAMS
from benchmarks.settings import Evaluate, Examples, Extract, OwnLabels, Plan, Read, Settings, Train, Workers
from regionspot_cache.datasets.coco_style import read_coco_style
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.evaluation import evaluate as average_precision
from regionspot_cache.evaluation import read_results
from regionspot_cache.training.loader import SourceReader

SMALL = Settings(
    repeats=2,
    device="cpu",
    read=Read(images=20, tokens=5, width=16, partition_size=8, batch_size=4, seconds=0.01),
    extract=Extract(images=3, batch_size=2),
    train=Train(sizes=("tiny",), batch_size=2, boxes=2, images=4, classes=3, steps=2, live_steps=1),
    evaluate=Evaluate(images=3, detections=6, categories=4),
    plan=Plan(images=20, boxes=1.5),
    workers=Workers(images=48, partition_size=4),
)


def rows(found: Findings, what: str = "") -> list[Row]:
    return [row for row in found if isinstance(row, Row) and what in row.what]


def remarks(found: Findings) -> str:
    return "\n".join(remark for remark in found if isinstance(remark, str))


def test_read(tmp_path: Path) -> None:
    found = read.measure(SMALL, tmp_path)
    for work in ("int8 maps [5, 16], random", "float16 maps [5, 16], random", "int8 maps [5, 16], window"):
        peers = {row.peer: row for row in rows(found, work)}
        assert {"numpy memmap (limit)", "zarr-python", "tensorstore", ".pth per image"} <= set(peers)
        assert all(len(row.ours) == len(row.theirs) == 2 for row in peers.values())
        assert all(min(*row.ours, *row.theirs) > 0 for row in peers.values())
        assert len({tuple(row.ours) for row in peers.values()}) == 1  # one measurement of ours for all
        assert peers["numpy memmap (limit)"].goal == ">= 0.5x"
        assert sum(row.goal == ">= 2x" for row in peers.values()) == 1  # the best format
    peers = {row.peer for row in rows(found, "int8 maps [5, 16], window")}
    assert all(name in peers or f"{name}: not installed" in remarks(found) for name in STREAMS)


def test_a_reader_with_other_values_is_refused() -> None:
    values = np.zeros((2, 5, 16), np.int8)
    readers = {OURS: lambda _: [values], "peer": lambda _: [values + np.int8(1)]}
    with pytest.raises(RegionSpotError, match="peer returns other values"):
        read.check_equal(readers, np.arange(2))


@pytest.mark.parametrize("order", [read.random_order, read.window_order])
def test_orders_visit_every_image_equally_often(order) -> None:
    assert np.bincount(np.concatenate(order(SMALL.read))).tolist() == [4] * 20


def test_a_window_is_one_partition() -> None:
    images = np.concatenate(read.window_order(Read(images=16, partition_size=8, batch_size=4)))
    windows = (images // 8).reshape(-1, 8)
    assert (windows == windows[:, :1]).all()


def test_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = encoder.PUBLISHED["vit_b"]
    sizes = {"img_size": 64, "embed_dim": 32, "num_heads": 2, "depth": 2, "global_attn_indexes": [1]}
    prompts = {"image_embedding_size": [4, 4], "input_image_size": [64, 64]}
    small = published | {
        "image_encoder": published["image_encoder"] | sizes,
        "prompt_encoder": published["prompt_encoder"] | prompts,
    }
    monkeypatch.setitem(encoder.PUBLISHED, "vit_b", small)
    found = encoder.measure(SMALL, tmp_path)
    *ours, rate = rows(found)
    peers = [row.peer for row in ours]
    assert peers[0] == encoder.THEIRS
    assert encoder.TRANSFORMERS in peers or f"{encoder.TRANSFORMERS}: not installed" in remarks(found)
    assert rate.peer == encoder.PRODUCT
    assert all(len(row.ours) == len(row.theirs) == 2 for row in ours)
    assert min(*rate.ours, *rate.theirs) > 0


def test_extract(tmp_path: Path) -> None:
    found = extract.measure(SMALL, tmp_path)
    speed, tokens, maps = rows(found)
    assert speed.peer == extract.PEER
    assert min(*speed.ours, *speed.theirs) > 0
    # The peer is made of the libraries' own paths, so this also proves the features right.
    assert 0 < tokens.ours[0] < 1e-3
    assert 0 < maps.ours[0] < 1e-3
    assert "GPU: none used, not measured." in remarks(found)


def test_cosine_distance() -> None:
    a = np.array([[1.0, 0], [1, 1]])
    assert extract.cosine_distance(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert extract.cosine_distance(a, np.array([[0.0, 1], [1, 1]])) == pytest.approx(1)
    assert extract.cosine_distance(a[:0], a[:0]) == 0
    with pytest.raises(RegionSpotError):
        extract.cosine_distance(a, a[:1])


def test_train(tmp_path: Path) -> None:
    found = train.measure(SMALL, tmp_path)
    head, live, waiting = rows(found)
    assert (head.peer, live.peer) == (train.PEER, train.LIVE)
    for row in (head, live):
        assert len(row.ours) == len(row.theirs) == 2
        assert min(*row.ours, *row.theirs) > 0
    assert all(0 <= share < 1 for share in waiting.ours)
    assert "l14-336" in remarks(found)
    assert "Steps as CUDA graphs, maps on the GPU or from disk: not measured, no GPU." in remarks(found)
    assert not list(tmp_path.rglob("*.safetensors"))  # stopped before the checkpoint


def test_live_batches_are_those_of_the_cache_with_pixels_for_maps(tmp_path: Path) -> None:
    source = train._source("tiny", SMALL.train, tmp_path / "tiny")
    live.draw_images(tmp_path, SMALL.train.images)
    images = np.arange(SMALL.train.images)
    clip = live.frozen_clip("tiny", torch.device("cpu"))
    pixels, cached = live.PixelReader(source, images, clip), SourceReader(source, images)
    ours, theirs = cached.read(images[1:3]), pixels.read(images[1:3])
    for name in ("tokens", "labels"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert clip.encode(theirs.maps)["map"].shape == ours.maps.shape  # what the head takes
    assert not torch.equal(*theirs.maps)


def test_evaluate(tmp_path: Path) -> None:
    found = evaluate.measure(SMALL, tmp_path)
    for row in rows(found, "detections"):
        assert row.peer in ("lvis package", "faster-coco-eval", "hotcoco")
        assert min(*row.ours, *row.theirs) > 0
    assert all(0.02 < value < 2 for row in rows(found, "memory") for value in row.ours)
    peers = 3 - remarks(found).count("not installed")
    assert [row.met for row in rows(found, "largest difference")] == [True] * peers
    assert len(rows(found)) == 3 * peers


def test_the_random_problem_has_detections_of_all_outcomes() -> None:
    annotations, detections = random_problem(20, 30, 5)
    assert len(detections) == 600
    assert detections.category_ids.min() >= 1
    assert detections.category_ids.max() <= 5
    assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
    for image in annotations["images"]:
        present = {a["category_id"] for a in annotations["annotations"] if a["image_id"] == image["id"]}
        assert not present & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= present


def test_a_results_file_like_those_of_other_systems(tmp_path: Path) -> None:
    truth, results = write_problem(SMALL.evaluate, tmp_path)
    found = read_results(results).detections
    assert len(found) == len(found.masks) == 3 * 6
    scored = average_precision(found, truth)
    assert set(scored) == {"bbox", "segm"}
    assert 0 < scored["segm"].metrics["AR"] < 1


def test_examples(finished: Path, tmp_path: Path) -> None:
    small = Examples(
        checkpoint=finished / "rs-cache-data/runs/small",
        methods=("regionspot",),
        images=4,
        tested=3,
        shots=(2,),
    )
    found = examples.measure(replace(SMALL, examples=small), tmp_path)
    assert [row.what.partition(": ")[2] for row in rows(found)] == ["all regions", "novel regions"] * 2
    assert all(len(row.ours) == len(row.theirs) == 2 for row in rows(found))
    assert all(0 <= value <= 100 for row in rows(found) for value in (*row.ours, *row.theirs))
    assert "4 images for examples" in remarks(found)
    elsewhere = replace(SMALL, examples=replace(small, checkpoint=tmp_path))
    assert "rs-cache demo trains one" in remarks(examples.measure(elsewhere, tmp_path))


def test_own_labels(finished: Path, tmp_path: Path) -> None:
    small = OwnLabels(
        checkpoint=finished / "rs-cache-data/runs/small",
        boxes=12,
        images=24,
        tested=12,
        variants={"held": {"distillation": 10.0}},
    )
    found = own_labels.measure(replace(SMALL, own_labels=small, repeats=1), tmp_path)
    groups = [row.what.partition(": ")[2] for row in rows(found)]
    assert groups == [
        "held-out boxes of the labels",
        *(f"regions of {name} classes, among {what}" for what in ("these", "all") for name in ("new", "old")),
    ]
    assert all(0 <= value <= 100 for row in rows(found) for value in (*row.ours, *row.theirs))
    assert {row.peer for row in rows(found)} == {own_labels.BEFORE}
    elsewhere = replace(SMALL, own_labels=replace(small, checkpoint=tmp_path))
    assert "rs-cache demo trains one" in remarks(own_labels.measure(elsewhere, tmp_path))


@pytest.mark.slow
def test_workers(tmp_path: Path) -> None:
    found = workers.measure(SMALL, tmp_path)
    if rows(found):
        speed, share, idle = rows(found)
        assert min(*speed.ours, *speed.theirs, *share.ours) > 0
        assert 0 <= min(idle.ours) < 1
    else:
        assert "Not measured" in remarks(found)


def test_workers_need_cores_of_their_own(tmp_path: Path) -> None:
    found = workers.measure(Settings(workers=Workers(workers=10_000)), tmp_path)
    assert not rows(found)
    assert "Not measured" in remarks(found)


def test_steady_state_leaves_out_the_start_and_the_end() -> None:
    tasks = [
        *(workers.Task("a", 0, 2), workers.Task("b", 0, 1)),  # what the networks are
        *(workers.Task("a", 2, 10), workers.Task("b", 1, 8)),  # first partitions
        workers.Task("a", 10, 14),
        workers.Task("a", 14, 18),  # 2 of its 4 seconds are inside
        workers.Task("b", 8, 12),  # 2 of its 4 seconds are inside
        workers.Task("b", 13, 16),  # one second idle before it
    ]
    steady = workers.steady_state(tasks, 2)  # from 10 to 16
    assert steady.rate == pytest.approx((1 + 0.5 + 0.5 + 1) / 6)
    assert steady.idle == pytest.approx(1 / 12)


@pytest.mark.parametrize("other", ["a", "b"])
def test_no_steady_state_is_an_error(other: str) -> None:
    with pytest.raises(RegionSpotError, match="of 2 workers"):
        workers.steady_state([workers.Task("a", 0, 1), workers.Task(other, 0, 1)], 2)


def test_plan(tmp_path: Path) -> None:
    found = plan.measure(SMALL, tmp_path)
    speed, memory = rows(found, "plan of 20 images, 30 boxes")
    assert speed.peer == plan.PEER
    assert min(*speed.ours, *speed.theirs) > 0
    assert memory.met
    assert "--full" in remarks(found)


def test_annotations_to_plan_have_the_boxes_asked_for(tmp_path: Path) -> None:
    plan.write_annotations(tmp_path / "a.json", 20, 1.5)
    dataset = read_coco_style(tmp_path / "a.json", require_images=False)
    assert (len(dataset), dataset.num_boxes, dataset.dropped.total()) == (20, 30, 0)
