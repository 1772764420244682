"""Next latent, views and SIGReg against numerical integrals, plain loops and one process instead of two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.integrate import quad, trapezoid
from torch import Tensor, nn

from openvjepa.config import ModelConfig, ObjectiveConfig
from openvjepa.errors import ConfigError
from openvjepa.model.encoder import Encoder
from openvjepa.model.jepa import JEPA
from openvjepa.model.objectives.next_latent import LatentPredictor, NextLatent, within_clip
from openvjepa.model.objectives.sigreg import random_directions, sigreg
from openvjepa.model.objectives.statistics import BatchNorm, batch_mean, batch_std
from openvjepa.model.objectives.views import ViewAgreement, disagreement

TINY = ModelConfig(
    img_size=16,
    num_frames=6,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=2,
    predictor_embed_dim=12,
    predictor_depth=1,
    num_mask_tokens=1,
    time_attention="causal",
)
SMALL: dict[str, Any] = {"projector_hidden": 16, "projector_dim": 6, "directions": 5}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(count: int = 4, size: int = 16) -> Tensor:
    return torch.randn(count, 3, 6, size, size, generator=rng(1))


def published_sigreg(x: np.ndarray, directions: np.ndarray) -> float:
    """N times the integral, direction by direction, with complex numbers and scipy's trapezoidal rule."""
    knots = np.linspace(-3, 3, 17)
    found = []
    for direction in directions.T:
        empirical = np.exp(1j * np.outer(knots, x @ direction)).mean(1)
        found.append(trapezoid(np.abs(empirical - np.exp(-(knots**2) / 2)) ** 2 * np.exp(-(knots**2) / 2), knots))
    return len(x) * float(np.mean(found))


def test_sigreg_is_the_published_integral() -> None:
    x, directions = torch.randn(40, 7, generator=rng()) * 1.3 + 0.2, random_directions(7, 11, rng(1))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(11))
    expected = published_sigreg(x.double().numpy(), directions.double().numpy())
    assert sigreg(x, directions).item() == pytest.approx(expected, rel=1e-5)
    sets = torch.stack([x, x * 0.1, x + 1], 1)
    each = [published_sigreg(sets[:, i].double().numpy(), directions.double().numpy()) for i in range(3)]
    assert sigreg(sets, directions).item() == pytest.approx(np.mean(each), rel=1e-5)


def test_sigreg_of_collapsed_vectors_in_closed_form() -> None:
    """All vectors at 0: the characteristic function is 1, and the integral can be solved to any precision."""
    exact = quad(lambda t: (1 - np.exp(-t * t / 2)) ** 2 * np.exp(-t * t / 2), -3, 3)[0]
    found = sigreg(torch.zeros(50, 4), random_directions(4, 8, rng())).item()
    assert found == pytest.approx(50 * exact, rel=0.01)  # seventeen knots
    normal = sigreg(torch.randn(50, 4, generator=rng()), random_directions(4, 256, rng())).item()
    assert normal < 0.2 * found


