"""MobileSAM's image encoder: its published names, shapes and values."""

import copy
import hashlib
import json

import torch
from segment_anything import SamPredictor
from torch import Tensor

from regionspot_cache.backbones.mobile_sam import TinyVitEncoder
from regionspot_cache.backbones.presets import SamSpec
from regionspot_cache.backbones.sam import SamBackbone
from regionspot_cache.backbones.sam_build import PUBLISHED, build_sam, random_sam
from tests.backbones.small import SAM_CONFIG, picture, random_boxes

SMALL = {key: part for key, part in copy.deepcopy(SAM_CONFIG).items() if key != "image_encoder"} | {
    "tiny_vit": {
        "img_size": 128,
        "embed_dims": [16, 24, 32, 40],
        "depths": [2, 1, 2, 1],
        "num_heads": [1, 3, 2, 5],
        "window_sizes": [7, 7, 5, 7],
        "out_chans": 64,
    }
}


def as_if_trained(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """No parameter and no statistic is what it starts from; drawn in the order of the published names."""
    generator = torch.Generator().manual_seed(0)
    for name in sorted(state):
        if name.endswith("running_var"):
            state[name].uniform_(0.5, 2, generator=generator)
        elif state[name].dtype.is_floating_point:
            state[name].normal_(std=0.3, generator=generator)
    return state


def test_names_and_shapes_are_those_of_the_published_encoder() -> None:
    """Count and digest were taken from the published code, with which its checkpoint loads strictly."""
    with torch.device("meta"):
        state = build_sam(PUBLISHED["mobile_sam"]).state_dict()
        decoder = build_sam(PUBLISHED["vit_b"]).state_dict()
    prefix = "image_encoder."
    encoder = sorted(
        (k.removeprefix(prefix), list(v.shape)) for k, v in state.items() if k.startswith(prefix)
    )
    assert len(encoder) == 302
    assert hashlib.sha256(json.dumps(encoder).encode()).hexdigest().startswith("533fdbe35837bb30")
    rest = {k: v.shape for k, v in state.items() if not k.startswith(prefix)}
    assert rest == {k: v.shape for k, v in decoder.items() if not k.startswith(prefix)}
    assert len(state) == 439


def test_values_are_those_of_the_published_structure() -> None:
    """Taken from an implementation by hand of the published code: no stage or name is exchanged."""
    encoder = TinyVitEncoder(**SMALL["tiny_vit"]).eval()
    encoder.load_state_dict(as_if_trained(encoder.state_dict()))
    with torch.no_grad():
        found = encoder(torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)))[0]
    first, last = [0.24651, 0.11731, -0.20196, 0.15072], [0.81917, -0.67733, -0.10277, -0.28885]
    torch.testing.assert_close(found[:4, 0, 0], torch.tensor(first), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[60:, 7, 7], torch.tensor(last), rtol=1e-3, atol=1e-3)


def test_the_grid_is_that_of_sam() -> None:
    encoder = TinyVitEncoder(**SMALL["tiny_vit"]).eval()
    assert encoder(torch.zeros(1, 3, 128, 128)).shape == (1, 64, 8, 8)
    published = PUBLISHED["mobile_sam"]["tiny_vit"]
    assert published["img_size"] == 1024
    assert published["embed_dims"][-1] == 320


def test_tokens_and_masks_equal_the_predictor() -> None:
    """segment_anything's own path, which asks nothing of an encoder but its size and its output."""
    network = random_sam(SMALL, 0)
    sam = SamBackbone(network, SMALL, SamSpec(model="mobile_sam", weights="random:0", precision="fp32"))
    image, boxes = picture(90, 131), random_boxes(5, 90, 131)
    predictor = SamPredictor(network)
    predictor.set_image(image)
    caught = []
    hook = network.mask_decoder.transformer.register_forward_hook(
        lambda m, i, out: caught.append(out[0][:, 1])
    )
    framed = torch.from_numpy(predictor.transform.apply_boxes(boxes, (90, 131))).float()
    expected, _, _ = predictor.predict_torch(None, None, framed, multimask_output=False)
    hook.remove()
    embedding = sam.embed(sam.preprocess(image)[None])
    [tokens] = sam.tokens(embedding, [boxes], [(90, 131)])["transformer"]
    assert (tokens - caught[0]).abs().max() < 1e-4
    assert (sam.masks(embedding, boxes, (90, 131))[0] == expected[:, 0]).float().mean() > 0.999


def test_it_never_passes_for_sam() -> None:
    sam = SamBackbone(random_sam(SMALL, 0), SMALL, SamSpec(model="mobile_sam"))
    found = sam.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["model"] == "mobile_sam"
    assert "tiny_vit" in found["architecture"]
