"""How often a step waits for the device, and what is on its way there meanwhile.

Without a GPU the calls are counted that would wait for one: code on the CPU is the same code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import augft
from augft.config import Job, load_job_text
from augft.data.packed import open_packed
from augft.data.units import RankBatch
from augft.evaluate import evaluate
from augft.prepare import make_plan
from augft.preprocess import Preprocess
from augft.train.ahead import Ahead
from augft.train.learner import Learner
from augft.train.ranks import Ranks
from augft.train.solo import run_alone
from augft.upload import upload

CPU = torch.device("cpu")
PACKAGE = Path(augft.__file__).parent
JOB = """
seed: 5
data: {source: digits, image_size: 8, labels_per_class: 20}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 1, global_batch_size: 40, optimizer: {lr: 0.01}, precision: fp32}
run: {trackers: []}
"""
NUM_STEPS = 5


def job(*overrides: str) -> Job:
    return load_job_text(JOB, "job.yaml", overrides)


class Waits:
    """Records what would wait for a GPU, a line each, while it is entered: reading from it, and slow copies to it."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._calls, self._kernels = _Calls(self), _Kernels(self)
        self.is_within = False

    def __enter__(self) -> Waits:
        self._kernels.__enter__()
        self._calls.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.__exit__(*error)
        self._kernels.__exit__(*error)


class _Calls(TorchFunctionMode):
    """What Python asks of tensors."""

    READS = (
        "item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "nonzero",
        "equal", "allclose", "masked_select", "unique",
    )  # fmt: skip

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, caller = getattr(func, "__name__", ""), sys._getframe(1)
        here = Path(caller.f_code.co_filename)
        # `upload` writes to page-locked memory of the host.
        reads = name in self.READS and here != PACKAGE / "upload.py"
        makes = name in ("tensor", "as_tensor", "new_tensor") and kwargs.get("device", name == "new_tensor")
        sends = name in ("to", "cuda") and any(isinstance(arg, torch.device | str) for arg in (*args, *kwargs.values()))
        slow = here.is_relative_to(PACKAGE) and (makes or (sends and not kwargs.get("non_blocking")))
        if reads or slow:
            self._waits.found.append(f"{name} in {here.name}:{caller.f_lineno}")
        before, self._waits.is_within = self._waits.is_within, self._waits.is_within or reads
        try:
            return func(*args, **kwargs)
        finally:
            self._waits.is_within = before


