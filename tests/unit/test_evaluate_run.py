"""`augft evaluate`: exact counts at any number of workers, other pictures, what is written, what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from augft import cli
from augft.assess import assess as module
from augft.assess import findings, workers
from augft.assess.assess import Wanted, assess
from augft.assess.look import Pictures, Task, counts, loss_units
from augft.assess.subject import Subject, pictures_of
from augft.assess.views import AsTheyAre, Augmented, Corrupted, Moved
from augft.assess.workers import Looker, shares_of
from augft.augment.policy import Policy
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.display import Display
from augft.errors import ConfigError, DataError, InputError, RunDirectoryError, RunError
from augft.evaluate import correct_from_dict, evaluate
from augft.mlflow_model import PictureModel
from augft.model import build_model, load_saved, write_model
from augft.preprocess import Preprocess
from augft.report.assessment import render, tables
from augft.report.page import write_report
from augft.train.progress import LOSS_UNIT, MAX_LOSS
from augft.train.ranks import Ranks
from tests.evaluated_run import make_run

CPU = torch.device("cpu")
ALL = Wanted(tta="digits", tta_copies=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> str:
    return make_run(tmp_path_factory.mktemp("evaluated") / "small", digits)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> str:
    return make_run(tmp_path_factory.mktemp("evaluated") / "other", digits, seed=1, num_fitted=700)


@pytest.fixture
def copied(run: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "small"))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augft.assess.calibrate.interval.__kwdefaults__", {"num_resamples": 20})
    monkeypatch.setattr("augft.assess.calibrate.by_chance.__kwdefaults__", {"num_draws": 20})


def examined(run: object, **options: Any) -> dict[str, Any]:
    found, _ = assess(str(run), display=Display(Console(quiet=True)), **options)
    return found


class Shared:
    """Workers without Ray: each does its share, one after the other, with what travels pickled on its way."""

    def __init__(self, num: int) -> None:
        self.num = num

    def look(self, subject: Subject, pictures: Pictures, tasks: list[Task], done: Any) -> list[Any]:
        import pickle

        parts: dict[tuple[int, int], Any] = {}
        for share in reversed(shares_of(len(tasks), pictures.num_chunks, self.num)):
            sent, shown, wanted = pickle.loads(pickle.dumps((subject, pictures, tasks)))
            model = sent.predictor(CPU)
            parts |= {job: wanted[job[0]](model, shown, job[1]) for job in share}
        from augft.assess.workers import _joined

        return _joined([parts[job] for job in sorted(parts)], tasks, pictures.num_chunks)


def with_workers(monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    @contextmanager
    def shared(*_: object) -> Iterator[Shared]:
        yield Shared(num)

    monkeypatch.setattr(module, "_workers", shared)


# ---- the figures -------------------------------------------------------------------------------------------


def test_metrics_are_those_of_other_code(run: str, digits: Path) -> None:
    found = examined(run)
    dataset = open_packed(digits)
    saved = load_saved(Path(run))
    assert saved.meta.mean is not None
    assert saved.meta.std is not None
    preprocess = Preprocess(saved.meta.mean, saved.meta.std, saved.meta.input_size, CPU)
    model = saved.module.eval()
    expected = evaluate(
        model,
        preprocess,
        dataset.split("test"),
        np.arange(359),
        num_classes=10,
        batch_size=50,
        ranks=Ranks(0, 1, CPU),
    )
    assert found["confusion"] == expected.confusion.tolist()
    assert (found["num_samples"], found["top1"]) == (359, expected.top1)
    assert 0.3 < found["top1"] < 0.99
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert np.array_equal(correct_from_dict(found), expected.correct)

    images, labels = dataset.split("test").gather(np.arange(359))
    with torch.inference_mode():
        logits = model(preprocess(images)).double().numpy()
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(10)))
    assert found["confusion"] == confusion_matrix(labels, logits.argmax(1), labels=range(10)).tolist()
    assert found["num_top5"] / 359 == found["top5"]
    assert found["calibration"]["plain"]["loss"] == pytest.approx(expected.loss, rel=1e-5)


def test_counts_do_not_depend_on_the_number_of_workers(
    run: str, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = {name: findings.CORRUPTIONS[name] for name in ("shot_noise", "motion_blur")}
    monkeypatch.setattr(findings, "CORRUPTIONS", few)
    monkeypatch.setattr(findings, "ANGLES", (-30, 0, 45))
    monkeypatch.setattr(findings, "SHIFTS", (0.0, 12.5))
    monkeypatch.setattr("augft.assess.look.MOST_A_CHUNK", 40)  # nine chunks, the last a short one
    wanted = Wanted(corruptions=True, sweeps=True, tta="digits", tta_copies=2, against=other)

    def once() -> dict[str, Any]:
        found = examined(run, wanted=wanted, out=tmp_path / "found.json")
        del found["wall_s"]
        return found

    threads = once()
    assert threads["corruptions"]["rows"]["motion_blur"]["num_correct"][0] < threads["num_correct"]
    for num in (1, 2, 3):
        with_workers(monkeypatch, num)
        assert once() == threads


def test_every_chunk_has_one_worker() -> None:
    shares = shares_of(2, 7, 3)
    assert shares[1] == [(0, 1), (0, 4), (1, 1), (1, 4)]
    assert sorted(job for share in shares for job in share) == [(task, chunk) for task in (0, 1) for chunk in range(7)]


def test_an_actor_keeps_its_model(monkeypatch: pytest.MonkeyPatch, run: str, digits: Path) -> None:
    import ray

    subject = Subject.of(run)
    _, pictures = pictures_of(subject, open_packed(digits), "test")
    fetched: list[object] = []
    monkeypatch.setattr(ray, "get", lambda ref: fetched.append(ref) or (subject, pictures, [Task((AsTheyAre(),))]))
    threads = torch.get_num_threads()
    looker = Looker()
    found = [looker.look(["first"], 0, chunk) for chunk in range(pictures.num_chunks)]
    looker.look(["second"], 0, 0)
    torch.set_num_threads(threads)
    assert fetched == ["first", "second"]
    assert np.sum(found, axis=0)[0, 0] == 359


def test_an_actor_that_dies_again_and_again_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def dead(reference: object) -> None:
        raise ray.exceptions.ActorUnavailableError("the node is gone\nand more", None)

    monkeypatch.setattr(ray, "get", dead)
    with pytest.raises(RunError, match=r"^a worker died, again and again: [^\n]*; try fewer --workers$"):
        workers._result("reference")


def test_losses_are_counted_in_units() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, -1.0], [float("nan"), 0.0], [2e7, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    units = loss_units(logits, labels)
    assert units[0] * LOSS_UNIT == pytest.approx(np.log(2), abs=LOSS_UNIT)
    assert units[1] * LOSS_UNIT == pytest.approx(4 + np.log1p(np.exp(-4)), abs=1e-6)
    assert units[2:].tolist() == [MAX_LOSS / LOSS_UNIT] * 2
    assert counts(logits[:2], labels[:2]) == (2, 1, int(units[:2].sum()))


def test_tta_is_the_mean_of_probabilities(run: str, digits: Path) -> None:
    found = examined(run, wanted=Wanted(tta="digits", tta_copies=3))["tta"]
    subject = Subject.of(run)
    model = subject.predictor(CPU)
    images, labels = open_packed(digits).split("test").gather(np.arange(359))
    policy = Policy.from_config("digits")
    with torch.inference_mode():
        p = [model.logits(Augmented(policy, c, 0)(images, np.arange(359))).softmax(1).numpy() for c in range(3)]
    assert not np.array_equal(p[0], p[1])
    mean = np.mean(p, axis=0)
    assert found["num_correct"] == (mean.argmax(1) == labels).sum()
    assert found["loss"] == pytest.approx(-np.log(mean[np.arange(359), labels]).mean(), rel=1e-4)


def test_tta_without_a_change_changes_nothing(run: str) -> None:
    found = examined(run, wanted=Wanted(tta="none", tta_copies=1))
    assert found["tta"]["num_correct"] == found["num_correct"]
    assert found["tta"]["loss_units"] == found["loss_units"]
    assert found["tta"]["against_none"]["p_value"] == 1


def test_moved_pictures(digits: Path) -> None:
    images, _ = open_packed(digits).split("test").gather(np.arange(5))
    ids = np.arange(5)
    assert np.array_equal(Moved("rotation", 90)(images, ids), np.rot90(images, axes=(1, 2)))
    right, down = Moved("shift_x", 25)(images, ids), Moved("shift_y", -12.5)(images, ids)
    assert np.array_equal(right[:, :, 2:], images[:, :, :-2])
    assert np.array_equal(right[:, :, 0], images[:, :, 2])  # mirrored
    assert np.array_equal(down[:, :-1], images[:, 1:])
    assert Moved("shift_x", 0)(images, ids) is images
    assert not np.array_equal(Corrupted("fog", 3, 0)(images, ids), images)


def test_a_run_against_itself_and_another(run: str, other: str) -> None:
    itself = examined(run, wanted=Wanted(against=run))["against"]
    assert (itself["only_ours"], itself["only_theirs"], itself["p_value"]) == (0, 0, 1)
    ours, theirs = examined(run), examined(other)
    right, right_too = correct_from_dict(ours), correct_from_dict(theirs)
    found = examined(run, wanted=Wanted(against=other))["against"]
    assert found["only_ours"] == (right & ~right_too).sum() > 0
    assert found["only_theirs"] == (~right & right_too).sum() > 0
    assert found["difference"] == pytest.approx(ours["top1"] - theirs["top1"])
    assert found["num_correct"] == theirs["num_correct"]


# ---- temperature -------------------------------------------------------------------------------------------


def test_the_temperature_is_saved_and_used(copied: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    before = PictureModel(copied, CPU).predict(images)
    plain = examined(copied)
    assert load_saved(copied).meta.temperature is None
    found = examined(copied, wanted=Wanted(temperature=True))
    temperature = load_saved(copied).meta.temperature
    scaled = found["calibration"]["scaled"]
    assert temperature is not None
    assert temperature == scaled["temperature"] == plain["calibration"]["scaled"]["temperature"]
    assert abs(np.log(temperature)) > 0.02
    assert found["calibration"]["fitted_on"] == 143
    after = PictureModel(copied, CPU).predict(images)
    power = before.astype(np.float64) ** (1 / temperature)
    np.testing.assert_allclose(after, power / power.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)
    # Of a single view too.
    tta = examined(copied, wanted=Wanted(tta="none", tta_copies=1))["tta"]
    assert tta["loss"] == pytest.approx(scaled["loss"], rel=1e-5)


def test_training_on_begins_without_the_temperature(copied: Path) -> None:
    examined(copied, wanted=Wanted(temperature=True))
    classes = load_saved(copied).meta.classes
    built = build_model("resnet20", num_classes=10, weights=str(copied), classes=classes)
    assert built.meta.temperature is None


@pytest.mark.parametrize("temperature", [0, -1.0, "warm", float("inf")])
def test_a_temperature_that_is_none(copied: Path, temperature: object) -> None:
    meta = json.loads((copied / "model.json").read_text())
    (copied / "model.json").write_text(json.dumps({**meta, "temperature": temperature}))
    with pytest.raises(InputError, match="temperature do not fit"):
        examined(copied)


def test_no_validation_pictures_to_fit_it_on(tmp_path: Path, digits: Path) -> None:
    run = make_run(tmp_path / "small", digits, val_fraction=0.0)
    before = (tmp_path / "small" / "model.json").read_bytes()
    with pytest.raises(ConfigError, match="--temperature: the run has no validation pictures"):
        examined(run, wanted=Wanted(temperature=True))
    assert (tmp_path / "small" / "model.json").read_bytes() == before
    assert examined(run)["calibration"]["scaled"] is None


# ---- other pictures ----------------------------------------------------------------------------------------


def folders(root: Path, digits: Path, names: dict[int, str], num: int = 6) -> Path:
    """Class folders of the first test pictures of some digits."""
    images, labels = open_packed(digits).split("test").gather(np.arange(359))
    for label, name in names.items():
        (root / name).mkdir(parents=True)
        for i in np.flatnonzero(labels == label)[:num].tolist():
            Image.fromarray(images[i]).save(root / name / f"{i}.png")
    return root


def test_classes_are_matched_by_name(run: str, digits: Path, tmp_path: Path) -> None:
    source = folders(tmp_path / "some.pictures", digits, {7: "7", 3: "3"})
    found = examined(run, source=str(source))
    assert found["data"]["split"] == "train"
    confusion = np.array(found["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.sum(1).tolist() == [0, 0, 0, 6, 0, 0, 0, 6, 0, 0]
    whole = examined(run)
    labels = open_packed(digits).split("test").labels
    right = correct_from_dict(whole)
    expected = [right[np.flatnonzero(labels == label)[:6]].sum() for label in (3, 7)]
    assert [confusion[3, 3], confusion[7, 7]] == expected
    assert (Path(run) / "evaluation" / "some-train.json").exists()
    assert found["calibration"]["fitted_on"] is None


def test_classes_that_do_not_match(run: str, digits: Path, tmp_path: Path) -> None:
    source = folders(tmp_path / "pictures", digits, {7: "7", 3: "three"})
    with pytest.raises(DataError, match="has 1 of 2 classes that the model does not know: 'three'; it knows 0, 1"):
        examined(run, source=str(source))


def test_a_split_by_name(run: str) -> None:
    """Of the run's own pictures what it trained on and what it carved from that, each told as what it is."""
    parts = {split: examined(run, split=split) for split in ("train", "val", "test")}
    assert {split: found["num_samples"] for split, found in parts.items()} == {"train": 1295, "val": 143, "test": 359}
    assert [found["data"]["part"] for found in parts.values()] == ["trained on", "chose the weights", None]
    assert [found["calibration"]["judged_on_the_same"] for found in parts.values()] == [False, True, False]
    assert "trained on these very pictures" in render(parts["train"])
    assert "Here it is judged on the same ones, which flatters it" in render(parts["val"])
    assert "flatters" not in render(parts["test"])
    by_name = examined(run, source="digits", split="val")
    assert by_name["confusion"] == parts["val"]["confusion"], "the run's own pictures, whatever they are called"
    with pytest.raises(DataError, match="no split 'holdout': it has test, train, val"):
        examined(run, split="holdout")


