"""A small region proposal network on the SAM image embedding, made of torchvision's own RPN parts.

Works in the SAM frame: pixels of the resized, zero-padded SAM input (see `SamBackbone.preprocess`). It is the
network of Faster R-CNN (Ren et al., 2015), section 3.1, as torchvision builds it.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers


class SamRpn(nn.Module):
    """Class-agnostic proposals from SAM embeddings.

    Args:
        embed_dim: channels of the SAM embedding; `image_size` is the side of the SAM input in pixels.
        anchor_sizes: anchor sides in pixels of the SAM frame; `aspect_ratios` are their height / width.
        width: channels of the neck and the head.
        upsample: doubles the grid with a transposed convolution before the head, for small objects.
        nms, pre_nms, top_n, samples, fg_iou, bg_iou: as torchvision's `RegionProposalNetwork` has them.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        image_size: int,
        anchor_sizes: Sequence[float] = (20, 32, 48, 72, 108),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        width: int = 128,
        upsample: bool = True,
        nms: float = 0.7,
        pre_nms: int = 2000,
        top_n: int = 300,
        samples: int = 128,
        fg_iou: float = 0.7,
        bg_iou: float = 0.3,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        first = nn.ConvTranspose2d(embed_dim, width, 2, 2) if upsample else nn.Conv2d(embed_dim, width, 1)
        self.neck = nn.Sequential(first, nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU())
        anchors = AnchorGenerator((tuple(anchor_sizes),), (tuple(aspect_ratios),))
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=fg_iou,
            bg_iou_thresh=bg_iou,
            batch_size_per_image=samples,
            positive_fraction=0.5,
            pre_nms_top_n={"training": pre_nms, "testing": pre_nms},
            post_nms_top_n={"training": top_n, "testing": top_n},
            nms_thresh=nms,
        )

    def forward(self, embeddings: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Proposals of each image, best first.

        Args:
            embeddings: [B,E,h,w] SAM image embeddings.
            sizes: (height, width) of the un-padded image inside the SAM frame; boxes are clipped to it.

        Returns:
            per image boxes [n,4] xyxy in SAM-frame pixels and scores [n], sigmoid objectness.
        """
        return filtered_proposals(self.rpn, self._images(embeddings, sizes), [self.neck(embeddings)])

    def losses(self, embeddings: Tensor, targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Losses of torchvision's RPN for embeddings [B,E,h,w] and true boxes [n,4] xyxy in the SAM frame.

        "loss_objectness" and "loss_rpn_box_reg", scalars; proposals and their suppression are left out.
        """
        rpn = self.rpn
        features = [self.neck(embeddings)]
        logits, deltas = concat_box_prediction_layers(*rpn.head(features))
        side = (self.image_size, self.image_size)
        anchors = rpn.anchor_generator(self._images(embeddings, [side] * len(embeddings)), features)
        labels, matched = rpn.assign_targets_to_anchors(anchors, [{"boxes": boxes} for boxes in targets])
        objectness, boxes = rpn.compute_loss(logits, deltas, labels, rpn.box_coder.encode(matched, anchors))
        return {"loss_objectness": objectness, "loss_rpn_box_reg": boxes}

    def _images(self, embeddings: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageList:
        # torchvision reads only the shape of the pixels, so a view of one number stands for them.
        pixels = embeddings.new_zeros(1).expand(len(embeddings), 1, self.image_size, self.image_size)
        return ImageList(pixels, list(sizes))


def filtered_proposals(
    rpn: RegionProposalNetwork, images: ImageList, features: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """What `RegionProposalNetwork.forward` computes in evaluation, with the scores that it throws away.

    Returns:
        per image boxes [n,4] xyxy in pixels of the network's input and scores [n] (sigmoid), best first.
    """
    objectness, deltas = rpn.head(features)
    anchors = rpn.anchor_generator(images, features)
    per_level = [level[0].numel() for level in objectness]
    flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
    boxes = rpn.box_coder.decode(flat_deltas, anchors).view(len(anchors), -1, 4)
    kept, scores = rpn.filter_proposals(boxes, flat_objectness, images.image_sizes, per_level)
    return list(zip(kept, scores, strict=True))
