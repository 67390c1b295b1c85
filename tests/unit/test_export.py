"""`augft export`: what others load says what the model says; and the card's own lines are what loads it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

from augft.cli import app
from augft.data.packed import open_packed
from augft.errors import ConfigError, RunDirectoryError, RunError, StorageError, WeightsError
from augft.export import write
from augft.export.formats import MOST_DIFFERENCE, SUFFIXES, check, exported
from augft.export.network import PictureNetwork
from augft.export.write import export
from augft.model import build_model, load_saved
from augft.saved import SavedModel, read_saved
from augft.storage import Storage
from tests.exported_run import CALLS, CLASSES, MEAN, assert_agree, card_call, card_lines, expected, make_model_run
from tests.report_data import make_run

Images = npt.NDArray[np.uint8]

MODELS = {"resnet20": "cifar", "resnet18": "cifar", "shufflenet_v2_x0_5": "imagenet"}
"""The stem of each."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    return make_model_run(tmp_path_factory.mktemp("runs") / "small", digits, "resnet20", stem="cifar")


@pytest.fixture(scope="module")
def images(digits: Path) -> Images:
    """uint8 (1000, 8, 8, 3)."""
    gathered, _ = open_packed(digits).split("train").gather(np.arange(1000))
    return gathered


# ---- what comes out --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, run: Path) -> dict[str, Path]:
    pytest.importorskip("onnxscript", reason="pip install 'augft[onnx]'")
    folder = tmp_path_factory.mktemp("exported") / "new"
    for format, suffix in SUFFIXES.items():
        export(str(run), format, folder / f"digits{suffix}")
    assert {path.name for path in folder.iterdir()} == {
        *(f"digits{suffix}" for suffix in (*SUFFIXES.values(), ".json")), "MODEL.md",
    }  # fmt: skip
    return {format: folder / f"digits{suffix}" for format, suffix in SUFFIXES.items()}


@pytest.mark.parametrize("format", CALLS)
def test_a_program_agrees_with_the_model(files: dict[str, Path], run: Path, images: Images, format: str) -> None:
    call, right = CALLS[format](files[format]), expected(run, images)
    assert_agree(call(images), right)
    for num in (1, 2, 7, 64):
        assert_agree(call(images[:num]), [part[:num] for part in right]) if num > 1 else None
        assert call(images[:num])[1].shape == (num, 10)
    np.testing.assert_allclose(call(images[:5])[1].sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("format", CALLS)
@pytest.mark.parametrize("shape", [(24, 24), (61, 33), (1, 200)])
def test_a_program_resizes_inside(files: dict[str, Path], run: Path, format: str, shape: tuple[int, int]) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, *shape, 3), np.uint8)
    pictures[0] //= 8
    assert_agree(CALLS[format](files[format])(pictures), expected(run, pictures))


