"""Bad input: exit code 2, one line that says what, where and what to do, and nothing written. Ray is never started."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from augft.config import load_job_text
from augft.data.pack import pack
from augft.model import build_model

JOB = """
name: small
data: {source: digits, image_size: 8}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 1, global_batch_size: 64}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def fails(augft: Callable, here: Path) -> Callable[..., str]:
    """Runs `augft train job.yaml …`, checks that it fails as bad input does, and gives the message."""

    def failed(*arguments: object, job: str = "job.yaml") -> str:
        before = files(here)
        typed = augft("train", job, *arguments)
        assert typed.code == 2, typed
        assert typed.out == ""
        assert typed.err.startswith("augft: ")
        assert typed.err.endswith("\n")
        assert typed.err.count("\n") == 1, typed.err
        assert files(here) == before
        assert not list((Path(os.environ["AUGFT_CACHE"])).rglob("*packing*"))
        message: str = typed.err
        return message

    return failed


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def picture(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def folders(root: Path, classes: tuple[str, ...] = ("cat", "dog"), num: int = 4) -> Path:
    for label in classes:
        (root / label).mkdir(parents=True)
        for k in range(num):
            (root / label / f"{k}.png").write_bytes(picture(k))
    return root


def source(path: Path) -> tuple[str, str]:
    return "--set", f"data.source={path}"


# ---- the job file and the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "job.yaml: unknown key train.epoch; did you mean train.epochs?"),
        ("train.epochs=0", "job.yaml: train.epochs: input should be greater than 0 (got 0)"),
        ("train.epochs", "--set train.epochs: give it as key=value, for example --set train.epochs=3"),
        ("scale.num_workers=65", "train.global_batch_size 64 is less than 65 = 65 workers x 1 accumulation: raise it"),
        ("augment.policy=digit", "unknown policy 'digit'; did you mean 'digits'?; or give a .json or .yaml file"),
        ("augment.policy=[rotat]", "unknown op 'rotat'; did you mean 'rotate'?"),
        ("augment.policy=[{rotate: {degree: 3}}]", "rotate: unknown parameter 'degree'; did you mean 'degrees'?"),
        ("augment.policy=[{rotate: {degrees: -3}}]", "rotate.degrees"),
        ("augment.policy=missing.yaml", "cannot read the policy file missing.yaml: No such file or directory"),
        ("train.jsd_weight=12", "train.jsd_weight 12 compares mixtures of AugMix: let augment.policy (=digits) end"),
        ("run.baseline=nonesuch", "unknown policy 'nonesuch'"),
        ("data.source=nowhere", "source 'nowhere' does not exist: give digits, cifar10, or the path of"),
        ("data.labels_per_class=500", "fewer than labels_per_class=500: set data.labels_per_class to"),
        ("model.name=resnet19", "model.name: no model 'resnet19', the nearest is 'resnet1"),
        ("model.stem=cifar", None),
        ("model.freeze=layer9", "model.freeze: 'layer9' is no stage that can be frozen; give none, backbone, gradual"),
        ("model.weights=missing.pth", "model.weights: no file or run missing.pth; give imagenet, none, a"),
        ("model.weights=bundled:resnet99", "model.weights: no bundled:resnet99; there is"),
        ("name=../outside", "job.yaml: name: string should match pattern"),
        ("run.storage_path=gopher://x", "give a folder, s3:// or gs://"),
    ],
)
def test_a_value(fails: Callable, augft: Callable, here: Path, override: str, message: str | None) -> None:
    if message is None:  # a CIFAR ResNet takes either stem; another family does not
        assert "is for torchvision's ResNets" in fails("--set", override, "--set", "model.name=vgg11")
    else:
        assert message in fails("--set", override)


def test_a_job_file_that_is_missing_or_broken(fails: Callable, here: Path) -> None:
    assert "missing.yaml: No such file or directory; give the path of a job file" in fails(job="missing.yaml")
    (here / "broken.yaml").write_text("seed: 0\ntrain: {epochs: 3\nname: x\n")
    assert "broken.yaml, line 3: " in fails(job="broken.yaml")
    (here / "list.yaml").write_text("- 1\n")
    assert "list.yaml: holds a list" in fails(job="list.yaml")
    (here / "code.yaml").write_text("x: !!python/object/apply:os.mkdir [ran]\n")
    assert "could not determine a constructor" in fails(job="code.yaml")
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--nonsense"),
        ("trian",),
        ("pack", "only-a-source"),
        ("pack", "a", "b", "--image-size", "big"),
        ("config", "sho"),
    ],
    ids=" ".join,
)
def test_a_command_that_there_is_not(augft: Callable, here: Path, arguments: tuple[str, ...]) -> None:
    typed = augft(*arguments)
    assert typed.code == 2
    assert typed.err.startswith("augft: ")
    assert typed.err.count("\n") == 1
    assert "--help" in typed.err


