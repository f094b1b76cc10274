"""Training on regions without labels: what a step sees, its loss, and runs of such sources."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from regionspot_cache.errors import IdentityError, UsageError
from regionspot_cache.training import Stage, train
from regionspot_cache.training.caption_losses import concept_contrastive, distillation, image_text
from regionspot_cache.training.caption_source import CaptionTargets
from regionspot_cache.training.config import CaptionOptions, CaptionWeights
from regionspot_cache.training.distributed import ProcessGroup
from regionspot_cache.training.head import RegionHead
from regionspot_cache.training.loader import Batch, SourceReader, make_batch
from regionspot_cache.training.losses import region_loss
from regionspot_cache.training.objectives import objective
from regionspot_cache.training.setup import initial_head
from tests.training.fake import make_config, make_source
from tests.training.fake_captions import RegionCache, make_caption_source
from tests.training.run_fake import config_of

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def batch_of(source, images: list[int], key: int = 5, *, in_memory: bool = False) -> Batch:
    reader = SourceReader(source, np.arange(source.cache.num_images))
    if in_memory:
        reader.load(torch.device("cpu"))
    return make_batch(0, 0, reader, np.array(images), len(images), pin=False, key=key)


def test_a_step_sees_the_whole_picture_and_a_draw_of_the_others() -> None:
    source = make_caption_source()
    crowded = int(np.argmax(source.cache.cache.counts))
    boxes = source.cache.cache.counts[crowded]
    assert boxes == 4
    drawn = [source.see(crowded, key).boxes.tolist() for key in range(60)]
    assert drawn == [source.see(crowded, key).boxes.tolist() for key in range(60)]
    assert {tuple(one) for one in drawn} == {(0, 1, 3), (0, 2, 3), (1, 2, 3)}
    other = make_caption_source(options=CaptionOptions(regions=100))
    assert other.see(crowded, 0).boxes.tolist() == [0, 1, 2, 3]


def test_captions_are_drawn_anew_for_every_step() -> None:
    source = make_caption_source()
    one, two = source.captions.of(np.array([2, 2]), np.array([0, 1]))
    found = [source.see(2, key).taught[1] for key in range(40)]
    first = [np.array_equal(caption[0], one) for caption in found]
    assert 8 < sum(first) < 32
    assert all(
        np.array_equal(caption[0], two)
        for caption, is_first in zip(found, first, strict=True)
        if not is_first
    )
    assert len(source.see(3, 0).taught[1]) == 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_batch_knows_its_kept_regions_and_captioned_pictures(in_memory: bool) -> None:
    source, images = make_caption_source(), [7, 3, 22, 8]
    batch = batch_of(source, images, in_memory=in_memory)
    targets, place, frames, kept = CaptionTargets(*batch.targets), 0, [], []
    for row, image in enumerate(images):
        seen = source.see(image, 5)
        rows = source.cache.offsets[image] + seen.boxes
        taught = source.concepts.of(rows)
        tokens = batch.tokens[row][batch.real[row]]
        assert np.array_equal(tokens, source.cache.cache.tokens[image][seen.boxes])
        for box in range(len(rows)):
            if taught.frame[box] and image % 3:
                frames.append(place)
            if not taught.frame[box] and taught.probs[box, 0] > 0.3:
                assert targets.ids[len(kept)].tolist() == taught.ids[box].tolist()
                assert targets.rest[len(kept)] == taught.rest[box]
                kept.append(place)
            place += 1
    assert targets.frames.tolist() == frames
    assert targets.kept.tolist() == kept
    assert 0 < len(kept) < place - len(images)
    captions = [source.see(image, 5).taught[1] for image in images]
    assert np.array_equal(targets.captions, np.concatenate(captions))


def embeddings_of(batch: Batch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(batch.places), 7, generator=generator, requires_grad=True)


def test_the_loss_is_the_weighted_and_scaled_sum_of_three() -> None:
    weights = CaptionWeights(contrastive=0.5, distillation=2.0, image_text=0.25)
    options = CaptionOptions(temperature=0.1, threshold=0.3, regions=2, weights=weights)
    source = make_caption_source(options=options, scale=3.0)
    batch = batch_of(source, [7, 3, 22, 8])
    real, targets = embeddings_of(batch), CaptionTargets(*batch.targets)
    head = initial_head([source], make_config())
    found = objective(source, make_config(), CPU)(head, real, batch, ProcessGroup())
    v = normalize(real, dim=1)
    logits = v[targets.kept] @ torch.from_numpy(source.text_embeddings).T / 0.1
    expected = 3 * (
        0.5 * concept_contrastive(logits, targets.ids[:, 0])
        + 2.0 * distillation(logits, targets.ids, targets.probs, targets.rest)
        + 0.25 * image_text(v[targets.frames], targets.captions, 0.1)
    )
    torch.testing.assert_close(found, expected)


def test_a_batch_that_the_teacher_rejects_has_no_loss_and_no_gradient() -> None:
    source = make_caption_source(options=CaptionOptions(threshold=0.99))
    batch = batch_of(source, [0, 3, 6])  # without captions
    real = embeddings_of(batch)
    head = initial_head([source], make_config())
    loss = objective(source, make_config(), CPU)(head, real, batch, ProcessGroup())
    loss.backward()
    assert loss == 0
    assert torch.equal(real.grad, torch.zeros_like(real))


def test_the_offset_moves_the_focal_loss_alone() -> None:
    config = make_config()
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, offset=True))
    source = make_source(scale=2.0)
    head = initial_head([source], config)
    batch = batch_of(source, [7, 3])
    with torch.no_grad():
        head.offset.fill_(-0.02)
    loss = objective(source, config, CPU)(head, embeddings_of(batch), batch, ProcessGroup())
    logits = head.logits(embeddings_of(batch), torch.from_numpy(source.text_embeddings)) - 2
    torch.testing.assert_close(loss, 2 * region_loss(logits, batch.labels, batch.weights))
    loss.backward()
    assert head.offset.grad is not None
    assert head.offset.grad != 0


def test_a_run_on_boxes_and_captions_resumes_to_the_same_head(tmp_path: Path) -> None:
    def sources():
        return [make_source(), make_caption_source()]

    config = make_config(14, checkpoint_seconds=0.0, log_every=1)
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, offset=True))

    def stop(report) -> None:
        if report.step == 9:
            raise RuntimeError("stopped")

    whole = train(sources(), config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        train(sources(), config, tmp_path / "parts", on_step=stop)
    other = dataclasses.replace(config, memory_bytes=0, reader_threads=1)
    assert train(sources(), other, tmp_path / "parts").resumed_from == 8
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert float(first["offset"]) != 0
    assert set(whole.left_out) == {"fake", "captioned"}
    reopened = RegionHead.from_pretrained(tmp_path / "whole")
    assert reopened.config.offset
    changed = make_caption_source(options=CaptionOptions(temperature=0.1, threshold=0.2, regions=2))
    with pytest.raises(IdentityError, match=r"sources\.captioned\.options\.threshold"):
        train([make_source(), changed], config, tmp_path / "whole")


def test_two_processes_train_the_same_head_as_one(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "tests.training.run_fake", str(tmp_path / "two"), "8", "0.0", "0", "captions"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *arguments], cwd=ROOT, env=environment, check=True)
    train([make_source(), make_caption_source()], config_of(8, 0.0), tmp_path / "one")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def test_the_head_learns_what_the_teacher_says(tmp_path: Path) -> None:
    stage = Stage(steps=150, learning_rate=1e-2, schedule="cosine", warmup_steps=5)
    config = make_config(stages=(stage,), log_every=10, batch_size=8)
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, dropout=0.0))
    train([make_caption_source()], config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"threshold": 1.0}, {"regions": 0}])
def test_options_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        CaptionOptions(**change)


def test_images_without_features_of_the_teacher_are_left_out(tmp_path: Path) -> None:
    cache = RegionCache(seed=3, bad={"sam": {4, 5}})
    result = train([make_caption_source(cache=cache)], make_config(2), tmp_path)
    assert result.left_out["captioned"] == {"without sam": 2}