class _Kernels(TorchDispatchMode):
    """What operations ask of tensors in turn."""

    READS = (
        "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_consecutive",
    )  # fmt: skip

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if (name in self.READS or by_mask) and not self._waits.is_within:
            self._waits.found.append(f"{name} within an operation")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("read", "num"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x[0]), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: torch.nn.functional.one_hot(x.long(), 3), 2),
        (lambda x: x.cpu(), 1),
        (lambda x: x * 2 + x.sum(), 0),
        (lambda x: upload(np.ones(3), x.device, torch.float32), 0),
    ],
)
def test_waits_are_seen(read: Callable[[torch.Tensor], Any], num: int) -> None:
    with Waits() as waits:
        read(torch.arange(3.0))
    assert len(waits.found) == num, waits.found


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("augment.mixup_alpha=0.5", "augment.cutmix_alpha=1.0", "train.loss=mse", "train.grad_accum_steps=2"),
        ("train.clip_grad_norm=1.0", "train.ema_decay=0.9", "train.channels_last=true", "train.precision=bf16"),
        ("augment.where=device", "augment.policy=augmix", "train.jsd_weight=12"),
        ("augment.where=device", "augment.policy=[{jpeg: {}}, {erasing: {noise: true}}, {cutout: {}}, {elastic: {}}]"),
    ],
)
def test_a_step_waits_for_the_device_once(digits: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    waits, before = Waits(), [0]

    def asked() -> bool:
        """Once a step, right before its synchronisation."""
        before.append(len(waits.found))
        return False

    with waits:
        made = job(f"data.source={digits}", *overrides)
        run_alone(made, str(tmp_path / "run"), stop_is_asked=asked, with_test=False)
    assert len(before) == 1 + NUM_STEPS
    for step in range(NUM_STEPS - 1):  # the last one validates
        found = waits.found[before[1 + step] : before[2 + step]]
        assert len(found) == 1, found
        assert found[0].startswith("tolist in ranks.py")


def test_an_evaluation_waits_at_its_end(digits: Path) -> None:
    split, found = open_packed(digits).split("test"), []
    weight, preprocess = torch.randn(10, 192), Preprocess((0.5,) * 3, (0.25,) * 3, None, CPU)
    for batch_size in (10, 50):
        with Waits() as waits:
            evaluate(
                lambda x: x.flatten(1) @ weight.T, preprocess, split, np.arange(100), num_classes=10,
                batch_size=batch_size, ranks=Ranks(0, 1, CPU),
            )  # fmt: skip
        found.append(waits.found)
    assert len(found[0]) == len(found[1]) == 3  # the sum, and the answers: `cpu`, and `numpy` of what is on the host


# ---- ahead ---------------------------------------------------------------------------------------------------------


def numbers(taken: list[int], error: Exception | None = None) -> Generator[int, None, None]:
    for number in range(5):
        taken.append(number)
        yield number
    if error is not None:
        raise error


@pytest.mark.parametrize("threaded", [False, True])
def test_items_come_in_order_with_what_is_sent(threaded: bool) -> None:
    taken: list[int] = []
    ahead = Ahead(numbers(taken), lambda number: torch.tensor(10 * number), CPU, threaded)
    assert taken == []
    for expected, (number, sent) in enumerate(ahead):
        assert (number, sent.item()) == (expected, 10 * expected)
        assert len(taken) <= expected + 1 + threaded
    assert taken == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


@pytest.mark.parametrize("threaded", [False, True])
def test_an_error_comes_where_its_item_would(threaded: bool) -> None:
    ahead = Ahead(numbers([], OSError("gone")), lambda number: number, CPU, threaded)
    assert [next(ahead)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="gone"):
        next(ahead)


@pytest.mark.parametrize("threaded", [False, True])
def test_closing_ends_the_stream(threaded: bool) -> None:
    ended = []

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            ended.append(True)

    ahead = Ahead(endless(), lambda number: number, CPU, threaded)
    next(ahead)
    assert not ended
    ahead.close()
    assert ended


# ---- to the device -------------------------------------------------------------------------------------------------


def test_upload_copies_whatever_layout() -> None:
    numbers = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    view = numbers[:, ::-1, ::2]
    view.flags.writeable = False
    for dtype in (torch.uint8, torch.int64, torch.float32):
        made = upload(view, CPU, dtype)
        assert made.dtype == dtype
        assert made.tolist() == view.tolist()
    numbers[:] = 0
    assert made.any()


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@gpu
def test_a_gpu_is_not_waited_for(digits: Path) -> None:
    """PyTorch's own watch: an error where something waits."""
    device, dataset, made = torch.device("cuda"), open_packed(digits), job("augment.mixup_alpha=0.5")
    learner = Learner(made, dataset, make_plan(made, 200), Ranks(0, 1, device))
    images, labels = dataset.split("train").gather(np.arange(40))
    ids = np.arange(40)
    batches = (RankBatch(step, images, labels, ids * 0, ids, ids * 0 + 1, 0) for step in range(4))
    ahead = Ahead(batches, learner.send, device)
    for step, (batch, sent) in enumerate(ahead):
        assert torch.equal(sent[0].cpu(), torch.from_numpy(images))
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first compiles and allocates
        learner.backward(batch, sent)
        learner.update(step)
        torch.cuda.set_sync_debug_mode("default")
    ahead.close()


@gpu
def test_upload_is_from_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, empty = [], torch.empty

    def seen(*args: Any, **kwargs: Any) -> torch.Tensor:
        pinned.append(empty(*args, **kwargs))
        return pinned[-1]

    monkeypatch.setattr(torch, "empty", seen)
    made = upload(np.arange(5), torch.device("cuda"), torch.int64)
    assert made.tolist() == [0, 1, 2, 3, 4]
    assert [tensor.is_pinned() for tensor in pinned] == [True]


def test_threaded_is_the_same_run(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threaded in (False, True):
        for module in ("augft.train.loop", "augft.evaluate"):
            monkeypatch.setattr(f"{module}.Ahead", partial(Ahead, threaded=threaded))
        found.append(run_alone(job(f"data.source={digits}"), str(tmp_path / str(threaded))))
    same = ("stream_digest", "test_top1", "val_top1", "best_step", "steps")
    assert [found[0][key] for key in same] == [found[1][key] for key in same]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("False", "True")]
    assert weights[0] == weights[1]
