"""How fast others train the shapes of tests/bench/train.py: python train_peers.py litgpt|llama2c 8M|30M [DIR].

Pure bf16 weights and optimizer, each compiled as a whole, memory kept by mallopt: what is fastest for both. The last
number printed is tokens a second. Needs torch and litgpt, or DIR with llama2.c's model.py; nothing of l2, so that it
runs in an environment of its own. tests/bench/train.py starts it by --peer.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as l2 has it

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS, STEPS = 4096, 8
SHAPES = {  # width, layers, heads, key/value heads, feed-forward width, vocabulary, context
    "8M": (256, 8, 8, 4, 768, 4096, 256),
    "30M": (512, 8, 8, 2, 1408, 8192, 512),
}
Loss = Callable[[Tensor, Tensor], Tensor]


def litgpt(shape: str) -> tuple[nn.Module, Loss]:
    """litgpt's GPT as a Llama, and its loss."""
    from litgpt import GPT, Config

    D, L, H, K, ffn, V, T = SHAPES[shape]
    config = Config(
        block_size=T, vocab_size=V, padded_vocab_size=V, n_layer=L, n_head=H, n_query_groups=K, n_embd=D,
        head_size=D // H, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        norm_eps=1e-5, mlp_class_name="LLaMAMLP", intermediate_size=ffn,
    )  # fmt: skip
    model = GPT(config).bfloat16()
    model.cos, model.sin = (table.bfloat16() for table in model.rope_cache())
    call = torch.compile(model)
    return model, lambda x, y: F.cross_entropy(call(x).flatten(0, 1), y.flatten())


def llama2c(shape: str) -> tuple[nn.Module, Loss]:
    """llama2.c's Transformer, which computes its own loss."""
    from model import ModelArgs, Transformer

    D, L, H, K, ffn, V, T = SHAPES[shape]
    sizes = {"dim": D, "n_layers": L, "n_heads": H, "n_kv_heads": K, "hidden_dim": ffn, "vocab_size": V}
    model = Transformer(ModelArgs(**sizes, max_seq_len=T)).bfloat16()
    call = torch.compile(model)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        call(x, y)
        return model.last_loss

    return model, loss


def main() -> None:
    """Memory, and tokens a second."""
    kinds = {"litgpt": litgpt, "llama2c": llama2c}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("dir", nargs="?", default=".", help="where llama2.c's model.py is")
    asked = parser.parse_args()
    sys.path.insert(0, asked.dir)
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0), libc.mallopt(-1, 2**31 - 1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model, loss = kinds[asked.kind](asked.shape)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    *_, V, T = SHAPES[asked.shape]
    x, y = torch.randint(3, V, (2, TOKENS // T, T))
    for step in range(2 + STEPS):
        if step == 2:
            start = time.perf_counter()
        loss(x, y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")
    print(f"{TOKENS * STEPS / seconds:.1f}")


if __name__ == "__main__":
    main()