def test_a_run_against_one_that_validated_with_other_pictures(run: str, other: str) -> None:
    """Of another seed: as many of each class, in the same order, and yet others."""
    with pytest.raises(DataError, match="in 'val' that are not the 143 of this run"):
        examined(run, split="val", wanted=Wanted(against=other))


def test_test_pictures_alone(run: str, digits: Path, tmp_path: Path) -> None:
    expected = examined(run, source=str(folders(tmp_path / "flat", digits, {7: "7", 3: "3"})))
    folders(tmp_path / "lone" / "test", digits, {7: "7", 3: "3"})
    found = examined(run, source=str(tmp_path / "lone"))
    assert (found["data"]["split"], found["confusion"]) == ("test", expected["confusion"])
    assert found["loss_units"] == expected["loss_units"]
    folders(tmp_path / "one" / "test", digits, {3: "3"})
    alone = examined(run, source=str(tmp_path / "one"))
    assert alone["num_samples"] == sum(expected["confusion"][3])
    (tmp_path / "flat" / "5").mkdir()
    assert examined(run, source=str(tmp_path / "flat"))["confusion"] == expected["confusion"], "a class may be empty"
    folders(tmp_path / "unknown" / "test", digits, {7: "7", 3: "three"})
    with pytest.raises(DataError, match=r"^[^\n]*/unknown has 1 of 2 classes that the model does not know: 'three'"):
        examined(run, source=str(tmp_path / "unknown"))
    with pytest.raises(DataError, match="test but no train folder"):
        pack(str(tmp_path / "lone"), image_size=8)


