"""Schedules against values recorded from Meta's code; the optimizer's groups."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from openvjepa.config import PRESETS, OptimConfig
from openvjepa.train.distributed import Runtime
from openvjepa.train.optim import (
    NotFiniteError,
    Stepper,
    context_coeff,
    ema_momentum,
    learning_rate,
    make_optimizer,
    schedule_steps,
    set_schedules,
    warmup_steps,
    weight_decay,
)

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/vjepa/schedules/v1.json").read_text(encoding="utf-8"))
PAPER = OptimConfig()  # V-JEPA 1 L: 40 of 300 epochs of warm-up, schedules stretched by 1.25
LARGE = 300 * 300  # epochs x iterations per epoch


def test_small_schedule_is_metas() -> None:
    args = RECORDED["v1_cosine_small"]["args"]
    assert (warmup_steps(PAPER, 60), schedule_steps(PAPER, 60)) == (args["warmup_steps"], args["T_max"])
    ours = [learning_rate(step, PAPER, 60) for step in range(1, args["T_max"] + 1)]
    assert ours == pytest.approx(RECORDED["v1_cosine_small"]["lr"], rel=1e-12)
    decay = [weight_decay(step, PAPER, 60) for step in range(1, args["T_max"] + 1)]
    assert decay == pytest.approx(RECORDED["v1_wd_small"]["wd"], rel=1e-12)


@pytest.mark.parametrize(
    ("key", "ours"),
    [("v1_vitl_full_run", learning_rate), ("v1_vitl_full_run_wd", weight_decay), ("v1_vitl_ema", ema_momentum)],
)
def test_full_run_is_metas(key: str, ours) -> None:
    for step, value in RECORDED[key].items():
        assert ours(int(step), PAPER, LARGE) == pytest.approx(value, rel=1e-12), step


def test_warmup_is_not_lost_to_a_rounding_error() -> None:
    assert [warmup_steps(PAPER, steps) for steps in (90000, 60, 7)] == [12000, 8, 0]  # 7 * 40 / 300 = 0.93
    assert schedule_steps(OptimConfig(schedule_scale=1.1), 10) == 11


def test_without_warmup_or_stretch_the_schedule_runs_from_lr_to_final_lr() -> None:
    config = OptimConfig(warmup=0.0, schedule_scale=1.0, lr=1.0, final_lr=0.1, weight_decay=0.5, final_weight_decay=0.2)
    assert learning_rate(0, config, 10) == pytest.approx(1.0)
    assert learning_rate(5, config, 10) == pytest.approx(0.55)
    assert learning_rate(10, config, 10) == pytest.approx(0.1)
    assert weight_decay(10, config, 10) == pytest.approx(0.2)
    assert weight_decay(14, config, 10) >= 0.2


def test_groups_without_decay_stay_at_zero() -> None:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(2))], "decay": decay, "module": module}
        for decay in (True, False)
        for module in ("encoder", "predictor")
    ]
    optimizer = make_optimizer(groups, PAPER)
    for step in (1, 30, 60):
        lr, decay = set_schedules(optimizer, step, PAPER, 60)
        assert [group["lr"] for group in optimizer.param_groups] == [lr] * 4
        assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, decay, 0.0, 0.0]
        assert lr == learning_rate(step, PAPER, 60)


def test_adamw_step_is_the_closed_form() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    config = OptimConfig(lr=0.1, start_lr=0.1, warmup=0.0, weight_decay=0.5, final_weight_decay=0.5)
    optimizer = make_optimizer([{"params": [weight], "decay": True, "module": "encoder"}], config)
    lr, decay = set_schedules(optimizer, 1, config, 100)
    weight.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    optimizer.step()
    # first step: both moments corrected to the gradient itself, so the update is lr * sign(gradient)
    expected = torch.tensor([1.0, -2.0], dtype=torch.float64) * (1 - lr * decay) - lr * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-8)


V2 = json.loads((Path(__file__).parents[1] / "fixtures/vjepa/schedules/v2.json").read_text(encoding="utf-8"))
V21 = json.loads((Path(__file__).parents[1] / "fixtures/vjepa21/scalars.json").read_text(encoding="utf-8"))["schedules"]


@pytest.mark.parametrize(
    ("preset", "recorded", "peak"),
    [
        ("vjepa2-vitl", V2["v2_pretrain_vitl"], 5.25e-4),
        ("vjepa2-cooldown", V2["v2_cooldown_vitl"], 5.25e-4),
        # The preset has the paper's peak, the recorded values are of the configuration in Meta's repository.
        ("vjepa2.1-vit-gigantic", {step: lr for step, (lr, _) in V21["primary_lr_wd_by_step"].items()}, 6e-4),
        ("vjepa2.1-cooldown", V21["cooldown_lr_by_step"], 6e-4),
    ],
)
def test_learning_rates_of_the_later_families_are_metas(preset: str, recorded: dict[str, float], peak: float) -> None:
    config = PRESETS[preset]()
    steps, optim = config.train.steps, replace(config.optim, lr=peak)
    optim = optim if optim.decay == "linear" else replace(optim, final_lr=peak)
    for step, value in recorded.items():
        assert learning_rate(int(step), optim, steps) == pytest.approx(value, rel=1e-12), step
        assert weight_decay(int(step), optim, steps) == pytest.approx(0.04, rel=1e-12)


def test_weight_of_the_visible_tokens_is_metas() -> None:
    config = PRESETS["vjepa2.1-vit-gigantic"]()
    for step, value in V21["lambda_by_iter"].items():
        assert context_coeff(int(step), config.objective, config.train.steps) == pytest.approx(value, abs=1e-12), step
    assert context_coeff(0, PRESETS["vjepa2.1-cooldown"]().objective, 100) == 0.5


def test_fused_optimizer_is_torchs_plain_one() -> None:
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(5), torch.randn(3, 4, 2)]
    ours, plain = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    groups = [
        {"params": ours[:1] + ours[2:], "decay": True, "module": "a"},
        {"params": ours[1:2], "decay": False, "module": "a"},
    ]
    optimizer = make_optimizer(groups, PAPER)
    reference = torch.optim.AdamW(
        [{"params": plain[:1] + plain[2:]}, {"params": plain[1:2]}],
        betas=PAPER.betas,
        eps=PAPER.eps,
        foreach=False,
        fused=False,
    )
    for step in range(1, 20):
        lr, decay = set_schedules(optimizer, step, PAPER, 40)
        for group, its_decay in zip(reference.param_groups, (decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = lr, its_decay
        for mine, theirs in zip(ours, plain, strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


# Steps on a device


class Two(nn.Module):
    """Two modules, with gradients that are set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((2,), 2.0))

    def stepper(self, dtype: torch.dtype = torch.float32, clip: float | None = None) -> Stepper:
        groups = [
            {"params": [self.one], "decay": True, "module": "encoder"},
            {"params": [self.two], "decay": False, "module": "predictor"},
        ]
        config = OptimConfig(clip_grad=clip, warmup=0.0)
        runtime = Runtime(torch.device("cpu"), dtype, "test")
        return Stepper(make_optimizer(groups, config), groups, config, 10, runtime)