def test_pack_options(augft: Callable, here: Path) -> None:
    typed = augft("pack", "digits", "out", "--on-bad", "ignore")
    assert (typed.code, typed.err) == (2, "augft: --on-bad ignore: give fail or skip\n")
    assert not (here / "out").exists()


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed(fails: Callable, monkeypatch: pytest.MonkeyPatch, tracker: str) -> None:
    import importlib.util
    import sys

    if importlib.util.find_spec(tracker):
        monkeypatch.setitem(sys.modules, tracker, None)
    message = fails("--set", f"run.trackers=[tensorboard, {tracker}]")
    assert f"run.trackers: {tracker} is not installed; pip install 'augft[{tracker}]'" in message


@pytest.mark.timeout(60)
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nohost.invalid:6379", "127.0.0.1:not-a-port"])
def test_an_address_that_does_not_answer(
    augft: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    typed = augft("train", "job.yaml", "--address", address)
    assert typed.code == 2
    lines = typed.err.splitlines()
    assert lines[0] == f"connecting to Ray at {address}"
    assert lines[1].startswith(f"augft: --address {address}: ")
    assert len(lines) == 2
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--all-ops", "--sample-id", 3), "--all-ops shows every op at its defaults: --sample-id does not go with it"),
        (("--all-ops", "--epoch", 0), "--all-ops shows every op at its defaults: --epoch does not go with it"),
        (("--all-ops", "--copy", 0), "--all-ops shows every op at its defaults: --copy does not go with it"),
        (("--copy", 0), "--copy says which copy of a sample: give --sample-id too"),
        (("--epoch", 1), "epoch 1: the run has epochs 0 to 0 (train.epochs)"),
        (("--epoch", -1), "Invalid value for '--epoch'"),
        (("--sample-id", 1, "--epoch", 1), "epoch 1: the run has epochs 0 to 0 (train.epochs)"),
        (("--sample-id", 1438), "sample id 1438: the split train has the ids 0 to 1437"),
        (("--sample-id", "one"), "Invalid value for '--sample-id'"),
        (
            ("--set", "data.val_fraction=0", "--sample-id", 1, "--copy", 1),
            "copy 1: a selected sample has copies 0 to 0",
        ),
        (("--set", "data.labels_per_class=1", "--sample-id", 0), "sample id 0 of the split train "),
    ],
    ids=str,
)
def test_a_picture_that_there_is_not(augft: Callable, here: Path, words: tuple[object, ...], message: str) -> None:
    typed = augft("preview", "job.yaml", *words, "--out", "one.png")
    assert (typed.code, typed.out) == (2, ""), typed
    assert message in typed.err
    assert typed.err.startswith("augft: ")
    assert typed.err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["job.yaml"]


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_no_pictures_and_one_class(fails: Callable, here: Path) -> None:
    (here / "empty").mkdir()
    assert "empty holds no pictures: expected train/<class>/*.jpg" in fails(*source(here / "empty"))
    folders(here / "one", ("cat",))
    assert "one has one class only, 'cat': a classifier needs two" in fails(*source(here / "one"))


def test_a_corrupt_picture(fails: Callable, augft: Callable, here: Path) -> None:
    root = folders(here / "pictures")
    (root / "cat/bad.png").write_bytes(picture()[:40])
    message = fails(*source(root))
    assert "picture 'cat/bad.png'" in message
    assert "(1 bad of 9): remove it, or use --on-bad skip" in message
    # With skip the others are taken.
    typed = augft("preview", "job.yaml", *source(root), "--set", "data.on_bad=skip", "--out", "p.png")
    assert typed.code == 0


@pytest.mark.parametrize("name", ["../../outside.png", "/outside.png", "cat/../../outside.png"])
def test_an_archive_that_climbs_out(fails: Callable, here: Path, name: str) -> None:
    with tarfile.open(here / "hostile.tar", "w") as tar:
        for member in ("cat/0.png", "dog/0.png", name):
            info = tarfile.TarInfo(member)
            info.size = len(picture())
            tar.addfile(info, io.BytesIO(picture()))
    with zipfile.ZipFile(here / "hostile.zip", "w") as archive:
        for member in ("cat/0.png", "dog/0.png", name):
            archive.writestr(member, picture())
    for archive_name in ("hostile.tar", "hostile.zip"):
        assert archive_name in fails(*source(here / archive_name))
    assert not list(here.parent.glob("outside.png"))


