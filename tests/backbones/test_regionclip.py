"""RegionCLIP's recogniser against open_clip's own ResNet, and what is read of published files."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regionspot_cache.backbones import RegionClip, RegionClipSpec, load_part
from regionspot_cache.backbones.regionclip import pooled_query
from regionspot_cache.backbones.regionclip_load import load_regionclip
from regionspot_cache.errors import InputError, MissingFileError, RegionSpotError, UsageError
from tests.backbones.published import published, rpn_state, save
from tests.backbones.small import (
    PARTS,
    RESNET,
    TEXT,
    VISION,
    picture,
    random_boxes,
    small_clip_model,
    small_regionclip,
)

NAME, DEEPER = "small-resnet-for-tests", "deeper-resnet-for-tests"


@pytest.fixture(scope="module")
def network() -> RegionClip:
    return small_regionclip()


def test_the_row_of_the_mean_token_is_that_of_the_whole_pool(network: RegionClip) -> None:
    pool = network.visual.attnpool
    maps = torch.randn(5, 512, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = pool(maps)
        torch.testing.assert_close(pooled_query(pool, maps), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(pooled_query(pool, maps.flip(2)), expected, atol=1e-3)


def test_the_whole_frame_at_the_native_size_is_the_image_embedding(network: RegionClip) -> None:
    """RoIAlign then samples every cell at its centre."""
    batch = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = network.model.visual(batch)
    torch.testing.assert_close(network.encode_image(batch), expected, rtol=1e-4, atol=1e-5)
    frame = np.array([[0, 0, 480, 320]], np.float32)  # of an original of another size
    found = network.encode(batch, [frame] * 3, [(320, 480)] * 3)["region"]
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-5)


def sampled(image_map: Tensor, box: Tensor, side: int) -> Tensor:
    """RoIAlign [1,C,side,side] of one box in cells by its definition: means of bilinear samples."""
    x0, y0, x1, y1 = (box - 0.5).tolist()
    step_x, step_y = (x1 - x0) / side, (y1 - y0) / side
    count_x, count_y = int(np.ceil(step_x)), int(np.ceil(step_y))
    xs = x0 + (torch.arange(side * count_x) + 0.5) * step_x / count_x
    ys = y0 + (torch.arange(side * count_y) + 0.5) * step_y / count_y
    height, width = image_map.shape[-2:]
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]
    unit = grid / torch.tensor([width - 1, height - 1]) * 2 - 1
    samples = F.grid_sample(image_map, unit, padding_mode="border", align_corners=True)
    return F.avg_pool2d(samples, (count_y, count_x))


def test_boxes_are_cut_out_of_the_map_of_the_third_stage(network: RegionClip) -> None:
    image, boxes = picture(100, 190), random_boxes(70, 100, 190)  # more than are embedded at once
    boxes[0] = [0, 0, 190, 100]  # more than one sample a bin
    batch = network.normalise(network.preprocess(image)[None])
    visual = network.visual
    with torch.no_grad():
        image_map = visual.layer3(visual.layer2(visual.layer1(visual.stem(batch))))
        cells = torch.from_numpy(boxes) * (96 / 100) / 16
        assert batch.shape[-2:] == (96, 182)
        cells[:, 0::2] *= (182 / 190) / (96 / 100)
        cuts = torch.cat([sampled(image_map, box, 6) for box in cells])
        expected = visual.attnpool(visual.layer4(cuts))
    [found] = network.encode(batch, [boxes], [(100, 190)])["region"]
    assert found.shape == (70, 24) == (70, *network.arrays["region"].shape)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_no_boxes_no_embeddings(network: RegionClip) -> None:
    none = np.zeros((0, 4), np.float32)
    [found] = network.encode(torch.zeros(1, 3, 96, 96), [none], [(10, 10)])["region"]
    assert found.shape == (0, 24)


@pytest.mark.parametrize(
    ("model", "roi", "embedding", "pooled"), [("RN50", 14, 1024, 2048), ("RN50x4", 18, 640, 2560)]
)
def test_sizes_of_the_published_networks(model: str, roi: int, embedding: int, pooled: int) -> None:
    network = load_part(RegionClipSpec(model=f"{model}-quickgelu", weights="random:0"), "meta")
    assert isinstance(network, RegionClip)
    assert (network.roi_size, network.visual.output_dim, network.logit_scale) == (roi, embedding, 100)
    with torch.no_grad():
        cut = network.visual.layer4(torch.zeros(2, pooled // 2, roi, roi, device="meta"))
        assert cut.shape == (2, pooled, roi // 2, roi // 2)
        assert pooled_query(network.visual.attnpool, cut).shape == (2, embedding)
    tensors = [k for k in network.visual.state_dict() if not k.endswith("num_batches_tracked")]
    assert len(tensors) == {"RN50": 284, "RN50x4": 434}[model]
    assert len(published({**network.model.state_dict()}, teacher=False)) == len(tensors) + 149


def test_images_keep_their_shape(network: RegionClip) -> None:
    image = picture(50, 75)
    resized = np.array(Image.fromarray(image).resize((144, 96), Image.Resampling.BILINEAR), np.float32)
    expected = (resized / 255 - np.array(PARTS.mean)) / np.array(PARTS.std)
    np.testing.assert_allclose(
        network.normalise(network.preprocess(image)[None])[0].permute(1, 2, 0).numpy(),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )
    assert network.preprocess(picture(50, 500)).shape == (3, 32, 200)  # by the long side; 32 at least


def test_the_fingerprint_follows_what_decides_the_values(network: RegionClip) -> None:
    base = network.fingerprint()
    assert json.loads(json.dumps(base)) == base == small_regionclip().fingerprint()
    changed = small_regionclip()
    changed.model.visual.layer4[0].bn1.running_mean.add_(1)
    for other in (small_regionclip(short_side=100), small_regionclip(precision="bf16"), changed):
        assert other.fingerprint() != base
    assert changed.text_fingerprint() == network.text_fingerprint()


def test_a_tower_that_is_no_resnet_is_refused() -> None:
    parts = replace(PARTS, model=small_clip_model(VISION))
    with pytest.raises(UsageError, match="ViT-small, whose image tower is no ResNet"):
        RegionClip(parts, RegionClipSpec(model="ViT-small"))


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small ResNets under names that open_clip knows."""
    from open_clip import factory

    folder = tmp_path_factory.mktemp("configs")
    for name, layers in {NAME: RESNET["layers"], DEEPER: [1, 1, 3, 1]}.items():
        config = {"embed_dim": 24, "vision_cfg": {**RESNET, "layers": layers}, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        open_clip.add_model_config(folder)
        yield


def spec_of(file: Path, model: str = NAME) -> RegionClipSpec:
    return RegionClipSpec(model=model, weights=str(file), short_side=96)


@pytest.mark.usefixtures("configs")
def test_recogniser_and_text_come_out_of_a_pretrained_file(tmp_path: Path) -> None:
    """Beside a teacher and an RPN whose tensors have other values under the same layer names."""
    rpn = {
        k: v for k, v in rpn_state("offline_backbone.", "offline_proposal_generator.").items() if "res2" in k
    }
    heads = {"roi_heads.box_predictor.cls_score.weight": torch.ones(2, 2)}
    source = small_clip_model(RESNET, seed=5)
    tensors = published(source.state_dict(), rpn={**rpn, **heads})
    network = load_regionclip(spec_of(save(tmp_path / "regionclip.pth", tensors)))
    batch = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.encode_image(batch), source.visual(batch), rtol=1e-4, atol=1e-5)
        tokens = open_clip.get_tokenizer("RN50")(["a cat", "two dogs"])
        torch.testing.assert_close(network.encode_text(["a cat", "two dogs"]), source.encode_text(tokens))
    assert network.logit_scale == 100
    assert float(network.model.logit_scale.exp()) == pytest.approx(100)