@pytest.mark.parametrize("bad_at", [0, 2])
def test_on_a_gpu_a_bad_step_changes_nothing_and_is_told_later(bad_at: int) -> None:
    """The way of a GPU, where the decision is the device's, against a run that leaves the bad step out."""
    ends = []
    for skip in (False, True):
        model = Two()
        stepper = model.stepper(clip=1.0)
        stepper.lazy = True
        for number in range(4):
            if skip and number == bad_at:
                continue
            scale = math.nan if number == bad_at else 1.0 + number
            model.one.grad, model.two.grad = torch.full((3,), scale), torch.full((2,), 0.1)
            stepper.step(number + 1, {"loss": torch.tensor(1.0)}, wait=False)
        ends.append(torch.cat([model.one.detach(), model.two.detach()]))
        if skip:
            stepper.check()
        else:
            with pytest.raises(NotFiniteError, match=f"^grad_norm_encoder is nan at step {bad_at + 1}$"):
                stepper.check()
    assert torch.equal(*ends)


def test_fp16_scales_the_loss_and_leaves_infinite_steps_out() -> None:
    model, plain = Two(), Two()
    stepper, other = model.stepper(torch.float16), plain.stepper()
    assert stepper.scaler is not None
    assert other.scaler is None
    for number, size in enumerate((1.0, 1e35, 0.5), start=1):  # 1e35 times the scale of 65,536 is infinite in float32
        loss = (model.one.sum() + model.two.square().sum()) * size
        stepper.scaler.scale(loss).backward()
        stepper.step(number, {"loss": torch.tensor(1.0)}, wait=True)
        assert ("grad_norm_encoder" in stepper.values()) == (number != 2)
        if number != 2:
            ((plain.one.sum() + plain.two.square().sum()) * size).backward()
            other.step(number, {"loss": torch.tensor(1.0)}, wait=True)
    torch.testing.assert_close(model.one, plain.one, rtol=1e-6, atol=0)
    torch.testing.assert_close(model.two, plain.two, rtol=1e-6, atol=0)
    assert stepper.scaler.get_scale() == 32768.0
    with pytest.raises(NotFiniteError, match="loss is inf at step 4"):
        stepper.step(4, {"loss": torch.tensor(math.inf)}, wait=True)