def test_truncated_archives_and_parquet(fails: Callable, here: Path) -> None:
    rows = [{"bytes": picture(k), "path": None} for k in range(6)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1] * 3}), here / "train.parquet")
    whole = (here / "train.parquet").read_bytes()
    (here / "train.parquet").write_bytes(whole[: len(whole) // 2])
    assert "train.parquet" in fails(*source(here / "train.parquet"))
    root = folders(here / "pictures")
    with tarfile.open(here / "whole.tar.gz", "w:gz") as tar:
        tar.add(root, "pictures")
    whole = (here / "whole.tar.gz").read_bytes()
    (here / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.tar.gz" in fails(*source(here / "cut.tar.gz"))


def test_a_packed_set_that_does_not_match_its_manifest(fails: Callable, here: Path) -> None:
    packed = pack(str(folders(here / "pictures")), here / "packed")
    manifest = json.loads((packed / "manifest.json").read_text())
    shard = manifest["splits"]["train"]["shards"][0]
    whole = (packed / shard["file"]).read_bytes()
    (packed / shard["file"]).write_bytes(whole[:-7])
    assert f"shard {shard['file']} has {len(whole) - 7} bytes instead of {len(whole)}" in fails(*source(packed))
    (packed / shard["file"]).unlink()
    assert f"shard {shard['file']} is missing; pack the source again" in fails(*source(packed))
    (packed / shard["file"]).write_bytes(whole)
    manifest["classes"] = ["cat", "wolf"]
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json: digest does not fit classes and shards" in fails(*source(packed))
    (packed / "manifest.json").write_text("{")
    assert "manifest.json is not JSON" in fails(*source(packed))


def test_pickled_cifar(fails: Callable, here: Path) -> None:
    (here / "cifar").mkdir()
    for name in ("data_batch_1", "test_batch"):
        (here / "cifar" / name).write_bytes(pickle.dumps({"data": np.zeros(3)}))
    assert "is CIFAR-10 as Python pickles, which can run any code" in fails(*source(here / "cifar"))


# ---- weights -------------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._folder),)


def weights(path: Path) -> tuple[str, str]:
    return "--set", f"model.weights={path}"


def test_weights_of_another_architecture(fails: Callable, here: Path) -> None:
    other = build_model("resnet32", num_classes=10).module.state_dict()
    torch.save(other, here / "other.pth")
    message = fails(*weights(here / "other.pth"))
    assert "other.pth: not weights of resnet20: " in message
    assert "set model.name and model.stem to what they were trained as" in message
    save_file({key: tensor.contiguous() for key, tensor in other.items()}, here / "other.safetensors")
    assert "other.safetensors: not weights of resnet20" in fails(*weights(here / "other.safetensors"))


def test_weights_cut_short_or_hostile(fails: Callable, here: Path) -> None:
    state = build_model("resnet20", num_classes=10).module.state_dict()
    torch.save(state, here / "cut.pth")
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, here / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        whole = (here / name).read_bytes()
        (here / name).write_bytes(whole[: len(whole) // 2])
        assert f"{name}: cut short" in fails(*weights(here / name))
    (here / "hostile.pth").write_bytes(pickle.dumps({"w": Hostile(here / "ran")}))
    assert "holds more than tensors" in fails(*weights(here / "hostile.pth"))
    torch.save({"w": Hostile(here / "ran")}, here / "hostile.pt")
    assert "holds more than tensors" in fails(*weights(here / "hostile.pt"))
    assert not (here / "ran").exists()
    torch.save([1, 2], here / "list.pth")
    assert "holds no state dict of tensors" in fails(*weights(here / "list.pth"))
    state["fc.bias"][0] = float("nan")
    torch.save(state, here / "nan.pth")
    assert "holds NaN or infinity" in fails(*weights(here / "nan.pth"))
    (here / "run").mkdir()
    assert "no model.safetensors there; give the directory of a finished run" in fails(*weights(here / "run"))


# ---- the run directory ---------------------------------------------------------------------------------------------


def test_a_run_that_is_there(fails: Callable, here: Path) -> None:
    (here / "runs/small").mkdir(parents=True)
    (here / "runs/small/config.yaml").write_text(load_job_text(JOB, "job").to_yaml())
    assert "a run is there already; go on with --resume, or choose another" in fails()
    message = fails("--resume", "--set", "train.optimizer.lr=0.5")
    assert "the run there has another train.optimizer.lr (0.05, not 0.5); resume it with its own config.yaml" in message
    (here / "runs/small/config.yaml").write_text("a: [")
    assert "config.yaml, line 1: " in fails("--resume")


def test_a_baseline_that_is_there(fails: Callable, here: Path) -> None:
    (here / "runs/small-baseline").mkdir(parents=True)
    (here / "runs/small-baseline/config.yaml").write_text(load_job_text(JOB, "job").to_yaml())
    assert "runs/small-baseline: a run is there already" in fails("--set", "run.baseline=none")


def test_a_folder_of_other_things_and_a_file(fails: Callable, here: Path) -> None:
    (here / "thesis").mkdir()
    (here / "thesis/chapter.tex").write_text("")
    assert "thesis: holds files that are no run; give another --run-dir or name" in fails("--run-dir", "thesis")
    assert "chapter.tex: is a file; give a folder" in fails("--run-dir", "thesis/chapter.tex")