def test_an_onnx_model_says_what_it_is(files: dict[str, Path], run: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'augft[onnx]'")
    model = onnx.load(files["onnx"])
    onnx.checker.check_model(model)
    [taken] = model.graph.input
    dims = [dim.dim_param or dim.dim_value for dim in taken.type.tensor_type.shape.dim]
    assert (taken.name, dims) == ("images", ["batch", "height", "width", 3])
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == list(CLASSES)
    assert said["data_digest"] == json.loads((run / "environment.json").read_text())["data"]["digest"]
    extra = {"model.json": ""}
    torch.export.load(files["torch"], extra_files=extra)
    text = extra["model.json"]
    assert json.loads(text)["mean"] == list(MEAN)


@pytest.mark.parametrize("architecture", MODELS)
def test_the_lines_of_the_card_load_the_weights(
    tmp_path: Path, digits: Path, images: Images, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Plain torchvision where it has the network; with what a stem for small pictures takes."""
    run = make_model_run(tmp_path / "run", digits, architecture, stem=MODELS[architecture], input_size=32)
    export(str(run), "safetensors", tmp_path / "out" / "weights.safetensors")
    monkeypatch.chdir(tmp_path / "out")
    card = Path("MODEL.md").read_text(encoding="utf-8")
    assert ("augft" in card_lines(card, "load_file")) == (architecture == "resnet20")
    images = images if architecture == "resnet20" else images[:40]
    assert_agree(card_call(card, "load_file")(images), expected(run, images))


def test_three_lines_load_the_weights_of_a_torchvision_model(tmp_path: Path, digits: Path) -> None:
    import torchvision
    from safetensors.torch import load_file

    run = make_model_run(tmp_path / "run", digits, "shufflenet_v2_x0_5")
    path, about, _ = export(str(run), "safetensors", tmp_path / "weights.safetensors")

    meta = json.loads(about.read_text())
    model = torchvision.models.get_model(meta["architecture"], num_classes=meta["num_classes"])
    model.load_state_dict(load_file(path))

    ours = load_saved(run).module.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


def test_augft_begins_from_exported_weights(tmp_path: Path, run: Path) -> None:
    path, *_ = export(str(run), "safetensors", tmp_path / "model.safetensors")
    built = build_model("resnet20", num_classes=10, classes=CLASSES, weights=str(path))
    assert not built.load_report.replaced
    assert load_saved(tmp_path).meta == load_saved(run).meta


@pytest.mark.parametrize("format", CALLS)
def test_the_lines_of_the_card_run_the_programs(
    files: dict[str, Path], run: Path, images: Images, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.chdir(files[format].parent)
    call = card_call(Path("MODEL.md").read_text(encoding="utf-8"), f"digits{SUFFIXES[format]}")
    assert_agree(call(images[:50]), expected(run, images[:50]))


def test_the_card_says_what_was_recorded_and_how_sure_it_is(files: dict[str, Path], run: Path) -> None:
    card = (files["onnx"].parent / "MODEL.md").read_text(encoding="utf-8")
    environment = json.loads((run / "environment.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    for word in (environment["data"]["digest"], summary["stream_digest"], "rotate(p=1, degrees=12)", "8x8", "24x24"):
        assert word in card
    [row] = re.findall(r"^\| test \| (.*?) % \| (.*?) to (.*?) % \| 359 \|", card, re.MULTILINE)
    top1, low, high = map(float, row)
    assert low < top1 < high
    assert top1 == pytest.approx(100 * summary["test_top1"], abs=0.05)
    assert r"a\|b \`c\` \<d\>" in card, "a class's name is text, not Markdown"
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {3, 5, 6}


def test_the_card_says_what_was_examined_since(run: Path, tmp_path: Path) -> None:
    """Of these weights, and of the probabilities that the model gives."""
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    weights = hashlib.sha256((copied / "model.safetensors").read_bytes()).hexdigest()
    found = {
        "data": {"source": "my_photos/", "split": "test"},
        "model": {"weights": weights},
        "num_samples": 1200,
        "top1": 0.75,
        "calibration": {"plain": {"ece": 0.0321}, "scaled": {"ece": 0.0123, "temperature": 1.5}},
        "corruptions": {"mean_error": 0.456},
    }
    (copied / "evaluation").mkdir()

    def row(name: str, temperature: float | None = None, **changes: Any) -> list[str]:
        meta = json.loads((copied / "model.json").read_text())
        (copied / "model.json").write_text(json.dumps({**meta, "temperature": temperature}))
        (copied / "evaluation" / "photos-test.json").write_text(json.dumps({**found, **changes}))
        export(str(copied), "safetensors", tmp_path / name / "m.safetensors")
        card = (tmp_path / name / "MODEL.md").read_text(encoding="utf-8")
        said = "the calibration errors above say" in card
        assert said == ("3.2 %" in card) if temperature is None else "fitted so that 90 %" in card
        return re.findall(r"^\| my.*photos.*", card, re.MULTILINE)

    assert row("plain") == [r"| my\_photos/, test | 1,200 | 75.0 % | 3.2 % | 45.6 % |"]
    assert row("other", model={"weights": "0" * 64}) == []
    assert row("damaged", calibration=None, corruptions={"mean_error": 0.4})[0].endswith("| – | 40.0 % |")
    assert row("scaled", 1.5)[0].endswith("| 1.2 % | 45.6 % |")
    assert row("scaled-otherwise", 1.6)[0].endswith("| – | 45.6 % |")


# ---- what is refused -------------------------------------------------------------------------------------


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path, run: Path, digits: Path) -> None:
    path = tmp_path / "weights.safetensors"
    export(str(run), "safetensors", path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="--force"):
        export(str(run), "safetensors", path)
    other = make_model_run(tmp_path.parent / f"{tmp_path.name}-other", digits, "shufflenet_v2_x0_5")
    with pytest.raises(ConfigError, match=r"MODEL\.md: is there already, of another model"):
        export(str(other), "safetensors", tmp_path / "second.safetensors")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    export(str(other), "safetensors", path, force=True)
    assert json.loads((tmp_path / "weights.json").read_text())["architecture"] == "shufflenet_v2_x0_5"
    assert path.read_bytes() != before[path]


class Rough(PictureNetwork):
    """Rounds by 2e-3 in float32."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, probabilities = super().forward(images)
        return logits * (1.002 if self.mean.dtype == torch.float32 else 1.0), probabilities


def test_a_program_may_round_as_its_model_does(run: Path) -> None:
    saved = read_saved(str(run))
    network = Rough(saved.module(), saved.mean, saved.std, saved.input_size, saved.temperature)

    def times(factor: float) -> Any:
        def call(images: Images) -> Any:
            logits, probabilities = PictureNetwork.forward(network, torch.from_numpy(images))
            return logits.numpy() * np.float32(factor), probabilities.numpy()

        return call

    with torch.inference_mode():
        check(times(0.998), network, saved, "onnx")
        with pytest.raises(RunError, match="logits differ by"):
            check(times(1.1), network, saved, "onnx")


def test_a_program_that_says_otherwise_is_refused(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = read_saved(str(run))
    network = PictureNetwork(saved.module(), saved.mean, saved.std, saved.input_size, saved.temperature)

    def off_by(error: float) -> Any:
        def call(images: Images) -> Any:
            logits, probabilities = (output.numpy() for output in network(torch.from_numpy(images)))
            return logits, probabilities + np.float32(error)

        return call

    with torch.inference_mode():
        check(off_by(MOST_DIFFERENCE / 10), network, saved, "onnx")
        for error in (2 * MOST_DIFFERENCE, float("nan")):
            with pytest.raises(RunError, match="probabilities differ by"):
                check(off_by(error), network, saved, "onnx")

    def refuse(*_: object) -> None:
        raise RunError("they differ")

    monkeypatch.setattr("augft.export.formats.check", refuse)
    with pytest.raises(RunError, match="they differ"):
        export(str(run), "torch", tmp_path / "out" / "digits.pt2")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Storage.write

    def full(self: Storage, name: str, data: bytes) -> None:
        if name.endswith(".safetensors"):
            raise StorageError("no space left")
        real(self, name, data)

    monkeypatch.setattr(Storage, "write", full)
    with pytest.raises(StorageError):
        export(str(run), "safetensors", tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "tflite", "--out", "x.tflite"], "--format tflite: give one of safetensors, onnx, torch"),
        (["--format", "onnx", "--out", "x.pt"], "ends in .onnx, as x.onnx"),
        (["--out", "a-file/x.safetensors"], "is a file"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    result = CliRunner().invoke(app, ["export", str(run), *arguments])
    assert result.exit_code != 0
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_a_run_without_a_model_is_told(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no run there"):
        export(str(tmp_path / "nothing"), "torch", tmp_path / "x.pt2")
    unfinished = make_run(tmp_path / "unfinished", digits)
    for name in ("model.safetensors", "model.json"):
        (unfinished / name).unlink(missing_ok=True)
    with pytest.raises(RunDirectoryError, match="left no model yet"):
        export(str(unfinished), "torch", tmp_path / "x.pt2")
    damaged = make_model_run(tmp_path / "damaged", digits, "resnet20", stem="cifar")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        export(str(damaged), "torch", tmp_path / "x.pt2")
    assert not (tmp_path / "x.pt2").exists()


def test_a_model_too_large_for_onnx_and_a_missing_package_are_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = read_saved(str(run))
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "onnxscript", None)
        with pytest.raises(ConfigError, match=r"augft\[onnx\]"):
            exported(saved, "onnx", {})
    pytest.importorskip("onnxscript", reason="pip install 'augft[onnx]'")
    monkeypatch.setattr("augft.export.formats._MOST_PROTOBUF_BYTES", 1000)
    with pytest.raises(WeightsError, match="less than 2"):
        exported(saved, "onnx", {})


def test_pictures_come_at_the_size_they_were_packed_at(run: Path) -> None:
    saved = read_saved(str(run))
    assert isinstance(saved, SavedModel)
    assert (saved.picture_size, saved.input_size, saved.classes) == (8, 24, CLASSES)
    assert saved.std == (0.2, 1.0, 0.3), "a channel that never varies needs no scaling"
    assert write.CARD == "MODEL.md"
