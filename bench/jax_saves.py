"""What a save costs a JAX job: milepost beside Orbax, asynchronous and not, on the same state.

    python bench/jax_saves.py                              100 million parameters with Adam, 1.2 GB of state
    python bench/jax_saves.py --width 256 --saves 2

The three take turns in one process, so that what else the machine does falls on all of them. Of each save: how long the call
takes, how much longer the steps of training take until the save is durable, beyond those made while nothing is saved, and how
long it takes until it is durable, which for Orbax is when `wait_until_finished` returns. The first save of each is left out: memory
is made ready then. The state is not donated, as in most tutorials; with --donate it is.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Seconds."""

    call: float
    slower: float
    durable: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=816, help="of the square layers (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=150, help="how many (default: %(default)s)")
    parser.add_argument("--saves", type=int, default=5, help="of each that count (default: %(default)s)")
    parser.add_argument("--donate", action="store_true", help="donate the state to each step")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    import jax
    import jax.numpy as jnp
    import optax
    import orbax.checkpoint as ocp

    import milepost

    width = options.width
    params = {f"layer{number}": {"kernel": jnp.full((width, width), 1e-3)} for number in range(options.layers)}
    tx = optax.adam(1e-4)
    state = {"params": params, "opt_state": tx.init(params)}
    x = jnp.ones((4, width))

    def loss_of(params: Any, x: Any) -> Any:
        for layer in params.values():
            x = jnp.tanh(x @ layer["kernel"])
        return (x**2).mean()

    @partial(jax.jit, donate_argnums=0 if options.donate else ())
    def step(state: Any, x: Any) -> Any:
        updates, opt_state = tx.update(jax.grad(loss_of)(state["params"], x), state["opt_state"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}

    home = Path(tempfile.mkdtemp(dir=options.folder))
    run = milepost.Checkpointer(home / "milepost", state=state, keep=milepost.Keep(last=1), progress=False)

    def manager(name: str, *, asynchronous: bool) -> Any:
        chosen = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=asynchronous)
        return ocp.CheckpointManager(home / name, options=chosen)

    peers = {"Orbax": manager("sync", asynchronous=False), "Orbax async": manager("async", asynchronous=True)}

    def orbax(one: Any, number: int, state: Any) -> Callable[[], Any]:
        one.save(number, args=ocp.args.StandardSave(state))
        return lambda: one.wait_until_finished()

    def ours(number: int, state: Any) -> Callable[[], Any]:
        pending = run.save()
        assert pending is not None
        return pending.result

    def trained(state: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        state = jax.block_until_ready(step(state, x))
        run.step(**state)
        return state, time.perf_counter() - began

    def measured(begin: Callable[[int, Any], Callable[[], Any]], number: int, state: Any) -> tuple[Any, Cost]:
        """One save, and training until it is durable."""
        calm = []
        for _ in range(3):
            state, seconds = trained(state)
            calm.append(seconds)
        started = time.perf_counter()
        finish = begin(number, state)
        call = time.perf_counter() - started
        done: list[float] = []

        def wait() -> None:
            finish()
            done.append(time.perf_counter() - started)

        waiter = threading.Thread(target=wait)
        waiter.start()
        beside = []
        while not done:
            state, seconds = trained(state)
            beside.append(seconds)
        waiter.join()
        return state, Cost(call, sum(beside) - len(beside) * median(calm), done[0])

    savers: dict[str, Callable[[int, Any], Callable[[], Any]]] = {
        "milepost": ours,
        **{name: partial(orbax, one) for name, one in peers.items()},
    }
    costs: dict[str, list[Cost]] = {name: [] for name in savers}
    try:
        for number in range(options.saves + 1):
            for name, begin in savers.items():
                state, cost = measured(begin, number, state)
                if number:
                    costs[name].append(cost)
    finally:
        run.close()
        for one in peers.values():
            one.close()
        shutil.rmtree(home)

    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    leaves = len(jax.tree.leaves(state))
    how = "donated" if options.donate else "not donated"
    print(f"JAX {jax.__version__}, Orbax {ocp.__version__}: {size / 1e9:.2f} GB in {leaves} arrays, {how}")
    for name, found in costs.items():
        call, slower, durable = (median(column) for column in zip(*found, strict=True))
        least = min(cost.call for cost in found)
        print(
            f"{name:12} save call {call * 1e3:8.1f} ms (least {least * 1e3:.1f}), steps slower by {slower:6.2f} s in all, "
            f"durable after {durable:6.2f} s"
        )


if __name__ == "__main__":
    main()
