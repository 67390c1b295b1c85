"""Do old weights help, and does augmentation? Four combinations on few labels, several seeds each.

    python benchmarks/few_labels.py --source CIFAR10 --weights WEIGHTS.pth --out runs/few-labels

Trains `jobs/few-labels.yaml` from the weights and from scratch, with policy `none` and `standard`, and prints each
run's test accuracy, the mean over seeds, and the paired differences: with the same seed all four see the same labelled
pictures in the same order. A run that is finished is not run again, so the command can be stopped and started.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from pathlib import Path

from augft.config import load_job
from augft.train.launch import train
from augft.train.session import ray_session

JOB = Path(__file__).parent.parent / "jobs" / "few-labels.yaml"
POLICIES = ("none", "standard")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="cifar10")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/few-labels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    beginnings = {"scratch": "none", "pretrained": arguments.weights}
    top1: dict[tuple[str, str], list[float]] = {key: [] for key in product(beginnings, POLICIES)}
    with ray_session(None, num_cpus=4):
        for seed, (beginning, policy) in product(range(arguments.seeds), top1):
            overrides = [
                f"data.source={arguments.source}",
                f"model.weights={beginnings[beginning]}",
                f"augment.policy={policy}",
                f"seed={seed}",
                *arguments.overrides,
            ]
            run = train(load_job(JOB, overrides), run_dir=f"{arguments.out}/{beginning}-{policy}-{seed}", resume=True)
            top1[beginning, policy].append(run.summary["test_top1"])
    print(f"{'':<22}" + "".join(f"  seed {seed}" for seed in range(arguments.seeds)) + "    mean")
    for (beginning, policy), values in top1.items():
        row = "".join(f"{value:>8.2%}" for value in values)
        print(f"{beginning + ', ' + policy:<22}{row}{statistics.mean(values):>8.2%}")
    for name, better, worse in (
        ("standard over none, scratch", ("scratch", "standard"), ("scratch", "none")),
        ("standard over none, pretrained", ("pretrained", "standard"), ("pretrained", "none")),
        ("pretrained over scratch, none", ("pretrained", "none"), ("scratch", "none")),
        ("pretrained over scratch, standard", ("pretrained", "standard"), ("scratch", "standard")),
    ):
        differences = [a - b for a, b in zip(top1[better], top1[worse], strict=True)]
        spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
        print(f"{name:<34} {statistics.mean(differences) * 100:+.2f} points, spread over seeds {spread * 100:.2f}")


if __name__ == "__main__":
    main()
