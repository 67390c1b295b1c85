"""The plan of a large set: how long it takes and what memory, at any step of a long run.

    python benchmarks/scale.py
    python benchmarks/scale.py --samples 1_000_000_000 --shard-rows 10_000 --window-shards 2 --lanes 256 --epochs 3 \
        --batch 32768 --ranks 256
    python benchmarks/scale.py --read [PACKED]

The plan of a run is made; then the cursor jumps to steps all over it, as a resume does, and all items of each of these
steps are worked out, rank by rank; the ranks' shares together are compared with the step as a whole, and each step has
to have as many distinct items as the plan says. One epoch is then walked through in order, as far as `--walk` steps.
"""

from __future__ import annotations

import argparse
import math
import pickle
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from augft.data.pack import pack
from augft.data.packed import _decode_shard, open_packed
from augft.data.plan import Plan
from augft.data.windows import Windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--shard-rows", type=int, default=445, help="64 MiB of 224 px")
    parser.add_argument("--window-shards", type=int, default=16)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--jumps", type=int, default=30)
    parser.add_argument("--walk", type=int, default=1000)
    parser.add_argument("--full", action="store_true", help="a shuffle of everything instead of windows")
    parser.add_argument(
        "--read", metavar="PACKED", nargs="?", const="", help="read shards of it, or of some made-up pictures, instead"
    )
    arguments = parser.parse_args()
    if arguments.read is not None:
        with tempfile.TemporaryDirectory() as folder:
            _read(arguments.read or _made_up(Path(folder)))
        return
    before_bytes = _peak_bytes()

    begin = time.perf_counter()
    windows = None
    if not arguments.full:
        ends = np.append(np.arange(arguments.shard_rows, arguments.samples, arguments.shard_rows), arguments.samples)
        windows = Windows(ends, arguments.window_shards, arguments.lanes)
    plan = Plan(arguments.samples, seed=0, epochs=arguments.epochs, global_batch_size=arguments.batch, windows=windows)
    made_s = time.perf_counter() - begin
    if windows is not None:
        print(f"{windows.num_shards:,} shards in {windows.num_windows:,} windows, {windows.lanes} lanes")
    print(f"{plan.num_items:,} items in {plan.num_steps:,} steps; pickled {len(pickle.dumps(plan)):,} bytes")
    print(f"planned in {made_s:.3f} s")

    steps = np.random.default_rng(0).integers(0, plan.num_steps, arguments.jumps).tolist()
    took = []
    for step in steps:
        begin = time.perf_counter()
        shares = [np.arange(*plan.share(step, rank, arguments.ranks)) for rank in range(arguments.ranks)]
        parts = [plan.items(share) for share in shares]
        took.append(time.perf_counter() - begin)
        whole = plan.items(np.arange(*plan.share(step, 0, 1)))
        assert np.array_equal(np.concatenate([part.sample for part in parts]), whole.sample)
        assert len(set(zip(whole.epoch, whole.sample, whole.copy, whole.augmented, strict=True))) == plan.step_size(
            step
        )
    print(
        f"resumed at {len(steps)} steps: {sum(took):.2f} s in all, a step {np.median(took) * 1e3:.1f} ms, "
        f"the slowest {max(took) * 1e3:.0f} ms"
    )

    first = steps[0]
    walked = range(first, min(first + arguments.walk, plan.num_steps))
    rank = arguments.ranks // 2
    plan.items(np.arange(*plan.share(first, rank, arguments.ranks)))
    begin = time.perf_counter()
    positions = plan.padded_share(first, len(walked), rank, arguments.ranks).ravel()
    positions = positions[positions >= 0]
    for unit in np.array_split(positions, max(1, len(positions) // 16_000)):
        plan.items(unit)
        plan.shards(unit, later=True)
    walked_s = time.perf_counter() - begin
    print(f"a rank's {len(walked):,} steps in order, by units: {walked_s / len(walked) * 1e6:,.0f} µs a step", end="")
    print(f", {walked_s / len(positions) * 1e9:,.0f} ns a picture")
    print(f"memory: {(_peak_bytes() - before_bytes) / 2**20:,.0f} MiB more than at the start", end="")
    print(f", {_peak_bytes() / 2**20:,.0f} MiB at most")


def _made_up(folder: Path) -> str:
    """900 pictures of 224 px, packed: smooth colours with some grain."""
    rng = np.random.default_rng(0)
    for number in range(900):
        path = folder / "pictures" / "train" / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
        smooth = np.asarray(colours.resize((224, 224), Image.Resampling.BICUBIC))
        grain = smooth + rng.normal(0, 6, smooth.shape)
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return str(pack(str(folder / "pictures"), folder / "packed", image_size=224))


def _read(packed: str) -> None:
    dataset = open_packed(packed)
    shards = dataset.manifest.splits["train"].shards[:8]
    num_rows = sum(shard.num_rows for shard in shards)
    begin = time.process_time()  # of all threads: the machine may be in use
    for shard in shards:
        _decode_shard(dataset, shard)
    rate = num_rows / (time.process_time() - begin)
    row_bytes = math.prod(dataset.manifest.image_shape)
    stored = sum(shard.num_bytes for shard in shards) / num_rows / row_bytes
    print(f"{stored:.2f} bytes stored for each of pixels")
    print(f"{rate:,.0f} pictures of {row_bytes:,} bytes a second of CPU, {rate * row_bytes / 1e6:,.0f} MB/s of pixels")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
