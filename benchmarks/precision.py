"""Training throughput by number format, memory layout and thread count: what `precision: auto` rests on.

Variants take turns within one process, so that a noisy neighbour or a warm clock touches all alike; each
figure is the median over the rounds of images/s of a whole step (forward, backward, SGD with momentum), with
its ratio to fp32 contiguous.

    python benchmarks/precision.py --model resnet18 --micro-batch-size 128 256 --threads 1 2 --compile
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from augft.model import cifar_resnet


def build(name: str, num_classes: int = 10) -> nn.Module:
    """A fresh model by name, in training mode."""
    if name in cifar_resnet.NAMES:
        return cifar_resnet.CifarResNet(int(name.removeprefix("resnet")), num_classes)
    return torchvision.models.get_model(name, num_classes=num_classes)


def training_step(
    name: str, num_images: int, pixels: int, *, bf16: bool, channels_last: bool, compiled: bool, device: str
) -> Callable[[], None]:
    """A closure that does one step on the same synthetic batch."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build(name).to(device=device, memory_format=layout)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(num_images, 3, pixels, pixels, device=device).to(memory_format=layout)
    targets = torch.randint(0, 10, (num_images,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(forward(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def seconds(step: Callable[[], None], num_steps: int) -> float:
    """Wall time of `num_steps` steps."""
    began = time.perf_counter()
    for _ in range(num_steps):
        step()
    return time.perf_counter() - began


def measure(args: argparse.Namespace, num_threads: int, num_images: int) -> None:
    """Print a line a variant."""
    torch.set_num_threads(num_threads)
    switches = itertools.product((False, True) if args.compile else (False,), (False, True), (False, True))
    steps: dict[str, Callable[[], None]] = {}
    first_s: dict[str, float] = {}
    for compiled, bf16, channels_last in switches:
        label = ("bf16" if bf16 else "fp32") + (" channels_last" if channels_last else " contiguous")
        label += " compiled" if compiled else ""
        steps[label] = training_step(
            args.model, num_images, args.pixels,
            bf16=bf16, channels_last=channels_last, compiled=compiled, device=args.device,
        )  # fmt: skip
        first_s[label] = seconds(steps[label], 1)
    images_per_s: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(args.rounds):
        for label, step in steps.items():
            step()  # the caches belong to this variant again
            images_per_s[label].append(num_images * args.steps / seconds(step, args.steps))
    baseline = statistics.median(images_per_s["fp32 contiguous"])
    print(f"{args.model}, {args.pixels} px, {num_images} images, {num_threads} threads, {args.device}")
    for label, figures in images_per_s.items():
        middle = statistics.median(figures)
        ratio = f"x{middle / baseline:.2f}"
        print(f"  {label:29} {middle:8.0f} images/s  {ratio}  first step {first_s[label]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, nargs="+", default=[128])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    args = parser.parse_args()
    for num_threads, num_images in itertools.product(args.threads, args.micro_batch_size):
        measure(args, num_threads, num_images)


if __name__ == "__main__":
    main()
