"""CLIP's prompt templates as open_clip lists them, with {} for the name."""

from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

CLIP80 = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
CLIP7 = tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)
