"""Files of models that are damaged or made to harm: refused in one line, in bounded time and memory, or loaded equal."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from openvjepa.archives import check_archive
from openvjepa.config import ModelConfig
from openvjepa.errors import CheckpointError
from openvjepa.model.encoder import Encoder
from openvjepa.model.pooler import AttentiveClassifier
from openvjepa.model.predictor import Predictor
from openvjepa.weights.files import read_container, read_tensors, weights_digest, write_tensors
from openvjepa.weights.hub import LoadedModel, load_model, save_model
from openvjepa.weights.probes import load_probe

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vjepa"
META, HF = FIXTURES / "v1" / "checkpoint.pth.tar", FIXTURES / "hf_classifier"
HEADS = {"num_heads": 3}
TINY = ModelConfig(
    arch="vit_femto", img_size=16, num_frames=4, patch_size=8, depth=1, predictor_embed_dim=12, predictor_depth=1
)
SECONDS = 5.0
"""Within which a file must be refused; all of these take a few hundredths."""


def refused(path: Path, **options: Any) -> str:
    """The error for a file, which must be one line and come soon."""
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_model(path, **options)
    assert time.monotonic() - start < SECONDS
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1500
    return message


def digest(model: LoadedModel) -> tuple[str, ...]:
    parts = (model.encoder, model.predictor, model.probe)
    return (*(weights_digest(part) for part in parts if part is not None), str(model.config), str(model.labels))


def loaded_or_refused(path: Path, **options: Any) -> tuple[str, ...] | None:
    """Digest of the model, or None after an error of one line; soon in both cases."""
    start, message = time.monotonic(), ""
    try:
        found = digest(load_model(path, **options))
    except CheckpointError as error:
        found, message = None, str(error)
    assert time.monotonic() - start < SECONDS
    assert "\n" not in message
    assert len(message) < 1500
    return found


def repack(source: Path, path: Path, compression: int) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    assert "is compressed, which torch never does" in refused(
        repack(META, tmp_path / "re.pth.tar", zipfile.ZIP_DEFLATED), arch=HEADS
    )
    stored = repack(META, tmp_path / "stored.pth.tar", zipfile.ZIP_STORED)
    assert digest(load_model(stored, arch=HEADS)) == digest(load_model(META, arch=HEADS))


def test_a_zip_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
        for _ in range(256):
            member.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is compressed" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB; on macOS bytes, where it is laxer


def test_every_flipped_bit_of_a_zip_file_is_seen(tmp_path: Path) -> None:
    content, expected = META.read_bytes(), digest(load_model(META, arch=HEADS))
    draw, path, equal = random.Random(0), tmp_path / "flipped.pth.tar", 0
    for _ in range(40):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        found = loaded_or_refused(path, arch=HEADS)
        assert found in (expected, None)
        equal += found is not None
    assert equal <= 10  # padding and time stamps


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """The directory of a zip file can name the same bytes many times."""
    path = tmp_path / "overlap.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in "abc":
            archive.writestr(name, bytes(10_000))
    content = bytearray(path.read_bytes())
    for place in [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"]:
        content[place + 20 : place + 28] = struct.pack("<II", 30_000, 30_000)  # sizes in the directory
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="larger than the file"):
        check_archive(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/urandom")):
        assert "not a file" in refused(path)
        with pytest.raises(CheckpointError, match="not a file"):
            load_probe(path)
    for source, name in ((own(tmp_path / "own"), "model.yaml"), (own(tmp_path / "two"), "model.safetensors")):
        (source / name).unlink()
        os.mkfifo(source / name)
        assert "not a file" in refused(source)
    for name in ("config.json", "model.safetensors"):
        folder = shutil.copytree(HF, tmp_path / f"hf-{name}")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "not a file" in refused(folder)
    assert "no such file" in refused(Path("x" * 5000))
    assert "no such file" in refused(Path("a\0b"))


def own(folder: Path) -> Path:
    torch.manual_seed(0)
    probe = AttentiveClassifier(96, 3, 4, depth=2, style="v2")
    save_model(folder, Encoder(TINY), Predictor(TINY), probe=probe, labels=list("abcd"))
    return folder


@pytest.mark.parametrize("value", [10**12, 10**40, 0, -1, float("nan"), float("inf"), 1e30, "x", None, [], {}, True])
@pytest.mark.parametrize(
    "name",
    ["depth", "num_mask_tokens", "predictor_depth", "embed_dim", "patch_size", "tubelet_size", "num_frames", "img_size",
     "mlp_ratio", "num_heads", "levels"],
)  # fmt: skip
def test_hostile_numbers_in_model_yaml(tmp_path: Path, name: str, value: object) -> None:
    settings = yaml.safe_load((own(tmp_path) / "model.yaml").read_text())
    if value in (settings["model"][name], []) or (name == "num_mask_tokens" and value == 0):
        value = 10**9
    if (value is None and name in ("mlp_ratio", "num_heads", "embed_dim")) or (value is True and name == "num_heads"):
        value = -(10**9)
    settings["model"][name] = value
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(settings))
    refused(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 10_000, "a: &a [x]\nmodel: *a", "model: 3", "- 1", "!!python/object:os.system x", "\x00"]
)
def test_hostile_model_yaml(tmp_path: Path, text: str) -> None:
    own(tmp_path)
    (tmp_path / "model.yaml").write_text(text)
    refused(tmp_path)
    with (tmp_path / "model.yaml").open("wb") as file:
        file.truncate(17_000_000)
    assert "17 MB is too large" in refused(tmp_path)


@pytest.mark.parametrize(
    "facts",
    [
        {"depth": 10**12}, {"depth": 3}, {"depth": 0}, {"num_heads": 10**12}, {"num_heads": 0}, {"num_heads": 5},
        {"num_heads": "x"}, {"eps": "nan"}, {"eps": -1}, {"style": "v9"}, {"kind": "other"}, {"more": 1}, {"kind": "linear"},
    ],
)  # fmt: skip
def test_hostile_metadata(tmp_path: Path, facts: dict[str, Any]) -> None:
    path = own(tmp_path) / "model.safetensors"
    tensors, metadata = read_tensors(path)
    metadata["classifier"]["probe"] |= facts
    write_tensors(path, tensors, metadata)
    refused(tmp_path)
    state = {key.removeprefix("classifier."): value for key, value in tensors.items() if key.startswith("classifier.")}
    if "depth" in facts:  # of a file of Meta's layout it is counted
        return
    found = {"probe": metadata["classifier"]["probe"]}
    torch.save({"classifiers": [state], "openvjepa": found}, tmp_path / "probe.pt")
    with pytest.raises(CheckpointError):
        load_probe(tmp_path / "probe.pt")


@pytest.mark.parametrize("metadata", [{"classifier": "[" * 10_000}, {"classifier": 3}, {"classifier": {}}, {}])
def test_metadata_of_another_kind(tmp_path: Path, metadata: dict[str, Any]) -> None:
    path = own(tmp_path) / "model.safetensors"
    write_tensors(path, read_tensors(path)[0], metadata)
    assert "its classifier cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("value", [10**12, 10**40, 0, -1, float("nan"), float("inf"), 1e30, "x", None, [], {}, True])
@pytest.mark.parametrize(
    "name",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "pred_hidden_size", "pred_num_hidden_layers",
     "pred_num_mask_tokens", "num_pooler_layers", "crop_size", "frames_per_clip", "patch_size", "tubelet_size"],
)  # fmt: skip
def test_hostile_numbers_in_config_json(tmp_path: Path, name: str, value: object) -> None:
    shutil.copy(HF / "model.safetensors", tmp_path)
    settings = json.loads((HF / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, name: value}))
    refused(tmp_path)


def test_tensors_that_the_file_does_not_hold(tmp_path: Path) -> None:
    """A stride of 0 makes a petabyte of four bytes."""
    path, container = tmp_path / "expanded.pt", torch.load(META, weights_only=True)
    for section in ("target_encoder", "encoder"):
        container[section]["module.backbone.blocks.0.mlp.fc1.weight"] = torch.ones(1, 1).expand(10**6, 10**9)
    torch.save(container, path)
    assert "meta or sparse tensors" in refused(path, arch=HEADS)
    container["target_encoder"] = {"module.backbone.blocks.0.x": torch.ones(2, 2).to_sparse()}
    torch.save(container, path)
    assert "sparse" in refused(path, arch=HEADS)


def test_tensors_that_are_no_weights(tmp_path: Path) -> None:
    path, container = tmp_path / "whole.pt", torch.load(META, weights_only=True)
    name = "module.backbone.blocks.0.norm1.weight"
    container["target_encoder"][name] = container["target_encoder"][name].to(torch.int64)
    torch.save(container, path)
    assert "blocks.0.norm1.weight hold torch.int64" in refused(path, arch=HEADS)
    container["target_encoder"][name] = torch.zeros(0)
    container["target_encoder"]["module.backbone.patch_embed.proj.weight"] = torch.zeros(0, 3, 2, 8, 8)
    torch.save(container, path)
    refused(path, arch=HEADS)


def test_layers_with_huge_numbers(tmp_path: Path) -> None:
    path, container = tmp_path / "far.pt", torch.load(META, weights_only=True)
    for number in (1000, 10**12):
        container["target_encoder"][f"module.backbone.blocks.{number}.norm1.weight"] = torch.ones(48)
        torch.save(container, path)
        refused(path, arch=HEADS)


def test_errors_name_a_few_tensors(tmp_path: Path) -> None:
    path, container = tmp_path / "more.pt", torch.load(META, weights_only=True)
    container["target_encoder"] |= {f"{'x' * 500}{i}": torch.ones(1) for i in range(1000)}
    torch.save(container, path)
    assert "1000 unexpected" in (message := refused(path, arch=HEADS))
    assert "and 996 more" in message
    torch.save({f"{'y' * 500}{i}": 1 for i in range(1000)}, path)
    assert "and 996 more" in refused(path, arch=HEADS)


def test_flipped_bits_of_our_own_files_are_seen(tmp_path: Path) -> None:
    content = (own(tmp_path) / "model.safetensors").read_bytes()
    expected, draw, loaded = digest(load_model(tmp_path)), random.Random(1), 0
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for number in range(60):
        damaged = bytearray(content)
        end = header if number % 2 else len(content)  # half of them in the header
        damaged[draw.randrange(end)] ^= 1 << draw.randrange(8)
        (tmp_path / "model.safetensors").write_bytes(damaged)
        found = loaded_or_refused(tmp_path)
        assert found in (expected, None)
        loaded += found is not None
    assert loaded < 6


def test_files_of_others_have_no_checksum(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors", {"format": "pt"})
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert (tensors["a"].tolist(), metadata) == ([1.0, 1.0, 1.0], {"format": "pt"})
    values = {"a": torch.ones(3).bfloat16(), "b": torch.tensor(2.0), "c": torch.zeros(0, 4)}
    write_tensors(tmp_path / "b.safetensors", values, {"format": "pt"})
    read, metadata = read_tensors(tmp_path / "b.safetensors")
    assert metadata == {"format": "pt"}
    assert all(torch.equal(read[key], value) for key, value in values.items())
    assert load_file(tmp_path / "b.safetensors").keys() == values.keys()


def test_any_mutation_of_a_folder_is_refused_or_harmless(tmp_path: Path) -> None:
    """Bytes changed, cut out, doubled and moved, in every file of a model."""
    own(tmp_path)
    originals = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    expected, draw = digest(load_model(tmp_path)), random.Random(2)
    for number in range(60):
        path = list(originals)[number % len(originals)]
        content = originals[path]
        first, second = sorted(draw.randrange(len(content) + 1) for _ in range(2))
        match draw.randrange(4):
            case 0:
                content = content[:first] + content[second:]
            case 1:
                content = content[:second] + content[first:]
            case 2:
                content = content[:first] + draw.randbytes(8) + content[first + 8 :]
            case _:
                content = content[:first] + b"99999999" + content[first:]
        path.write_bytes(content)
        found = loaded_or_refused(tmp_path)
        assert path.suffix == ".yaml" or found in (expected, None)
        path.write_bytes(originals[path])


def test_reading_keeps_memory_flat(tmp_path: Path) -> None:
    """Checking a file of 100 MB takes no memory of that order."""
    path = tmp_path / "large.pt"
    torch.save({"encoder": {"w": torch.zeros(25_000_000)}}, path)
    code = (
        "import resource, sys; from pathlib import Path; from openvjepa.archives import check_archive\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; check_archive(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 20_000
    assert read_container(path)["encoder"]["w"].shape == (25_000_000,)
