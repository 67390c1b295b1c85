"""The two makers of pixels against each other: compiled loops on a CPU core, PyTorch on the device.

    python benchmarks/device.py                  # on CUDA where there is one, else on the same core
    python benchmarks/device.py --device cpu

Same pictures, same draws, and both give the same bytes. Pictures lie in memory already, those of the device on it.
Rounds are interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from augft.augment import apply, device
from augft.augment.policy import Policy

POLICIES = ("basic", "standard", "digits", "randaugment", "trivialaugment", "augmix", "gaussian_noise", "jpeg")


def seconds(run: Callable[[], object], where: torch.device) -> float:
    begin = time.perf_counter()
    run()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    where = torch.device(arguments.device)
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'':24}{'compiled':>14}{where!s:>14}  compiled over {where}")
    for size, num in ((32, 512), (224, 16)):
        images = np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)
        tensor = torch.from_numpy(images).to(where)
        for name in POLICIES:
            policy = Policy.from_config(name if name in ("basic", "standard", "digits") or "aug" in name else [name])
            drawn = apply.draw_parameters(policy, seed=0, epoch=0, sample_ids=np.arange(num))
            ways = {
                "compiled": partial(apply.render, images, policy, drawn),
                "device": partial(device.render, tensor, policy, drawn),
            }
            spent: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(arguments.rounds + 1):
                for way, run in ways.items():
                    elapsed_s = seconds(run, where)
                    if turn:  # the first round warms up
                        spent[way].append(elapsed_s)
            compiled, on_device = (num / statistics.median(times) for times in spent.values())
            label = f"{name}, {size} px"
            print(f"{label:24}{compiled:10,.0f}/s  {on_device:10,.0f}/s  {compiled / on_device:10.2f}", flush=True)


if __name__ == "__main__":
    main()
