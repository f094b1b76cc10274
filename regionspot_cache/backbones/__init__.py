"""Frozen networks: the SAM side, the CLIP side and region proposals, with their presets and weights.

Importing this package checks torch and torchvision first, because every module of it needs the pair.
"""

from regionspot_cache.backbones.compat import check_torchvision

check_torchvision()