@pytest.mark.usefixtures("configs")
def test_a_state_dict_of_open_clip_is_read_too(tmp_path: Path) -> None:
    source = small_clip_model(RESNET, seed=6)
    torch.save(source.state_dict(), tmp_path / "clip.pt")
    network = load_regionclip(spec_of(tmp_path / "clip.pt"))
    assert torch.equal(network.visual.attnpool.c_proj.weight, source.visual.attnpool.c_proj.weight)


def pretrained() -> dict[str, Tensor]:
    return published(small_clip_model(RESNET).state_dict(), teacher=False)


def renamed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {new if key == old else key: value for key, value in state.items()}


REFUSED = {
    "key of the recogniser": (
        lambda: renamed(pretrained(), "backbone.layer2.0.conv2.weight", "backbone.layer2.0.conv9.weight"),
        NAME,
        r"2 tensors differ, first visual.layer2.0.conv2.weight",
    ),
    "key of the text": (
        lambda: renamed(pretrained(), "lang_encoder.ln_final.bias", "lang_encoder.ln_finale.bias"),
        NAME,
        r"2 tensors differ, first ln_final.bias",
    ),
    "rpn alone": (
        lambda: rpn_state("backbone.", "proposal_generator."),
        NAME,
        r"holds no recogniser: its tensors are of backbone, proposal_generator(.|\n)*proposer.weights",
    ),
    "other depth": (
        pretrained,
        DEEPER,
        r"does not fit the network: 15 tensors differ, first visual.layer3.2",
    ),
    "no text": (
        lambda: {k: v for k, v in pretrained().items() if not k.startswith("lang_encoder.")},
        NAME,
        r"has no text encoder \(lang_encoder",
    ),
    "nothing known": (lambda: {"head.weight": torch.ones(1)}, NAME, "holds no recogniser: .* of head"),
}


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_fit_are_one_error(case: str, tmp_path: Path) -> None:
    make, model, text = REFUSED[case]
    file = save(tmp_path / "file.pth", make())
    with pytest.raises(InputError, match=text) as raised:
        load_regionclip(spec_of(file, model))
    assert "file.pth" in raised.value.found


@pytest.mark.usefixtures("configs")
@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"weights": "no/such.pth"}, MissingFileError, "no/such.pth"),
        ({"model": "RN51"}, UsageError, "no model"),
        ({"weights": "nothing"}, UsageError, "nothing"),
    ],
)
def test_specs_that_make_no_sense_are_explained(
    changes: dict[str, str], error: type[RegionSpotError], text: str
) -> None:
    spec = asdict(RegionClipSpec(model="RN50-quickgelu"))
    with pytest.raises(error, match=text):
        load_regionclip(RegionClipSpec(**{**spec, **changes}))