def test_classes_in_another_order(run: str, digits: Path, tmp_path: Path) -> None:
    """A Parquet file of test pictures that numbers the classes backwards, and names them."""
    images, labels = open_packed(digits).split("test").gather(np.arange(40))
    files = []
    for image in images:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        files.append({"bytes": content.getvalue()})
    table = pa.table({"image": files, "label": pa.array(9 - labels.astype(np.int64))})
    features = {"label": {"names": [str(9 - i) for i in range(10)]}}
    said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(said), tmp_path / "test-00000.parquet")
    found = examined(run, source=str(tmp_path), out=tmp_path / "found.json")
    right = correct_from_dict(examined(run))[:40]
    assert found["data"]["split"] == "test"
    assert found["classes"] == [str(i) for i in range(10)]
    assert found["num_correct"] == right.sum() > 10
    assert np.array(found["confusion"]).sum(1).tolist() == np.bincount(labels, minlength=10).tolist()


def test_a_run_against_one_of_other_classes(run: str, tmp_path: Path, copied: Path) -> None:
    meta = json.loads((copied / "model.json").read_text())
    meta["classes"][0] = "zero"
    (copied / "model.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="does not know: '0'"):
        examined(run, wanted=Wanted(against=str(copied)))
    meta["classes"] = None
    (copied / "model.json").write_text(json.dumps(meta))
    with pytest.raises(RunDirectoryError, match="names no classes"):
        examined(copied)


def test_pictures_that_have_changed(copied: Path) -> None:
    environment = json.loads((copied / "environment.json").read_text())
    environment["data"]["digest"] = "0" * 64
    (copied / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(DataError, match="is not what the run had: its digest"):
        examined(copied)


# ---- what is written and said ------------------------------------------------------------------------------


def test_files_and_the_page(copied: Path, tmp_path: Path) -> None:
    found = examined(copied, wanted=ALL)
    written = json.loads((copied / "evaluation" / "test.json").read_text())
    assert written == json.loads(json.dumps(found))
    page = (copied / "evaluation" / "test.html").read_text()
    for text in ("Reliability", "Confusion matrix", f"{found['num_correct']:,} correctly", "digits"):
        assert text in page
    assert page == render(written)
    for address in ("http://", "https://", 'src="/'):  # nothing is loaded
        assert address not in page.replace("http://www.w3.org", "")
    examined(copied, out=tmp_path / "elsewhere" / "mine.json")
    assert sorted(file.name for file in (tmp_path / "elsewhere").iterdir()) == ["mine.html", "mine.json"]


def test_a_page_with_everything(copied: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: findings.CORRUPTIONS[name] for name in ("brightness", "contrast")}
    monkeypatch.setattr(findings, "CORRUPTIONS", few)
    monkeypatch.setattr(findings, "ANGLES", (-30, 0, 45))
    found = examined(copied, wanted=Wanted(corruptions=True, sweeps=True, against=other))
    assert found["sweeps"]["rotation"]["num_correct"][1] == found["num_correct"]
    rows = found["corruptions"]["rows"]
    errors = np.array([row["error"] for row in rows.values()])
    assert found["corruptions"]["mean_error"] == pytest.approx(errors.mean())
    assert found["corruptions"]["mean_error_by_severity"] == pytest.approx(errors.mean(0).tolist())
    assert rows["contrast"]["error"][4] == 1 - rows["contrast"]["num_correct"][4] / 359
    page = (copied / "evaluation" / "test.html").read_text()
    for text in ("Against another model", "Corrupted pictures", "Rotation", "McNemar"):
        assert text in page
    console = Console(width=100, record=True, file=io.StringIO())
    for part in tables(found):
        console.print(part)
    printed = console.export_text()
    assert f"{100 * rows['contrast']['mean_error']:.1f}" in printed
    assert "McNemar" in printed


def test_what_was_found_earlier_of_the_same_stays(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CORRUPTIONS", {"contrast": findings.CORRUPTIONS["contrast"]})
    first = examined(copied, wanted=Wanted(corruptions=True))
    second = examined(copied, wanted=ALL)
    assert second["corruptions"] == first["corruptions"]
    assert {"corruptions", "tta"} <= json.loads((copied / "evaluation" / "test.json").read_text()).keys()
    assert "Corrupted pictures" in (copied / "evaluation" / "test.html").read_text()
    weights = build_model("resnet20", num_classes=10, weights=str(copied), classes=load_saved(copied).meta.classes)
    weights.module.fc.bias.data += 1
    write_model(copied, weights.module, load_saved(copied).meta)
    assert examined(copied).keys().isdisjoint({"corruptions", "tta"})


def test_what_depended_on_something_else_goes(copied: Path, other: str, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(other, tmp_path / "theirs"))
    examined(copied, wanted=Wanted(tta="digits", tta_copies=2, against=str(theirs)))
    assert examined(copied).keys() >= {"tta", "against"}
    (theirs / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes())
    found = examined(copied)
    assert "tta" in found
    assert "against" not in found, "the other run has other weights now"
    assert "tta" not in examined(copied, wanted=Wanted(temperature=True)), "probabilities are others now"
    examined(copied, wanted=Wanted(tta="digits", tta_copies=2))
    assert "tta" in examined(copied, wanted=Wanted(temperature=True)), "and now the same"


def test_pictures_of_one_name_are_told_apart(copied: Path, digits: Path, tmp_path: Path) -> None:
    one = folders(tmp_path / "one" / "photos", digits, {7: "7", 3: "3"})
    two = folders(tmp_path / "two" / "photos", digits, {7: "7", 3: "3"}, num=4)
    found = {source: examined(copied, source=str(source)) for source in (one, two, one, two)}
    digest = found[two]["data"]["digest"]
    names = ["photos-train", f"photos-train-{digest[:8]}"]
    assert sorted(path.stem for path in (copied / "evaluation").glob("photos*.json")) == names
    written = [json.loads((copied / "evaluation" / f"{name}.json").read_text()) for name in names]
    assert [each["num_samples"] for each in written] == [12, 8]
    assert sorted(path.stem for path in (copied / "evaluation").glob("photos*.html")) == names


def test_the_runs_report_has_a_link(copied: Path, other: str) -> None:
    shutil.rmtree(copied / "evaluation", ignore_errors=True)
    examined(copied)
    assert not (copied / "report.html").exists(), "nobody asked for one"
    write_report(str(copied), other)
    baseline = re.search(r"<h2 id=.versus-title.>.*?</section>", (copied / "report.html").read_text(), re.DOTALL)
    assert baseline
    assert 'href="evaluation/test.html"' in (copied / "report.html").read_text()
    assert 'href="evaluation/val.html"' not in (copied / "report.html").read_text()
    found = examined(copied, split="val")
    page = (copied / "report.html").read_text()
    assert 'href="evaluation/val.html"' in page
    assert f"{100 * found['calibration']['plain']['ece']:.1f} %" in page
    assert baseline[0] in page, "what it is held against is still there"
    (copied / "model.safetensors").write_bytes((Path(other) / "model.safetensors").read_bytes())
    write_report(str(copied))
    page = (copied / "report.html").read_text()
    assert 'href="evaluation/' not in page
    assert "evaluation/val.json is of other weights" in page


def test_nothing_is_saved_that_could_not_be_written(copied: Path, tmp_path: Path) -> None:
    before = (copied / "model.json").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="file"):
        examined(copied, wanted=Wanted(temperature=True), out=tmp_path / "file" / "mine.json")
    assert (copied / "model.json").read_bytes() == before


# ---- as typed ----------------------------------------------------------------------------------------------


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["augft", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command(copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, copied) == 0
    out = capsys.readouterr().out
    assert "Of 359 pictures the model names" in out
    assert out.splitlines()[-1] == f"{copied}/evaluation/test.json"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no run there"),
        (["RUN", "--data", "nowhere"], "source 'nowhere' does not exist"),
        (["RUN", "--tta", "digitz"], "digitz"),
        (["RUN", "--out", "found.txt"], "name a .json file"),
        (["RUN", "--against", "nowhere"], "no run there"),
        (["RUN", "--split", "holdout"], "no split 'holdout'"),
        (["RUN", "--address", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert typed(monkeypatch, *(str(copied) if each == "RUN" else each for each in arguments)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_has_not_finished(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(RunDirectoryError, match=r"left no model yet \(model\.safetensors\)"):
        examined(copied)
