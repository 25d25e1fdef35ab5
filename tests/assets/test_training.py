"""The loop stops, goes on, follows its average; the optimizer makes matrices orthogonal."""

import torch
from torch import nn

from assets.make.checkpoint import load_checkpoint, read_counters, save_checkpoint
from assets.make.optimizer import MuonAdam, orthogonal
from assets.make.retrieval import hits
from assets.make.training import Plan, advance, copy_state, log_to, rate_at, train


def small_problem(seed: int = 0):
    """A network and a loss that a few steps reduce."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 24, 3), nn.SiLU(), nn.Flatten(), nn.Linear(24 * 4, 20), nn.Linear(20, 1))

    def losses(generator):
        batch = torch.randn(8, 3, 4, 4, generator=generator)
        return {"loss": (module(batch)[:, 0] - batch.mean((1, 2, 3))).square().mean()}

    return module, losses


def test_orthogonal_has_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((20, 80), (80, 20)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_training_learns_and_logs(tmp_path):
    module, losses = small_problem()
    before = losses(torch.Generator().manual_seed(9))["loss"].item()
    average = copy_state(module)
    log = tmp_path / "log.jsonl"
    log_to(log, train(Plan(tmp_path, 0.01, 0.01), module, average, losses), quiet=True)
    module.load_state_dict(average)
    assert losses(torch.Generator().manual_seed(9))["loss"].item() < before
    counters = read_counters(tmp_path / "checkpoint.safetensors")
    assert counters["seconds"] >= 0.6 and counters["step"] >= 1


def test_checkpoint_restores_everything(tmp_path):
    module, losses = small_problem()
    optimizer, average = MuonAdam(module), copy_state(module)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        advance(module, optimizer, 0.01, lambda: losses(generator))
    save_checkpoint(tmp_path, module, average, optimizer, {"step": 3, "seconds": 1.5})

    other, other_losses = small_problem(seed=5)
    other_optimizer, other_average = MuonAdam(other), copy_state(other)
    counters = load_checkpoint(tmp_path, other, other_average, other_optimizer)
    assert counters["step"] == 3 and counters["seconds"] == 1.5
    for model, rule, terms in ((module, optimizer, losses), (other, other_optimizer, other_losses)):
        fresh = torch.Generator().manual_seed(7)
        advance(model, rule, 0.01, lambda terms=terms, fresh=fresh: terms(fresh))
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(average[k], other_average[k]) for k in average)


def test_a_finished_run_does_not_go_on(tmp_path):
    module, losses = small_problem()
    plan = Plan(tmp_path, 0.005, 0.01)
    list(train(plan, module, copy_state(module), losses))
    step = read_counters(tmp_path / "checkpoint.safetensors")["step"]
    list(train(plan, module, copy_state(module), losses))
    assert read_counters(tmp_path / "checkpoint.safetensors")["step"] == step


def test_rate_rises_then_falls_to_zero():
    plan = Plan(None, 1, 1.0)
    assert rate_at(0, plan) < 0.1 and rate_at(0.03, plan) > 0.99 and rate_at(1, plan) < 1e-6


def test_hits_counts_ranks():
    closeness = torch.tensor([[9.0, 1, 0, 0, 0, 0, 0], [1.0, 9, 0, 0, 0, 0, 0], [9.0, 8, 7, 6, 5, 4, 3]])
    found = hits(closeness, torch.tensor([0, 0, 5]))
    assert round(found.first * 3) == 1 and round(found.top * 3) == 2
