"""What is trained: a GPT like GPT-2 small, on random tokens, with AdamW. The state is what matters here, not what is learnt.

At the default scale the model has 98.4 million parameters in 148 tensors; with the two moments and the step counter of AdamW
that makes 592 tensors of 1.18 GB in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Scale:
    """Sizes of the model and of a batch (`sequences` of `length` tokens)."""

    vocabulary: int = 16384
    context: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    sequences: int = 4
    length: int = 64


SCALES = {
    "gpt2": Scale(),
    "small": Scale(4096, 256, 384, 6, 6, 2, 32),
    "tiny": Scale(256, 64, 64, 2, 2, 2, 16),
}


class Block(nn.Module):
    """One pre-norm transformer block: 12 tensors."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequences, length, width = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(
            sequences, length, 3, self.heads, width // self.heads
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(attended.transpose(1, 2).reshape(sequences, length, width))
        return x + self.narrow(functional.gelu(self.wide(self.before_mlp(x))))


class Gpt(nn.Module):
    """The output layer is the token embedding again, as in GPT-2; it is one tensor, with one name."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.tokens = nn.Embedding(scale.vocabulary, scale.width)
        self.positions = nn.Embedding(scale.context, scale.width)
        self.blocks = nn.ModuleList(Block(scale.width, scale.heads) for _ in range(scale.depth))
        self.last = nn.LayerNorm(scale.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.last(x), self.tokens.weight)


class Training:
    """A model, its optimizer, and one batch that is trained on again and again.

    Args:
        scale: the sizes.
        frozen: the share of the parameters that is not trained, from the bottom of the model up.
    """

    def __init__(self, scale: Scale, frozen: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model = Gpt(scale)
        self._freeze(frozen)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self._tokens = torch.randint(0, scale.vocabulary, (scale.sequences, scale.length + 1))

    def _freeze(self, share: float) -> None:
        parameters = list(self.model.parameters())
        left = share * sum(parameter.numel() for parameter in parameters)
        for parameter in parameters:
            left -= parameter.numel()
            if left >= 0:
                parameter.requires_grad_(False)

    def step(self) -> None:
        """Forward, backward, optimizer step."""
        guesses = self.model(self._tokens[:, :-1])
        functional.cross_entropy(guesses.flatten(0, 1), self._tokens[:, 1:].flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors of the state, by name; those of the optimizer begin with ``optimizer/``."""
        found = dict(self.model.state_dict())
        for number, values in sorted(self.optimizer.state_dict()["state"].items()):
            found |= {f"optimizer/{number}/{name}": values[name] for name in sorted(values)}
        return found

    def nbytes(self) -> int:
        """The bytes of all tensors of the state."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def changed(self) -> int:
        """The bytes of those of them that a step changes."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return sum(
            tensor.nbytes for name, tensor in self.tensors().items() if name in trained or name.startswith("optimizer/")
        )

    def touch(self) -> None:
        """Read something of every page of the state."""
        for tensor in self.tensors().values():
            tensor.detach().flatten()[:: 4096 // tensor.element_size()].sum()

    def fingerprint(self) -> dict[str, float]:
        """Sums over the tensors of the state: equal if (and, for the purpose of a benchmark, only if) the state is."""
        return {name: float(tensor.double().sum()) for name, tensor in self.tensors().items()}
