"""What old weights and augmentation bring on few labels: several seeds of each contender, compared in pairs.

    python benchmarks/few_labels.py beginnings --source CIFAR10 --weights WEIGHTS.pth --out runs/beginnings
    python benchmarks/few_labels.py policies --source CIFAR10 --weights WEIGHTS.pth --out runs/policies

`beginnings` trains `jobs/few-labels.yaml` (100 labels a class) from the weights and from scratch, with policy `none`
and `standard`. `policies` trains it from the weights with 400 labels a class and as many steps: pictures as they are,
flip and crop, RandAugment, TrivialAugment, MixUp and CutMix (all four on flip and crop).

Printed are each run's test accuracy, the mean over seeds, and the paired differences: with the same seed all contenders
see the same labelled pictures in the same order. A run that is finished is not run again, so the command can be stopped
and started.
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

SCRATCH = "model.weights=none"
FOUR_HUNDRED = ["data.labels_per_class=400", "train.epochs=19"]  # of 4,000 pictures: 594 steps

CONTENDERS: dict[str, dict[str, list[str]]] = {
    "beginnings": {
        "scratch-none": ["augment.policy=none", SCRATCH],
        "scratch-standard": ["augment.policy=standard", SCRATCH],
        "pretrained-none": ["augment.policy=none"],
        "pretrained-standard": ["augment.policy=standard"],
    },
    "policies": {
        "none": ["augment.policy=none", *FOUR_HUNDRED],
        "standard": ["augment.policy=standard", *FOUR_HUNDRED],
        "randaugment": ["augment.policy=randaugment", *FOUR_HUNDRED],
        "trivialaugment": ["augment.policy=trivialaugment", *FOUR_HUNDRED],
        "mixup": ["augment.policy=standard", "augment.mixup_alpha=0.2", *FOUR_HUNDRED],
        "cutmix": ["augment.policy=standard", "augment.cutmix_alpha=1.0", *FOUR_HUNDRED],
    },
}

PAIRS = {
    "beginnings": [
        ("scratch-standard", "scratch-none"),
        ("pretrained-standard", "pretrained-none"),
        ("pretrained-none", "scratch-none"),
        ("pretrained-standard", "scratch-standard"),
    ],
    "policies": [
        ("standard", "none"),
        *((name, "standard") for name in ("randaugment", "trivialaugment", "mixup", "cutmix")),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(CONTENDERS))
    parser.add_argument("--source", default="cifar10")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/few-labels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    contenders = CONTENDERS[arguments.experiment]
    top1: dict[str, list[float]] = {name: [] for name in contenders}
    with ray_session(None, num_cpus=4):
        for seed, name in product(range(arguments.seeds), contenders):
            overrides = [f"data.source={arguments.source}", f"model.weights={arguments.weights}", f"seed={seed}"]
            job = load_job(JOB, [*overrides, *contenders[name], *arguments.overrides])
            run = train(job, run_dir=f"{arguments.out}/{name}-{seed}", resume=True)
            top1[name].append(run.summary["test_top1"])
    print(f"{'':<22}" + "".join(f"  seed {seed}" for seed in range(arguments.seeds)) + "    mean")
    for name, values in top1.items():
        row = "".join(f"{value:>8.2%}" for value in values)
        print(f"{name:<22}{row}{statistics.mean(values):>8.2%}")
    for better, worse in PAIRS[arguments.experiment]:
        differences = [a - b for a, b in zip(top1[better], top1[worse], strict=True)]
        spread = statistics.stdev(differences) if len(differences) > 1 else float("nan")
        print(
            f"{better} over {worse}: {statistics.mean(differences) * 100:+.2f} points, "
            f"spread over seeds {spread * 100:.2f}"
        )


if __name__ == "__main__":
    main()
