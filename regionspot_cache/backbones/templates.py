"""Public prompt templates with {} for the name and {article} for "a" or "an": CLIP's and ViLD's."""

_PHOTOS = (
    *("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up", "jpeg corrupted"),
    *("blurry", "pixelated", "black and white"),
)
_OBJECTS = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")
_FIGURES = ("a plastic", "a toy", "a plushie", "a cartoon", "an embroidered")


def clip80() -> tuple[str, ...]:
    """CLIP's 80 for ImageNet."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # imports torch, which checking a name does not need

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def clip7() -> tuple[str, ...]:
    """The seven that CLIP's authors found best for ImageNet, by forward selection."""
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)


def vild63() -> tuple[str, ...]:
    """The 63 of ViLD's demo (tensorflow/tpu, ViLD_demo.ipynb): all but five are led in by "This is"."""
    phrases = [
        *(f"a photo of {which} {{}} in the scene" for which in ("{article}", "the", "one")),
        *(f"a photo of {which} {{}}" for which in ("{article}", "my", "the", "one", "many")),
        *(f"a {kind} photo of {which} {{}}" for kind in _PHOTOS for which in ("{article}", "the")),
        *(f"a photo of {which} {kind} {{}}" for kind in _OBJECTS for which in ("a", "the")),
        *(f"{figure} {{}}" for figure in _FIGURES),
        *(f"the {figure.partition(' ')[2]} {{}}" for figure in _FIGURES),
        *(f"a painting of {which} {{}}" for which in ("the", "a")),
    ]
    return (
        *(f"There is {which} {{}} in the scene." for which in ("{article}", "the")),
        *(f"itap of {which} {{}}." for which in ("{article}", "my", "the")),
        *(f"This is {phrase}." for phrase in phrases),
    )
