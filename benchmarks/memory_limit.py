"""Training from windows of shards in a quarter of the set's memory, which the kernel enforces.

    python benchmarks/memory_limit.py --source cifar10 --image-size 160      Linux, as root

The same run twice, each in a process of its own: without a limit, and in a control group whose memory, pages of files
included, is limited to a share of the set's decoded pixels. Printed are the stream digests, which have to be equal,
training's speed, and what memory each took at most: `own` is what the process cannot give back, `group` all that the
kernel counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from augft.config import load_job_text
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.train.solo import run_alone

JOB = """
data: {{source: "{packed}", val_fraction: 0.0, shuffle: windowed, window_shards: 2}}
augment: {{policy: standard}}
model: {{name: resnet20, weights: none, input_size: 32}}
train: {{epochs: 1, global_batch_size: 64}}
run: {{trackers: []}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="cifar10", help="or a packed set")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--share", type=float, default=0.25, help="of the set's pixels")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        run_alone(load_job_text(JOB.format(packed=arguments.train[0]), "memory_limit.py"), arguments.train[1])
        return
    packed = pack(arguments.source, image_size=arguments.image_size, shuffled=True)
    manifest = open_packed(packed).manifest
    num_rows = sum(split.num_rows for split in manifest.splits.values())
    set_bytes = num_rows * math.prod(manifest.image_shape)
    limit = int(set_bytes * arguments.share)
    print(f"{num_rows:,} pictures, {set_bytes / 2**20:,.0f} MiB as pixels")
    with tempfile.TemporaryDirectory() as folder:
        for name, allowed in (("no limit", None), (f"{limit / 2**20:,.0f} MiB", limit)):
            environment = {**os.environ, "AUGFT_CACHE": f"{folder}/cache-{name}"}
            if allowed is not None:
                environment["AUGFT_CACHE_MAX_BYTES"] = str(allowed // 2)
            with _group(allowed) as group:
                peak = group.run([sys.executable, __file__, "--train", str(packed), f"{folder}/{name}"], environment)
            summary = json.loads(Path(folder, name, "summary.json").read_text())
            own, counted = (f"{size / 2**20:,.0f} MiB" for size in peak)
            print(
                f"{name}: own {own}, group {counted}; {summary['images_per_s']:,.0f} images/s; "
                f"stream digest {summary['stream_digest'][:16]}",
                flush=True,
            )


class _Group:
    """A control group's folder, of either version, and what is read there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        first_version = (folder / "memory.limit_in_bytes").exists()
        self.limit = folder / ("memory.limit_in_bytes" if first_version else "memory.max")
        self._usage = folder / ("memory.usage_in_bytes" if first_version else "memory.current")
        self._own = "total_rss" if first_version else "anon"

    def run(self, command: list[str], environment: dict[str, str]) -> tuple[int, int]:
        """Run a command in the group; the most bytes of its own, and of all that is counted, every tenth second."""
        own, group, done = 0, 0, threading.Event()

        def watch() -> None:
            nonlocal own, group
            while not done.wait(0.1):
                stat = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
                own, group = max(own, int(stat[self._own])), max(group, int(self._usage.read_text()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        enter = f'echo $$ > "{self._folder}/cgroup.procs"; exec "$@"'
        try:
            subprocess.run(["sh", "-c", enter, "sh", *command], env=environment, check=True)
        finally:
            done.set()
            watcher.join()
        return own, group


@contextmanager
def _group(limit: int | None) -> Iterator[_Group]:
    first_version = Path("/sys/fs/cgroup/memory")
    folder = (first_version if first_version.is_dir() else Path("/sys/fs/cgroup")) / f"augft-{os.getpid()}"
    folder.mkdir()
    try:
        group = _Group(folder)
        if limit is not None:
            group.limit.write_text(str(limit))
        yield group
    finally:
        folder.rmdir()


if __name__ == "__main__":
    main()
