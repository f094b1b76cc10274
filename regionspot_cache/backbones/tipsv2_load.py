"""TIPSv2 from a spec: the sizes of the published networks, their weights, and a lazy tokenizer."""

from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regionspot_cache.backbones.hf_load import (
    FOLDER,
    HUB,
    config_values,
    missing,
    network_of,
    quiet,
    refused,
    source_of,
    transformers_library,
)
from regionspot_cache.backbones.presets import Tipsv2Spec
from regionspot_cache.backbones.tipsv2 import Tipsv2
from regionspot_cache.errors import InputError, UsageError

_NO_WORDS = 2  # tokens of a tokenizer that found no file: padding and unknown


class Published(NamedTuple):
    """A repository of the hub, and where the configurations of its towers differ from the default."""

    repository: str
    vision: Mapping[str, Any]
    text: Mapping[str, Any]


def _published(name: str, width: int, heads: int, vision: Mapping[str, Any], text: Mapping[str, Any]) -> Any:
    size = {"hidden_size": width, "num_attention_heads": heads}
    words = {"vocab_size": 32000, "num_hidden_layers": 12, "intermediate_size": 4 * width}
    return Published(f"google/{name}", {**size, **vision}, {**size, **words, **text})


PUBLISHED = {
    "tipsv2-b14": _published("tipsv2-b14", 768, 12, {}, {}),
    "tipsv2-l14": _published("tipsv2-l14", 1024, 16, {"num_hidden_layers": 24}, {}),
    "tipsv2-so400m14": _published(
        "tipsv2-so400m14",
        1152,
        16,
        {"num_hidden_layers": 27, "mlp_ratio": 4304 / 1152},
        {"num_hidden_layers": 27, "intermediate_size": 4304},
    ),
    "tipsv2-g14": _published("tipsv2-g14", 1536, 24, {"num_hidden_layers": 40, "use_swiglu_ffn": True}, {}),
}


def load_tipsv2(spec: Tipsv2Spec, device: torch.device | str = "cpu") -> Tipsv2:
    """A TIPSv2. Of random weights on the device "meta" it has shapes but no values.

    Raises:
        UsageError: transformers is not installed or too old, or a spec that makes no sense.
        MissingFileError: a folder or weights that are not here and cannot be fetched.
        InputError: another network, or weights that do not fit.
    """
    if spec.model not in PUBLISHED and not spec.model.startswith((HUB, FOLDER)):
        known = ", ".join([*PUBLISHED, f"{HUB}ORG/NAME", f"{FOLDER}DIR"])
        raise UsageError(f"There is no TIPSv2 {spec.model!r}.", f"{known}.")
    library = transformers_library(f"tipsv2.model = {spec.model}")
    if not hasattr(library, "Tipsv2Model"):
        raise UsageError(
            f"tipsv2.model = {spec.model}, but transformers {library.__version__} has no TIPSv2.",
            "A newer transformers.",
            "uv pip install --upgrade transformers",
        )
    source = source_of(spec.model, PUBLISHED)
    with quiet(library.utils.logging):
        with refused(f"The config.json of {source}"):
            config = _config(library, spec.model, source)
        with refused(f"The network of {source}"), torch.device(device if str(device) == "meta" else "cpu"):
            published = spec.model in PUBLISHED
            network, _ = network_of(
                library.Tipsv2Model, config, spec, source, published, _drawn, with_config=published
            )
    return Tipsv2(network, _LazyTokenizer(library, source, config.text_config), spec, device)


def _config(library: Any, model: str, source: str) -> Any:
    if model in PUBLISHED:
        found = PUBLISHED[model]
        return library.Tipsv2Config(vision_config=dict(found.vision), text_config=dict(found.text))
    if (kind := config_values(library, source).get("model_type")) != "tipsv2":
        raise InputError(f"{source} holds a model of type {kind}.", "tipsv2.")
    return library.Tipsv2Config.from_pretrained(source)


def _drawn(model_class: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config)


class _LazyTokenizer:
    """The library's tokenizer, made at the first text: it needs the sentencepiece library and a download."""

    def __init__(self, library: Any, source: str, config: Any) -> None:
        self.library, self.source, self.config = library, source, config

    @cached_property
    def tokenizer(self) -> Any:
        try:
            with quiet(self.library.utils.logging):
                tokenizer = self.library.Tipsv2Tokenizer.from_pretrained(self.source)
        except OSError as error:
            raise missing(self.source, error) from None
        except (ImportError, ValueError):
            if find_spec("sentencepiece"):
                raise
            raise UsageError(
                f"The tokenizer of {self.source} needs another package.",
                "The sentencepiece library.",
                "uv pip install sentencepiece",
            ) from None
        if len(tokenizer) <= _NO_WORDS:  # which the library takes for one
            raise missing(self.source, FileNotFoundError("no tokenizer.model and no tokenizer.json"))
        if len(tokenizer) > self.config.vocab_size:
            raise InputError(
                f"{self.source} has a tokenizer of {len(tokenizer)} tokens.",
                f"At most {self.config.vocab_size}, the vocabulary of the network.",
            )
        return tokenizer

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        with refused(f"The tokenizer of {self.source}"):
            found = self.tokenizer(
                texts,
                padding="max_length",
                truncation=True,
                max_length=self.config.max_position_embeddings,
                return_tensors="pt",
            )
        return {name: found[name] for name in ("input_ids", "attention_mask")}
