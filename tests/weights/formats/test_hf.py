"""Hugging Face's folders: their numbers, their names, and folders that are damaged."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from openvjepa.config import ClipProtocol, ModelConfig
from openvjepa.errors import CheckpointError
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier, LinearClassifier
from openvjepa.model.predictor import Predictor
from openvjepa.weights.formats.hf import WEIGHTS, read_hf, write_hf
from openvjepa.weights.formats.hf_settings import PREPROCESSOR, SETTINGS, hf_config
from openvjepa.weights.hub import LoadedModel, load_model
from openvjepa.weights.probes import load_probe

FIXTURES = Path(__file__).parents[2] / "fixtures" / "vjepa"
BASE, CLASSIFIER = FIXTURES / "hf_base", FIXTURES / "hf_classifier"
V2 = FIXTURES / "v2"
ARCH: dict[str, Any] = {
    "positions": "rope-tiled",
    "img_size": 32,
    "num_frames": 8,
    "num_heads": 3,
    "predictor_num_heads": 3,
}
LABELS = tuple(f"class_{i}" for i in range(5))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(CLASSIFIER / "io.safetensors")


@pytest.fixture(scope="module")
def classifier() -> LoadedModel:
    return load_model(CLASSIFIER)


@pytest.fixture
def meta() -> LoadedModel:
    """Meta's files, which hold the same numbers as the folder of transformers."""
    model = load_model(V2 / "checkpoint.pt", arch=ARCH)
    return replace(model, probe=load_probe(V2 / "probe.pt", num_heads=3), labels=LABELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(CLASSIFIER, tmp_path / "hf", ignore=shutil.ignore_patterns("*eps*", "io*"))
    return tmp_path / "hf"


def of(config: ModelConfig, probe: AttentiveClassifier | LinearClassifier | None = None) -> LoadedModel:
    return LoadedModel(
        Encoder(config), Predictor(config), config, "made", "encoder", ClipProtocol.of(config), probe=probe
    )


def test_outputs_of_transformers(classifier: LoadedModel, io: dict[str, Tensor]) -> None:
    encoder, predictor = classifier.encoder, classifier.predictor
    video = io["pixel_values_videos"].transpose(1, 2)
    tokens = encoder(video)
    torch.testing.assert_close(encoder.embed(video), io["hidden_states_0"], **CLOSE)
    torch.testing.assert_close(encoder.norm(io["hidden_states_2"]), tokens, **CLOSE)
    torch.testing.assert_close(tokens, io["last_hidden_state"], **CLOSE)
    torch.testing.assert_close(encoder(io["single_frame_pixel_values"].transpose(1, 2)),
                               io["single_frame_last_hidden_state"], **CLOSE)  # fmt: skip
    assert isinstance(predictor, Predictor)
    # transformers gathers the context out of the tokens of the whole clip
    context = io["masked_hidden_state"]
    out = predictor(context, io["context_mask"], io["target_mask"], 1).masked
    torch.testing.assert_close(out, io["predictor_last_hidden_state"], **CLOSE)
    assert isinstance(classifier.probe, AttentiveClassifier)
    torch.testing.assert_close(classifier.probe.pooler(tokens), io["pooler_output"], **CLOSE)
    torch.testing.assert_close(classifier.probe(tokens), io["logits"], **CLOSE)
    assert classifier.labels == LABELS
    assert classifier.clip.antialias


def test_layer_norm_epsilons(classifier: LoadedModel) -> None:
    expected = load_file(CLASSIFIER / "eps_sensitive.safetensors")
    assert classifier.probe is not None
    torch.testing.assert_close(classifier.probe(expected["tokens_small"]), expected["logits_tokens_small"], **CLOSE)
    encoder = load_model(CLASSIFIER).encoder
    for tensor in encoder.patch_embed.parameters():
        tensor.mul_(1e-3)
    out = encoder(expected["pixel_values_videos"].transpose(1, 2))
    torch.testing.assert_close(out, expected["last_hidden_state_patch_embed_scaled_1e3"], rtol=1e-4, atol=1e-4)


def test_the_base_model_is_that_of_the_classifier(classifier: LoadedModel) -> None:
    base = load_model(BASE)
    assert (base.probe, base.labels, base.config) == (None, None, classifier.config)
    for ours, theirs in ((base.encoder, classifier.encoder), (base.predictor, classifier.predictor)):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_what_transformers_would_write(tmp_path: Path, meta: LoadedModel) -> None:
    """Meta's numbers, written by us, are the files that transformers wrote of them."""
    notes = write_hf(tmp_path, meta)
    assert any("epsilon of 1e-05" in note for note in notes)
    assert any("antialias" in note for note in notes)
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(CLASSIFIER / WEIGHTS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert json.loads((tmp_path / SETTINGS).read_text()) == json.loads((CLASSIFIER / SETTINGS).read_text())
    assert not list(tmp_path.rglob("*.part"))


def test_a_base_folder_is_written_without_the_prefix(tmp_path: Path, meta: LoadedModel) -> None:
    write_hf(tmp_path, replace(meta, probe=None, labels=None))
    torch.testing.assert_close(load_file(tmp_path / WEIGHTS), load_file(BASE / WEIGHTS), rtol=0, atol=0)
    assert json.loads((tmp_path / SETTINGS).read_text()) == json.loads((BASE / SETTINGS).read_text())


@pytest.mark.parametrize("side", [256, 384])
def test_video_processor(side: int, tmp_path: Path) -> None:
    write_hf(tmp_path, of(ModelConfig(arch="vit_femto", depth=1, img_size=side, num_frames=2, positions="rope-tiled")))
    published = json.loads((CLASSIFIER / f"video_preprocessor_config_{side}.json").read_text())
    assert json.loads((tmp_path / PREPROCESSOR).read_text()) == published


@pytest.mark.parametrize(("section", "depth"), [("hf_base_vitl", None), ("hf_cls_vitl_ssv2", 4)])
def test_published_names(section: str, depth: int | None, tmp_path: Path) -> None:
    """A ViT-L's tensors, but narrow, have the names of the published files."""
    config = ModelConfig(
        arch="vit_femto", depth=24, img_size=32, num_frames=2, positions="rope-tiled", predictor_embed_dim=48,
        num_mask_tokens=10, predictor_num_heads=3,
    )  # fmt: skip
    probe = AttentiveClassifier(96, 3, 174, depth=depth, style="v2") if depth else None
    write_hf(tmp_path, of(config, probe))
    names = json.loads((FIXTURES / "keys" / "keys_hf.json").read_text())[section]
    assert set(load_file(tmp_path / WEIGHTS)) == set(names)


def test_published_sizes_are_known_by_name(tmp_path: Path, folder: Path) -> None:
    settings, tensors = json.loads((folder / SETTINGS).read_text()), load_file(folder / WEIGHTS)
    sizes = {
        "vit_large": (1024, 24, 16, 4.0),
        "vit_huge": (1280, 32, 16, 4.0),
        "vit_giant_xformers": (1408, 40, 22, 48 / 11),
    }
    for arch, (width, depth, heads, ratio) in sizes.items():
        numbers = {
            "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "mlp_ratio": ratio,
        }  # fmt: skip
        (folder / SETTINGS).write_text(json.dumps({**settings, **numbers, "crop_size": 256, "patch_size": 16}))
        layers = {f"vjepa2.encoder.layer.{i}.extra": torch.zeros(1) for i in range(2, depth)}  # as many as it says
        save_file({**tensors, **layers}, folder / WEIGHTS)
        with pytest.raises(CheckpointError) as caught:  # the tensors are those of a tiny one
            read_hf(folder)
        assert f"norm1.weight is [48], expected [{width}]" in str(caught.value)
        written = of_size(arch)
        assert {key: written[key] for key in numbers} == pytest.approx(numbers)
        # transformers cuts width * ratio to a whole number
        assert int(width * written["mlp_ratio"]) == {1024: 4096, 1280: 5120, 1408: 6144}[width]


def of_size(arch: str) -> dict[str, Any]:
    config = ModelConfig(arch=arch, img_size=256, num_frames=64, positions="rope-tiled", predictor_num_heads=12)
    with torch.device("meta"):
        return hf_config(of(config))


def test_shards(folder: Path, classifier: LoadedModel) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    parts = {f"model-0000{i}-of-00002.safetensors": list(tensors)[i - 1 :: 2] for i in (1, 2)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    places = {name: file for file, names in parts.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    model = load_model(folder)
    torch.testing.assert_close(model.encoder.state_dict(), classifier.encoder.state_dict(), rtol=0, atol=0)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards are not in it: model-00002-of-00002\.safetensors"):
        load_model(folder)
    for bad, words in (
        ({"a": "../x.safetensors"}, r"1 of 1 shards are not in it: \.\./x"),
        ({}, "no weight_map"),
        ([1], "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(CheckpointError, match=words):
            load_model(folder)


def test_half_precision_becomes_float32(folder: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    assert {value.dtype for value in load_model(folder).encoder.state_dict().values()} == {torch.float32}


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


NORM = "vjepa2.encoder.layernorm.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop(NORM), r"1 missing: encoder\.layernorm\.weight"),
        (drop("vjepa2.predictor.proj.bias"), r"1 missing: predictor\.proj\.bias"),
        (drop("classifier.bias"), r"missing: classifier\.bias"),
        (lambda t: t.update({"vjepa2.encoder.cls_token": torch.zeros(1)}), r"1 unexpected: encoder\.cls_token"),
        (lambda t: t.update({"head.weight": torch.zeros(1)}), r"1 unexpected: head\.weight"),
        (lambda t: t.update({NORM: torch.zeros(7)}), r"encoder\.layernorm\.weight is \[7\], expected \[48\]"),
        (
            lambda t: t.update({"vjepa2.predictor.embeddings.mask_tokens": torch.zeros(2, 1, 1, 36)}),
            r"mask_tokens is \[2, 1, 1, 36\], expected \[4, 1, 1, 36\]",
        ),
        (
            lambda t: t.update({"encoder.layernorm.weight": torch.zeros(48)}),
            r"encoder\.layernorm\.weight is there twice",
        ),
        (lambda t: t.clear(), "num_hidden_layers is 2, but the file has 0 of encoder"),
    ],
)
def test_damaged_tensors(folder: Path, damage: Callable[[dict[str, Tensor]], object], words: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    damage(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


@pytest.mark.parametrize("size", [0, 4, 5000, 900_000])
def test_cut_off_weights(folder: Path, size: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file$"):
        load_model(folder)


class Payload:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", WEIGHTS])
def test_code_in_a_pickle_is_not_run(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    trap = tmp_path / "executed"
    (folder / name).write_bytes(pickle.dumps(Payload(trap)))
    with pytest.raises(CheckpointError, match=r"is a pickle, which can hold code|damaged"):
        load_model(folder)
    assert not trap.exists()
    pickle.loads((folder / name).read_bytes())
    assert trap.exists(), "the trap does not work"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json {", "cannot be read"),
        ("\xff\xfe", "cannot be read|not a mapping"),
        ("[1, 2]", "not a mapping"),
        ("[" * 100_000, "cannot be read"),
        ("{}", "model_type None"),
        ('{"model_type": "vit"}', "model_type 'vit': not a V-JEPA 2 model"),
    ],
)
def test_damaged_settings(folder: Path, content: str, words: str) -> None:
    (folder / SETTINGS).write_bytes(content.encode("latin1"))
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": "48"}, "hidden_size '48': a whole number"),
        ({"hidden_size": 0}, "hidden_size 0"),
        ({"num_attention_heads": 5}, "is not divisible by its 5 attention heads"),
        ({"crop_size": 30}, "30"),
        ({"num_pooler_layers": -1}, "num_pooler_layers -1"),
        ({"num_pooler_layers": 2}, "num_pooler_layers is 2, but the file has 3 of pooler"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but the file has 2 of encoder"),
        ({"mlp_ratio": None}, "mlp_ratio None"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', and only 'gelu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label does not name the 5 classes"),
        ({"id2label": {"0": 1}}, "id2label does not name the 5 classes"),
        ({"id2label": [1, 2, 3, 4, 5]}, "id2label does not name the 5 classes"),
    ],
)
def test_settings_that_do_not_fit(folder: Path, change: dict[str, Any], words: str) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({**settings, **change}))
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


TINY = ModelConfig(arch="vit_femto", depth=1, img_size=32, num_frames=4, positions="rope-tiled", predictor_depth=1)


@pytest.mark.parametrize(
    ("config", "probe", "words"),
    [
        (replace(TINY, positions="sincos"), None, "pretrain with --positions rope-tiled"),
        (replace(TINY, positions="rope"), None, "a V-JEPA 2.1 model"),
        (replace(TINY, mlp="swiglu"), None, "SwiGLU"),
        (replace(TINY, img_size=(32, 64)), None, "square clips"),
        (replace(TINY, num_frames=1), None, "an image model"),
        (replace(TINY, num_mask_tokens=0), None, "no mask tokens"),
        (TINY, LinearClassifier(96, 4), "its probe is not attentive"),
        (TINY, AttentiveClassifier(96, 3, 4, style="nano"), "output projection"),
        (TINY, AttentiveClassifier(96, 3, 4, depth=2), "2 blocks in V-JEPA 1's order"),
        (
            TINY,
            AttentiveClassifier(96, 4, 4, style="v2"),
            "4 attention heads, and transformers gives it the encoder's 3",
        ),
        (TINY, AttentiveClassifier(96, 3, 4, complete_block=False), "bare cross-attention"),
    ],
)
def test_what_transformers_cannot_hold(
    config: ModelConfig, probe: AttentiveClassifier | LinearClassifier | None, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        write_hf(tmp_path / "out", of(config, probe))
    assert "vjepa export --to onnx" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_probe_of_one_block_has_no_order(tmp_path: Path) -> None:
    """The probes that `vjepa probe` trains: V-JEPA 1's, of one block, without its projection are those of V-JEPA 2."""
    torch.manual_seed(0)
    probe = AttentiveClassifier(96, 3, 4, eps=1e-6)
    notes = write_hf(tmp_path, of(TINY, probe))
    assert any("no forward pass of V-JEPA 1 uses" in note for note in notes)
    again = load_model(tmp_path)
    tokens = torch.randn(2, 8, 96)
    assert again.probe is not None
    assert again.labels is None
    torch.testing.assert_close(again.probe(tokens), probe(tokens), rtol=0, atol=0)
