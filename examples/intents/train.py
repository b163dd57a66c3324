"""Train both experts of this folder on CLINC150: `python train.py data_full.json`.

Writes bag.safetensors, minilm.safetensors, names.txt, rows.txt (to check exports on) and test.csv
(to record).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from intents import HERE, LENGTH, PAD, Bag, MiniLM, package
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from cascade_router.text import Tokeniser

SHARPNESS = 20.0
"""What unit vectors are multiplied by before the head: its weights stay small."""


def main() -> None:
    """Train both and say how good they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data_full.json of clinc/oos-eval")
    parser.add_argument(
        "--per-intent", type=int, default=100, help="texts to train MiniLM's head on"
    )
    parser.add_argument("--epochs", type=int, default=8, help="of the bag")
    options = parser.parse_args()
    data = json.loads(options.data.read_text(encoding="utf-8"))
    names = sorted({intent for _, intent in data["train"]})
    texts, labels = split(data["train"], names)
    tokens = tokenised(texts)
    bag = trained_bag(tokens, labels, options.epochs)
    few = np.concatenate(
        [np.flatnonzero(labels == k)[: options.per_intent] for k in range(len(names))]
    )
    minilm = trained_head(tokens[few], labels[few])
    save_file(bag.state_dict(), HERE / "bag.safetensors")
    head = {k: v for k, v in minilm.state_dict().items() if k.startswith("head.")}
    save_file(head, HERE / "minilm.safetensors")
    (HERE / "names.txt").write_text("\n".join(names) + "\n")
    (HERE / "rows.txt").write_text("\n".join(text for text, _ in data["val"][::50]) + "\n")
    with (HERE / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(data["test"])
    texts, labels = split(data["val"][::5], names)
    for name, expert in {"bag": bag, "minilm": minilm}.items():
        print(f"{name}: {accuracy(expert, tokenised(texts), labels):.3f} of {len(texts)} new texts")


def split(pairs: list[list[str]], names: list[str]) -> tuple[list[str], np.ndarray]:
    """Give texts and the numbers of their intents."""
    number = {name: k for k, name in enumerate(names)}
    return [text for text, _ in pairs], np.array([number[intent] for _, intent in pairs])


def tokenised(texts: list[str]) -> torch.Tensor:
    """Make (n, L) ids as the served cascade does."""
    content = (package() / "tokenizer.json").read_text(encoding="utf-8")
    tokeniser = Tokeniser(content, length=LENGTH, pad=None, truncate=False)
    return torch.from_numpy(np.stack([tokeniser.tokens(text.encode()) for text in texts]))


def batches(tokens: torch.Tensor, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give row numbers and ids of rows of like length, without the padding they all have."""
    lengths = (tokens != PAD).sum(dim=1)
    for rows in torch.argsort(lengths).split(size):
        yield rows, tokens[rows, : int(lengths[rows].max())]


def trained_bag(tokens: torch.Tensor, labels: np.ndarray, epochs: int) -> Bag:
    """Train the small expert by Adam."""
    torch.manual_seed(0)
    bag, truth = Bag(), torch.from_numpy(labels)
    tokens = tokens[:, : int((tokens != PAD).sum(dim=1).max())]
    steps = torch.optim.Adam(bag.parameters(), lr=0.02)
    for _ in range(epochs):
        for rows in torch.randperm(len(tokens)).split(256):
            steps.zero_grad()
            cross_entropy(bag(tokens[rows]), truth[rows]).backward()
            steps.step()
    return bag.eval()


def trained_head(tokens: torch.Tensor, labels: np.ndarray) -> MiniLM:
    """Fit MiniLM's head, a logistic regression on its vectors, by L-BFGS; its body stays."""
    torch.manual_seed(0)
    expert, truth = MiniLM().eval(), torch.from_numpy(labels)
    expert.load_body()
    vectors = torch.empty(len(tokens), expert.head.in_features)
    with torch.inference_mode():
        for rows, part in batches(tokens, 64):
            vectors[rows] = expert.embed(part)
    vectors = SHARPNESS * vectors.clone()
    head = nn.Linear(expert.head.in_features, expert.head.out_features)
    steps = torch.optim.LBFGS(head.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        steps.zero_grad()
        value = cross_entropy(head(vectors), truth) + 1e-4 * (head.weight**2).sum()
        value.backward()
        return value

    steps.step(loss)
    with torch.no_grad():
        expert.head.weight.copy_(SHARPNESS * head.weight)
        expert.head.bias.copy_(head.bias)
    return expert


def accuracy(expert: nn.Module, tokens: torch.Tensor, labels: np.ndarray) -> float:
    """Give the share of rows answered right."""
    right = 0
    with torch.inference_mode():
        for rows, part in batches(tokens, 64):
            right += int((expert(part).argmax(dim=1).numpy() == labels[rows.numpy()]).sum())
    return right / len(labels)


if __name__ == "__main__":
    main()