def test_next_latent_by_plain_loops() -> None:
    objective = ObjectiveConfig(next_coeff=2.0, step_sigreg_coeff=0.3, within_coeff=0.7, **SMALL)
    torch.manual_seed(0)
    part = NextLatent(TINY, objective)
    tokens = torch.randn(5, 3, 4, 24, generator=rng())
    terms = part(tokens, rng(3))
    latents = part.projector(tokens.mean(2).flatten(0, 1)).unflatten(0, (5, 3))
    flat = latents.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(6), atol=1e-5, rtol=0)  # the projector ends in a batch norm
    torch.testing.assert_close(flat.var(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)
    errors = []
    for clip in range(5):
        for step in range(2):  # from the latents up to `step`, alone
            guess = part.predictor(latents[clip : clip + 1, : step + 1])[0, -1]
            errors.append((guess - latents[clip, step + 1]).square().mean().item())
    directions = random_directions(6, 5, rng(3))
    z, axes = latents.detach().double().numpy(), directions.double().numpy()
    spread = np.mean([published_sigreg(z[:, step], axes) for step in range(3)])
    assert terms["loss_next"][1].item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert terms["loss_step_sigreg"][1].item() == pytest.approx(spread, rel=1e-4)
    rest = z - z.mean(1, keepdims=True)
    std = np.sqrt(rest.var(0) + 1e-6)
    scaled = rest / (std.mean() + 1e-3)
    within = (published_sigreg(scaled[:, 0], axes) + published_sigreg(scaled[:, -1], axes)) / 2
    assert terms["loss_within_sigreg"][1].item() == pytest.approx(within, rel=1e-4)
    assert terms["loss_within_std"][1].item() == pytest.approx(np.maximum(0.5 - std, 0).mean(), rel=1e-4)
    assert [terms[name][0] for name in terms] == pytest.approx([2.0, 0.3, 0.21, 0.7])


def test_latents_that_stand_still_are_punished() -> None:
    still = torch.randn(64, 1, 8, generator=rng()).expand(-1, 5, -1)
    moving = torch.randn(64, 5, 8, generator=rng())
    directions = random_directions(8, 64, rng(1))
    assert within_clip(still, directions)[1].item() == pytest.approx(0.5, abs=2e-3)
    assert within_clip(moving, directions)[1].item() < 0.01
    assert within_clip(still, directions)[0] > 10 * within_clip(moving, directions)[0]
    clock = torch.randn(1, 5, 8, generator=rng()).expand(64, -1, -1)  # the same course in every clip: no information
    assert within_clip(clock, directions)[1].item() == pytest.approx(0.5, abs=2e-3)


def test_latent_predictor_sees_no_future() -> None:
    torch.manual_seed(0)
    predictor = LatentPredictor(6, 5)
    latents = torch.randn(2, 5, 6, generator=rng())
    changed = latents.clone()
    changed[:, 3:] += 1
    before, after = predictor(latents), predictor(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_views_by_plain_loops() -> None:
    torch.manual_seed(0)
    part = ViewAgreement(TINY, ObjectiveConfig(views_coeff=3.0, views_sigreg=0.25, **SMALL))
    tokens = [torch.randn(4, count, 24, generator=rng(count)) for count in (12, 12, 3)]
    terms = part(tokens, 2, rng(5))
    z = part.projector(torch.cat([view.mean(1) for view in tokens])).detach().double().numpy().reshape(3, 4, 6)
    distances = [
        ((z[view, clip] - (z[0, clip] + z[1, clip]) / 2) ** 2).mean() for view in range(3) for clip in range(4)
    ]
    axes = random_directions(6, 5, rng(5)).double().numpy()
    assert terms["loss_views"][1].item() == pytest.approx(np.mean(distances), rel=1e-4)
    spread = np.mean([published_sigreg(view, axes) for view in z])
    assert terms["loss_views_sigreg"][1].item() == pytest.approx(spread, rel=1e-4)
    assert (terms["loss_views"][0], terms["loss_views_sigreg"][0]) == (2.25, 0.75)
    assert disagreement(torch.ones(3, 2, 4), 1).item() == 0


@pytest.mark.parametrize("kind", ["causal", "tubelet"])
@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_attention_over_time(kind: Any, positions: Any) -> None:
    """Changing the last tubelet changes no earlier token; with `tubelet` the first changes no later one either."""
    torch.manual_seed(0)
    encoder = Encoder(replace(TINY, time_attention=kind, positions=positions)).eval()
    nn.init.normal_(encoder.patch_embed.proj.weight)
    video = clips()
    tokens = encoder(video).unflatten(1, (3, 4))
    for changed, equal in ((2, [0, 1]), (0, [1, 2] if kind == "tubelet" else [])):
        other = video.clone()
        other[:, :, 2 * changed : 2 * changed + 2] += 1
        found = encoder(other).unflatten(1, (3, 4))
        for step in range(3):
            assert torch.allclose(found[:, step], tokens[:, step], atol=1e-5) == (step in equal)
    ids = torch.arange(12).expand(4, -1)
    torch.testing.assert_close(
        encoder(video, ids), encoder(video), atol=1e-5, rtol=1e-5
    )  # masked, and cut into tubelets
    some = torch.tensor([[0, 3, 5, 8, 9], [1, 2, 4, 5, 11], [0, 1, 4, 5, 8], [0, 4, 6, 8, 10]])
    early = encoder(video, some[:, :2])  # of causal attention, the first tokens do not depend on later ones
    torch.testing.assert_close(encoder(video, some)[1:3, :2], early[1:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["full", "causal", "tubelet"])
def test_output_positions_are_the_codes(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(TINY, time_attention=kind, output_positions=True)).eval()
    ids = torch.tensor([[0, 5, 11]] * 4)
    codes = encoder.positions(clips())
    for kept, shown in ((None, codes.expand(4, -1, -1)), (ids, codes[:, ids[0]].expand(4, -1, -1))):
        added = encoder(clips(), kept) - encoder(clips(), kept, output_positions=False)
        torch.testing.assert_close(added, shown, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="sincos"):
        replace(TINY, positions="rope", output_positions=True)


def test_tubelets_of_their_own_know_no_time() -> None:
    encoder = Encoder(replace(TINY, time_attention="tubelet")).eval()
    still = clips()[:, :, :1].expand(-1, -1, 6, -1, -1)
    tokens = encoder(still).unflatten(1, (3, 4))
    torch.testing.assert_close(tokens[:, 1], tokens[:, 0])
    assert not torch.allclose(tokens[:, 0, 0], tokens[:, 0, 1])


def test_objectives_add_up_and_reach_the_encoder() -> None:
    objective = ObjectiveConfig(
        masked_coeff=0.5, next_coeff=1.0, step_sigreg_coeff=0.1, within_coeff=1.0, views_coeff=2.0, **SMALL
    )
    torch.manual_seed(0)
    jepa = JEPA(TINY, objective)
    masks = [torch.arange(4).expand(4, -1)], [torch.arange(4, 8).expand(4, -1)]
    kept = torch.tensor([0, 3, 4, 6, 9, 11]).expand(4, -1)  # two patches of every tubelet
    views = [(clips(), None), (clips(), None), (clips(size=8), None)]
    out = jepa(clips(), *masks, views=views, global_views=2, generator=rng())
    weights = {"loss_jepa": 0.5, "loss_reg": 0.0, "loss_next": 1.0, "loss_step_sigreg": 0.1, "loss_within_sigreg": 0.1,
               "loss_within_std": 1.0, "loss_views": 1.9, "loss_views_sigreg": 0.1}  # fmt: skip
    assert out.keys() == {"loss", *weights}
    torch.testing.assert_close(out["loss"].detach(), sum(weights[name] * out[name] for name in weights))
    out["loss"].backward()
    trained = [p for group in jepa.param_groups() for p in group["params"]]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    wanted = {id(p) for p in jepa.parameters() if p.requires_grad}
    assert {id(p) for p in trained} == wanted
    assert len(trained) == len(wanted)
    dropped = jepa(clips(), *masks, views=[(clips(), kept), *views[1:2]][:1] * 2, global_views=2, generator=rng())
    assert dropped["loss_views"].item() == pytest.approx(0, abs=1e-9)  # the same view twice
    with pytest.raises(ConfigError, match="generator"):
        jepa(clips(), *masks, views=views, global_views=2)
    with pytest.raises(ConfigError, match="two views"):
        jepa(clips(), *masks, generator=rng())


def test_without_masked_prediction_there_is_no_predictor() -> None:
    jepa = JEPA(TINY, ObjectiveConfig(masked_coeff=0.0, next_coeff=1.0, step_sigreg_coeff=0.1, **SMALL))
    assert jepa.predictor is None
    assert {g["module"] for g in jepa.param_groups()} == {"encoder", "next_latent"}
    out = jepa(clips(), [], [], generator=rng())
    assert out.keys() == {"loss", "loss_next", "loss_step_sigreg"}
    assert {name.split(".")[0] for name in jepa.state_dict()} == {"encoder", "target_encoder", "next_latent"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masked_coeff": 0.0}, "all objectives"),
        ({"next_coeff": -1.0}, "next_coeff"),
        ({"views_sigreg": 1.5}, "views_sigreg"),
        ({"projector_dim": 0}, "projector_dim"),
        ({"within_coeff": float("nan")}, "within_coeff"),
    ],
)
def test_impossible_objectives(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectiveConfig(**values)  # pyright: ignore[reportArgumentType]


def test_a_clip_of_one_step_has_no_next_latent() -> None:
    with pytest.raises(ConfigError, match="two tubelets"):
        NextLatent(replace(TINY, num_frames=2), ObjectiveConfig(next_coeff=1.0))


def test_batch_norm_is_torch_s() -> None:
    x, ours, theirs = torch.randn(9, 5, generator=rng()) * 3 + 1, BatchNorm(5), nn.BatchNorm1d(5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(batch_std(x).square() - 1e-6, x.var(0, correction=0))


def gradients(part: NextLatent, views: ViewAgreement, tokens: Tensor) -> list[Tensor]:
    """Gradients of both objectives on some rows of a batch."""
    terms = part(tokens, rng(3)) | views([tokens.flatten(1, 2), tokens[:, :1].flatten(1, 2)], 1, rng(4))
    torch.stack([weight * term for weight, term in terms.values()]).sum().backward()
    return [p.grad for module in (part, views) for p in module.parameters() if p.grad is not None]


def make_parts() -> tuple[NextLatent, ViewAgreement, Tensor]:
    torch.manual_seed(0)
    objective = ObjectiveConfig(next_coeff=1.0, step_sigreg_coeff=0.3, within_coeff=1.0, views_coeff=1.0, **SMALL)
    return NextLatent(TINY, objective), ViewAgreement(TINY, objective), torch.randn(6, 3, 4, 24, generator=rng())


def one_of_two(rank: int, folder: str) -> None:
    """One process: its half of the batch; gradients are averaged as DistributedDataParallel does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    part, views, tokens = make_parts()
    found = gradients(part, views, tokens[3 * rank : 3 * rank + 3])
    for grad in found:
        dist.all_reduce(grad)
        grad /= 2
    if rank == 0:
        torch.save(found, Path(folder) / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    expected, found = gradients(*make_parts()), torch.load(tmp_path / "gradients.pt")
    assert len(expected) == len(found) > 10
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(batch_mean(make_parts()[2]), torch.zeros(()))  # and one process alone needs no group
