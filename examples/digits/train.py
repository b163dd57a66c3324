"""Train two experts on scikit-learn's handwritten digits and write them as ONNX: `python train.py`.

Writes linear.onnx, convolution.onnx, rows/ (some digits, to check the experts on) and test.npz (to
record). The files could come from anywhere: the cascade knows nothing of this script.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent


def main() -> None:
    """Train, export and say how good they are."""
    torch.set_num_threads(1)  # so small that a second thread would only wait
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) / 16).astype(np.float32)
    seen, new, labels, truth = train_test_split(x, y, train_size=700, random_state=0, stratify=y)
    experts = {"linear": linear(), "convolution": convolution()}
    for name, expert in experts.items():
        train(expert, torch.from_numpy(seen), torch.from_numpy(labels))
        export(expert, HERE / f"{name}.onnx")
        right = (answers(expert, new) == truth).mean()
        print(f"{name}: {right:.3f} of {len(new)} new digits")
    (HERE / "rows").mkdir(exist_ok=True)
    for i, digit in enumerate(seen[:32]):
        np.save(HERE / "rows" / f"{i:02}.npy", digit)
    np.savez(HERE / "test.npz", x=new, y=truth)


def linear() -> nn.Module:
    """Weigh every pixel."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def convolution() -> nn.Module:
    """Look for strokes first."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def train(expert: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 20) -> None:
    """Train by Adam."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.optim.Adam(expert.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(32):
            steps.zero_grad()
            cross_entropy(expert(x[rows]), y[rows]).backward()
            steps.step()
    expert.eval()


def export(expert: nn.Module, path: Path) -> None:
    """Write an expert whose batch size is free."""
    torch.onnx.export(
        expert,
        (torch.zeros(2, 8, 8),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["x"],
        output_names=["scores"],
        external_data=False,
        verbose=False,
    )


def answers(expert: nn.Module, x: np.ndarray) -> np.ndarray:
    """Give (n,) digits for (n, 8, 8) pixels."""
    with torch.inference_mode():
        return expert(torch.from_numpy(x)).argmax(dim=1).numpy()


if __name__ == "__main__":
    main()
