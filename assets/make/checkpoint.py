"""Stop and go on: weights, their average, the optimizer and the clock in safetensors and JSON."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    counters: dict[str, float],
) -> None:
    """Write beside, then rename, so that an interrupted save leaves the last good one."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for name, p in module.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    copies = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    text = {"counters": json.dumps({"version": 1, **counters})}
    fresh = folder / "fresh.safetensors"
    save_file(copies, fresh, metadata=text)
    fresh.replace(folder / "checkpoint.safetensors")


def load_checkpoint(
    folder: Path,
    module: nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Put everything back in place; the counters, or none if there is no checkpoint."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return {}
    device = next(module.parameters()).device
    tensors = load_file(path, device=str(device))
    module.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("weight/")})
    for name in average:
        average[name].copy_(tensors[f"average/{name}"])
    params = dict(module.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, slot, name = key.split("/", 2)
            optimizer.state[params[name]][slot] = value
    return read_counters(path)


def read_counters(path: Path) -> dict[str, float]:
    """The numbers saved with a checkpoint."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["counters"])
