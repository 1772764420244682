"""Files of Meta, of nano-JEPA and of our own; and files that are none."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from openvjepa.config import ModelConfig, ObjectiveConfig, PretrainConfig, to_mapping
from openvjepa.errors import CheckpointError
from openvjepa.grid import TokenGrid
from openvjepa.model.blocks.positions import sincos_3d
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.predictor import Predictor
from openvjepa.train.checkpoint import save_checkpoint
from openvjepa.weights import files
from openvjepa.weights.files import weights_digest
from openvjepa.weights.hub import load_model, save_model
from openvjepa.weights.probes import load_probe

V1 = Path(__file__).parents[1] / "fixtures" / "vjepa" / "v1"
META, NANO = V1 / "checkpoint.pth.tar", V1 / "nano-jepa-latest.pth.tar"
HEADS = {"num_heads": 3}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TINY = ModelConfig(
    arch="vit_femto", img_size=(16, 32), num_frames=4, patch_size=8, depth=1, predictor_embed_dim=12, predictor_depth=1
)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    return load_file(V1 / "io.safetensors")


@pytest.fixture
def container() -> dict[str, Any]:
    return torch.load(META, weights_only=True)


def saved(container: object, path: Path) -> Path:
    torch.save(container, path)
    return path


@pytest.mark.parametrize("file", [META, NANO])
def test_foreign_checkpoints(file: Path, io: dict[str, Tensor]) -> None:
    facts = json.loads((V1 / "config.json").read_text())
    model = load_model(file, arch=HEADS)
    assert model.section == "target_encoder"
    assert model.source == str(file)
    assert (model.config.img_size, model.config.num_frames) == (32, 4)
    for name in ("patch_size", "tubelet_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "uniform_power"):
        assert getattr(model.config, name) == facts["encoder"][name]
    assert (model.config.predictor_embed_dim, model.config.predictor_depth) == (36, 2)
    assert not any(m.training for m in (model.encoder, model.predictor) if m is not None)
    torch.testing.assert_close(model.encoder(io["video"]), io["target_encoder_out"], **CLOSE)
    assert model.predictor is not None
    enc, pred = io["masks_enc_1"].long(), io["masks_pred_1"].long()
    torch.testing.assert_close(model.predictor(io["ctx_out_1"], enc, pred, 1).masked, io["pred_out_1"], **CLOSE)


def test_every_tensor_of_the_file_is_used(container: dict[str, Any]) -> None:
    model = load_model(META, arch=HEADS)
    assert model.predictor is not None
    for section, module in (("target_encoder", model.encoder), ("predictor", model.predictor)):
        state = module.state_dict()
        assert len(state) == len(container[section])
        for name, value in container[section].items():
            assert torch.equal(state[name.removeprefix("module.backbone.")], value)


def test_encoder_is_the_fallback(tmp_path: Path, container: dict[str, Any], io: dict[str, Tensor]) -> None:
    del container["target_encoder"], container["predictor"]
    model = load_model(saved(container, tmp_path / "old.pth.tar"), arch=HEADS)
    assert (model.section, model.predictor) == ("encoder", None)
    torch.testing.assert_close(model.encoder(io["video"]), io["encoder_out"], **CLOSE)


def test_unknown_size_needs_arch() -> None:
    with pytest.raises(CheckpointError, match=r'pass arch=\{"num_heads": \.\.\.\}'):
        load_model(META)


def test_positions_of_another_clip_shape_are_made_anew() -> None:
    model = load_model(META, arch={**HEADS, "img_size": [48, 32], "num_frames": 8})
    assert model.predictor is not None
    grid = TokenGrid(4, 6, 4)
    assert torch.equal(model.encoder.pos_embed[0], sincos_3d(48, grid, uniform_power=True))
    assert torch.equal(model.predictor.predictor_pos_embed[0], sincos_3d(36, grid, uniform_power=True))
    assert model.encoder(torch.zeros(1, 3, 8, 48, 32)).shape == (1, grid.tokens, 48)


def test_half_precision_weights_become_float32(
    tmp_path: Path, container: dict[str, Any], io: dict[str, Tensor]
) -> None:
    container["target_encoder"] = {key: value.bfloat16() for key, value in container["target_encoder"].items()}
    model = load_model(saved(container, tmp_path / "half.pth.tar"), arch=HEADS)
    assert {value.dtype for value in model.encoder.state_dict().values()} == {torch.float32}
    assert (model.config.img_size, model.config.num_frames) == (32, 4)


def test_every_problem_is_listed(tmp_path: Path, container: dict[str, Any]) -> None:
    state = container["target_encoder"]
    del state["module.backbone.norm.bias"], state["module.backbone.blocks.1.attn.proj.weight"]
    state["module.backbone.blocks.0.norm1.weight"] = torch.zeros(7)
    state["module.backbone.cls_token"] = torch.zeros(1, 1, 48)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved(container, tmp_path / "odd.pth.tar"), arch=HEADS)
    message = str(caught.value)
    assert "2 missing: blocks.1.attn.proj.weight, norm.bias" in message
    assert "1 unexpected: cls_token" in message
    assert "blocks.0.norm1.weight is [7], expected [48]" in message
    assert "\n" not in message


def test_wrong_numbers_in_arch_are_reshaped_tensors() -> None:
    with pytest.raises(CheckpointError, match=r"reshaped: .*patch_embed"):
        load_model(META, arch={**HEADS, "embed_dim": 96})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"just some text\nin two lines", id="text"),
        pytest.param(bytes(range(256)) * 40, id="binary"),
        pytest.param(META.read_bytes()[:200_000], id="truncated"),
        pytest.param(META.read_bytes()[:-30], id="end missing"),
        pytest.param(b"PK\x05\x06" + bytes(18), id="empty zip"),
        pytest.param(pickle.dumps([1, 2], protocol=2), id="plain pickle"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pth.tar"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_model(path, arch=HEADS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Payload:
    """Unpickling it would create the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_file_is_never_run(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "evil.pth.tar", tmp_path / "ran"
    torch.save({"encoder": Payload(trace)}, path, _use_new_zipfile_serialization=not legacy)
    for load in (load_model, lambda source: load_probe(source, num_heads=3)):
        with pytest.raises(CheckpointError, match="never run"):
            load(path)
    path.write_bytes(pickle.dumps({"encoder": Payload(trace)}))
    with pytest.raises(CheckpointError, match="never run"):
        load_model(path)
    assert not trace.exists()


def test_files_of_old_torch_versions(tmp_path: Path, container: dict[str, Any]) -> None:
    path = tmp_path / "old.pth.tar"
    torch.save(container, path, _use_new_zipfile_serialization=False)
    assert weights_digest(load_model(path, arch=HEADS).encoder) == weights_digest(load_model(META, arch=HEADS).encoder)


def test_other_things_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_model(tmp_path / "missing.pth.tar")
    with pytest.raises(CheckpointError, match="not a run or model folder"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no target_encoder, ema_encoder or encoder in it, only classifier, opt"):
        load_model(V1 / "probe.pth.tar")
    with pytest.raises(CheckpointError, match="not a checkpoint of V-JEPA"):
        load_model(saved([torch.ones(1)], tmp_path / "list.pt"))
    with pytest.raises(CheckpointError, match="only nothing"):
        load_model(saved({}, tmp_path / "empty.pt"))
    with pytest.raises(CheckpointError, match="not a mapping"):
        load_model(saved({"encoder": torch.ones(1)}, tmp_path / "tensor.pt"))


def test_probes_of_meta_and_nano_jepa(io: dict[str, Tensor]) -> None:
    tokens = io["target_encoder_out"]
    meta, nano = V1 / "probe.pth.tar", V1 / "nano-jepa-probe-latest.pth.tar"
    torch.testing.assert_close(load_probe(meta, num_heads=3)(tokens), io["logits"], **CLOSE)
    projected = load_probe(nano, num_heads=3)
    torch.testing.assert_close(projected(tokens), io["logits_nano_proj_applied"], **CLOSE)


@pytest.mark.parametrize("variant", ["depth3", "incomplete_block"])
def test_probes_of_other_shapes(tmp_path: Path, io: dict[str, Tensor], variant: str) -> None:
    tensors = load_file(V1 / "probe_extra.safetensors")
    state = {key.removeprefix(f"{variant}."): value for key, value in tensors.items() if key.startswith(variant)}
    probe = load_probe(saved({"classifier": state}, tmp_path / "p.pth.tar"), num_heads=3, style="v1")
    torch.testing.assert_close(probe(io["target_encoder_out"]), io[f"logits_{variant}"], **CLOSE)


def test_files_that_are_no_probes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no classifier in it"):
        load_probe(META, num_heads=3)
    with pytest.raises(CheckpointError, match="cannot have 5 heads"):
        load_probe(V1 / "probe.pth.tar", num_heads=5)
    with pytest.raises(CheckpointError, match=r"no linear\.weight"):
        load_probe(saved({"classifier": {"a": torch.ones(1)}}, tmp_path / "p.pt"), num_heads=3)


def make() -> tuple[Encoder, Predictor]:
    torch.manual_seed(0)
    return Encoder(TINY), Predictor(TINY)


def test_own_folder(tmp_path: Path) -> None:
    encoder, predictor = make()
    path = save_model(tmp_path / "made" / "here", encoder, predictor)
    model = load_model(path.parent)
    assert model.config == TINY
    assert model.predictor is not None
    assert weights_digest(model.encoder) == weights_digest(encoder)
    assert weights_digest(model.predictor) == weights_digest(predictor)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert not list(tmp_path.rglob("*.part"))
    save_model(path.parent, encoder)
    assert load_model(path.parent).predictor is None
    assert load_model(path.parent, arch={"img_size": 64}).encoder.config.img_size == 64


@pytest.mark.parametrize("name", ["model.safetensors", "model.yaml"])
@pytest.mark.parametrize("content", [b"", b"text: [", b"\xff\xfe\x00", None])
def test_damaged_folder(tmp_path: Path, name: str, content: bytes | None) -> None:
    save_model(tmp_path, *make())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_with_settings_of_another_model(tmp_path: Path) -> None:
    save_model(tmp_path, *make())
    settings = tmp_path / "model.yaml"
    settings.write_text(settings.read_text().replace("depth: 1", "depth: 2", 1))
    with pytest.raises(CheckpointError, match="depth is 2, but the file has 1 of blocks"):
        load_model(tmp_path)


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, predictor = make()
    save_model(tmp_path, encoder, predictor)
    digest = weights_digest(load_model(tmp_path).encoder)
    before = sorted(tmp_path.iterdir())

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_model(tmp_path, encoder, predictor)
    assert sorted(tmp_path.iterdir()) == before
    assert weights_digest(load_model(tmp_path).encoder) == digest
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(tmp_path / "file" / "folder", encoder, predictor)


def test_unfinished_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PretrainConfig(model=TINY)
    jepa = JEPA(config.model, ObjectiveConfig())
    with torch.no_grad():
        jepa.encoder.norm.bias.add_(1)  # the moving average lags behind
    state = {f"jepa.{name}": value for name, value in jepa.state_dict().items()}
    for step in (5, 10):
        save_checkpoint(
            tmp_path / "checkpoints",
            step,
            {"model": state, "step": step, "config": to_mapping(config), "optimizer": {}, "rng": {}},
            keep_last=2,
        )
    model = load_model(tmp_path)
    assert (model.section, model.config) == ("target_encoder", TINY)
    assert model.source.endswith("step-00000010.pt")
    assert weights_digest(model.encoder) == weights_digest(jepa.target_encoder)
    assert model.predictor is not None
    assert weights_digest(model.predictor) == weights_digest(jepa.predictor)
    save_model(tmp_path, jepa.encoder, jepa.predictor)  # the end of the run
    assert weights_digest(load_model(tmp_path).encoder) == weights_digest(jepa.encoder)
    other = {"model": {"head.weight": torch.ones(1)}, "step": 1, "config": {"model": {}}}
    with pytest.raises(CheckpointError, match="not a checkpoint of a pretraining run"):
        load_model(saved(other, tmp_path / "other.pt"))


def test_digest_tells_models_apart() -> None:
    first, second = make()[0], make()[0]
    assert weights_digest(first) == weights_digest(second)
    with torch.no_grad():
        second.norm.bias[3] += 1e-7
    assert weights_digest(first) != weights_digest(second)
    assert weights_digest(torch.nn.Linear(4, 4).bfloat16()) != weights_digest(torch.nn.Linear(4, 4))
    assert len(weights_digest(torch.nn.BatchNorm1d(2))) == 64  # holds a tensor without dimensions


def test_loaded_weights_do_not_depend_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "copy.pth.tar"
    shutil.copyfile(META, path)
    model = load_model(path, arch=HEADS)
    digest = weights_digest(model.encoder)
    path.write_bytes(b"overwritten")
    assert weights_digest(model.encoder) == digest


def test_probes_of_a_model_of_its_own_size(tmp_path: Path, io: dict[str, Tensor]) -> None:
    """V-JEPA 1 gives a probe the heads of its encoder; where nothing tells them, they can be passed."""
    model = load_model(META, arch=HEADS, probe=V1 / "probe.pth.tar")
    assert model.probe is not None
    torch.testing.assert_close(model.probe(io["target_encoder_out"]), io["logits"], **CLOSE)
    v2 = V1.parent / "v2"
    arch = {**HEADS, "positions": "rope-tiled", "img_size": 32, "num_frames": 8, "predictor_num_heads": 3}
    with pytest.raises(CheckpointError, match="load_model: probe_heads, commands: --probe-heads"):
        load_model(v2 / "checkpoint.pt", arch=arch, probe=v2 / "probe.pt")
    probe = load_model(v2 / "checkpoint.pt", arch=arch, probe=v2 / "probe.pt", probe_heads=3).probe
    tokens = torch.randn(1, 8, 48)
    assert probe is not None
    assert torch.equal(probe(tokens), load_probe(v2 / "probe.pt", num_heads=3)(tokens))


def test_settings_left_by_an_earlier_run_do_not_hide_checkpoints(tmp_path: Path) -> None:
    config = PretrainConfig(model=TINY)
    jepa = JEPA(config.model, ObjectiveConfig())
    state = {f"jepa.{name}": value for name, value in jepa.state_dict().items()}
    held = {"model": state, "step": 5, "config": to_mapping(config), "optimizer": {}, "rng": {}}
    save_checkpoint(tmp_path / "checkpoints", 5, held, keep_last=1)
    save_model(tmp_path, *make())
    (tmp_path / "model.safetensors").unlink()
    assert weights_digest(load_model(tmp_path).encoder) == weights_digest(jepa.target_encoder)


def test_labels_of_a_probe_are_texts(tmp_path: Path) -> None:
    container = torch.load(V1 / "probe.pth.tar", weights_only=True)
    count = len(next(value for name, value in container["classifier"].items() if name.endswith("linear.bias")))
    for labels in (["a"] * (count + 1), [["a"]] * count, "a" * count, {0: "a"}):
        path = saved({**container, "openvjepa": {"labels": labels}}, tmp_path / "p.pth.tar")
        with pytest.raises(CheckpointError, match="its labels do not name its"):
            load_model(META, arch=HEADS, probe=path)
    named = saved({**container, "openvjepa": {"labels": list(map(str, range(count)))}}, tmp_path / "p.pth.tar")
    assert load_model(META, arch=HEADS, probe=named).labels == tuple(map(str, range(count)))
