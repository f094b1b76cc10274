"""Networks of the user's own: entry points, import paths, and who may name them."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from regionspot_cache.backbones import ClipBackbone, load_part, load_preset, registry
from regionspot_cache.backbones.presets import ClipSpec, OwnSpec, SamSpec, is_import_path
from regionspot_cache.backbones.registry import own_network
from regionspot_cache.errors import UsageError
from regionspot_cache.recognition.predictor import RegionPredictor
from tests.backbones.small import small_clip

HERE = __name__


def build(spec: OwnSpec, device: str) -> ClipBackbone:
    """The network that these tests register."""
    return small_clip(layers=(spec.options.get("layer", -1),))


def build_nonsense(spec: OwnSpec, device: str) -> object:
    return {"a": "mapping"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with the entry point `mine` were installed."""

    def points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("mine", f"{HERE}:build", group)] if group == registry.GROUP else []

    monkeypatch.setattr(registry, "entry_points", points)


def test_an_import_path_is_called_with_the_spec() -> None:
    clip = load_part(OwnSpec(network=f"{HERE}:build", options={"layer": 0}))
    assert clip.fingerprint() == small_clip(layers=(0,)).fingerprint()


@pytest.mark.usefixtures("installed")
def test_an_entry_point_is_found_by_its_name() -> None:
    clip = load_part(OwnSpec(network="mine", options={"layer": 1}))
    assert clip.fingerprint() == small_clip(layers=(1,)).fingerprint()
    assert list(registry.registered()) == ["mine"]


@pytest.mark.parametrize(("network", "kind"), [("sam", SamSpec), ("clip", ClipSpec)])
def test_names_of_networks_that_are_here_cannot_be_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: str, kind: type
) -> None:
    points = [EntryPoint(name, f"{HERE}:build", registry.GROUP) for name in (network, "mine")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert list(registry.registered()) == ["mine"]
    assert isinstance(load_preset(write(tmp_path, network)).parts["clip"], kind)
    with pytest.raises(UsageError, match=f"There is no network '{network}'"):
        own_network(OwnSpec(network=network), "cpu")


@pytest.mark.usefixtures("installed")
def test_names_that_nobody_registered_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no network 'mein'[\s\S]*sam, clip, .*mine"):
        own_network(OwnSpec(network="mein"), "cpu")


def test_names_of_other_kinds_are_no_import_paths() -> None:
    names = ["ViT-B-16", "hf-hub:a/b", "local-dir:/a.b:c", "packaged", "a:", ":b", "a b:c", "a:b-c", "1a:b"]
    assert [name for name in names if is_import_path(name)] == []


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("no_such_package.module:build", r"no_such_package[\s\S]*PYTHONPATH"),
        (f"{HERE}:biuld", r"no callable biuld[\s\S]*build_nonsense"),
        (f"{HERE}:HERE", "no callable HERE"),
        (f"{HERE}:build_nonsense", r"gave a dict without[\s\S]*encode"),
    ],
)
def test_what_gives_no_encoder_is_explained(network: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        load_part(OwnSpec(network=network))


def write(folder: Path, network: str) -> Path:
    path = folder / "backbone.yaml"
    path.write_text(
        "parts:\n"
        "  sam: {network: sam, model: packaged, weights: 'random:1'}\n"
        f"  clip: {{network: '{network}'}}\n"
    )
    return path


@pytest.mark.parametrize("part", ["sam", "clip"])
def test_a_model_folder_cannot_choose_code_to_run(tmp_path: Path, part: str) -> None:
    path = tmp_path / "backbone.yaml"
    other = {"sam": "clip: {network: clip}", "clip": "sam: {network: sam}"}[part]
    path.write_text(f"parts: {{{other}, {part}: {{network: 'os:getcwd'}}}}\n")
    with pytest.raises(UsageError, match=rf"{part}.network = os:getcwd[\s\S]*--backbone"):
        load_preset(path, from_model_folder=True)
    assert load_preset(path)  # the user's own choice


def test_the_predictor_trusts_the_user_and_not_the_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    trained = finished / "rs-cache-data" / "runs" / "small"
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((trained / name).read_bytes())
    path = write(folder, f"{HERE}:build")
    monkeypatch.setattr(f"{HERE}.build", lambda spec, device: pytest.fail("it ran"))
    with pytest.raises(UsageError, match="may not choose code"):
        RegionPredictor.from_pretrained(folder)
    with pytest.raises(pytest.fail.Exception, match="it ran"):
        RegionPredictor.from_pretrained(folder, backbone=path.rename(tmp_path / "chosen.yaml"))


@pytest.mark.usefixtures("installed")
def test_a_model_folder_may_name_what_is_installed(tmp_path: Path) -> None:
    assert load_preset(write(tmp_path, "mine"), from_model_folder=True).parts["clip"] == OwnSpec(
        network="mine"
    )
