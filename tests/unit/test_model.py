"""Building models, loading weights, hostile and broken files."""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from augft.errors import ConfigError, StorageError, WeightsError
from augft.model import build_model, load_saved, model_from_bytes
from augft.model.files import META_FILE, WEIGHTS_FILE, ModelMeta, meta_to_bytes, model_to_bytes, write_model
from augft.model.pretrained import bundled_names, read_weights


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


# ------------------------------------------------------------------ architectures


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_papers_size(depth: int, millions: float) -> None:
    module = build_model(f"resnet{depth}", num_classes=10).module
    count = sum(parameter.numel() for parameter in module.parameters())
    digits = 1 if millions > 1 else 2
    assert round(count / 1e6, digits) == millions
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_resnet20_computes_the_papers_formula() -> None:
    module = build_model("resnet20", num_classes=10, seed=3).module
    step(module, torch.optim.SGD(module.parameters(), lr=0.1))  # statistics and affine parameters that matter
    module.eval()
    w = module.state_dict()

    def conv_bn(x: torch.Tensor, conv: str, bn: str, stride: int = 1) -> torch.Tensor:
        y = F.conv2d(x, w[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = w[f"{bn}.running_mean"], w[f"{bn}.running_var"]
        y = (y - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        return y * w[f"{bn}.weight"][:, None, None] + w[f"{bn}.bias"][:, None, None]

    images = torch.randn(3, 3, 32, 32)
    x = conv_bn(images, "conv1", "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(3):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride).clamp(min=0)
            y = conv_bn(y, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                small = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(small)[:, ::2]
                x = torch.cat([zeros, small, zeros], 1)
            x = (x + y).clamp(min=0)
    expected = x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    torch.testing.assert_close(module(images), expected, rtol=1e-4, atol=1e-5)


def test_cifar_stem_keeps_the_resolution() -> None:
    module = build_model("resnet18", num_classes=10, stem="cifar").module
    assert isinstance(module, torchvision.models.ResNet)
    early = module.maxpool(module.relu(module.bn1(module.conv1(torch.zeros(1, 3, 32, 32)))))
    assert early.shape == (1, 64, 32, 32)
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_names_and_stems_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="nearest is 'resnet18'") as error:
        build_model("resnet81", num_classes=10)
    one_line(error)
    with pytest.raises(ConfigError, match="cifar is for torchvision's ResNets, not vgg11") as error:
        build_model("vgg11", num_classes=10, stem="cifar")
    one_line(error)


def test_fresh_parameters_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b, c = (build_model("resnet20", num_classes=10, seed=s).module.state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])


# ------------------------------------------------------------------ files


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module, ModelMeta]:
    module = build_model("resnet20", num_classes=3, seed=1).module
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    meta = ModelMeta("resnet20", 3, "cifar", ("ant", "bee", "猫"), mean, std, input_size=32, step=70)
    write_model(tmp_path, module, meta)
    return tmp_path, module, meta


def test_a_saved_model_comes_back(saved: tuple[Path, nn.Module, ModelMeta]) -> None:
    folder, module, meta = saved
    assert sorted(path.name for path in folder.iterdir()) == [META_FILE, WEIGHTS_FILE]
    contents = [(folder / name).read_bytes() for name in (WEIGHTS_FILE, META_FILE)]
    assert tuple(contents) == model_to_bytes(module, meta)
    for back in (load_saved(folder), model_from_bytes(*contents)):
        assert back.meta == meta
        assert back.load_report.replaced == back.load_report.left == ()
        assert all(torch.equal(value, state(back.module)[key]) for key, value in state(module).items())


def test_plain_torchvision_loads_what_we_save(tmp_path: Path) -> None:
    module = build_model("resnet18", num_classes=4, seed=2).module.to(memory_format=torch.channels_last)
    write_model(tmp_path, module, ModelMeta("resnet18", 4))
    plain = torchvision.models.resnet18(num_classes=4)
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / WEIGHTS_FILE))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(images), module.eval()(images))


def test_half_precision_storage(saved: tuple[Path, nn.Module, ModelMeta]) -> None:
    _, module, meta = saved
    full, half = (model_to_bytes(module, meta, half=flag) for flag in (False, True))
    assert len(half[0]) < 0.6 * len(full[0])
    back = model_from_bytes(*half).module.state_dict()
    assert back["fc.weight"].dtype == torch.float32
    torch.testing.assert_close(back["fc.weight"], module.state_dict()["fc.weight"], rtol=1e-3, atol=1e-6)


def test_wrapper_prefixes_and_wrapping_dicts(tmp_path: Path) -> None:
    module = build_model("resnet20", num_classes=3, seed=1).module
    for key, prefix in [("state_dict", "module."), ("model", "_orig_mod."), ("model", "module._orig_mod.")]:
        path = tmp_path / "weights.pth"
        torch.save({key: {prefix + k: v for k, v in module.state_dict().items()}, "epoch": 3}, path)
        built = build_model("resnet20", num_classes=3, weights=str(path))
        assert torch.equal(built.module.state_dict()["fc.weight"], module.state_dict()["fc.weight"])
        assert built.load_report.replaced == ()


def test_old_torchvision_names_are_understood(tmp_path: Path) -> None:
    module = build_model("densenet121", num_classes=3, seed=1).module
    old = {
        k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in k else k: v
        for k, v in module.state_dict().items()
    }
    assert old.keys() != module.state_dict().keys()
    torch.save(old, tmp_path / "old.pth")
    built = build_model("densenet121", num_classes=3, weights=str(tmp_path / "old.pth"))
    assert len(built.load_report.loaded) == len(old)


# ------------------------------------------------------------------ heads and stems


def test_a_head_is_replaced_where_the_classes_are_others(saved: tuple[Path, nn.Module, ModelMeta]) -> None:
    folder, module, meta = saved
    theirs = module.state_dict()

    def load(num_classes: int, classes: list[str] | None) -> tuple[bool, str]:
        built = build_model("resnet20", num_classes=num_classes, weights=str(folder), classes=classes, seed=9)
        assert torch.equal(built.module.state_dict()["layer3.2.conv2.weight"], theirs["layer3.2.conv2.weight"])
        same = torch.equal(built.module.state_dict()["fc.weight"], theirs["fc.weight"][:num_classes])
        assert same == (built.load_report.replaced == ())
        assert built.meta.mean == meta.mean
        assert built.meta.classes == (tuple(classes) if classes else ("ant", "bee", "猫") if same else None)
        return same, str(built.load_report)

    assert load(3, None)[0]
    assert load(3, ["ant", "bee", "猫"])[0]
    same, text = load(3, ["bee", "ant", "猫"])
    assert not same
    assert "other classes" in text
    same, text = load(2, None)
    assert not same
    assert "3 → 2 classes" in text
    fresh = build_model("resnet20", num_classes=2, seed=9).module.state_dict()
    replaced = build_model("resnet20", num_classes=2, weights=str(folder), seed=9).module.state_dict()
    assert torch.equal(fresh["fc.weight"], replaced["fc.weight"])


def test_imagenet_stem_weights_in_a_cifar_stem(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "w.pt")
    report = build_model("resnet18", num_classes=5, stem="cifar", weights=str(tmp_path / "w.pt")).load_report
    assert report.left == ("conv1.weight",)
    assert report.replaced == ()
    assert len(report.loaded) == 121
    assert "conv1.weight" in str(report)


def test_cifar_stem_weights_in_an_imagenet_stem(tmp_path: Path) -> None:
    built = build_model("resnet18", num_classes=5, stem="cifar")
    write_model(tmp_path, built.module, built.meta)
    with pytest.raises(WeightsError, match=r"set model\.stem=cifar") as error:
        build_model("resnet18", num_classes=5, weights=str(tmp_path))
    one_line(error)
    (tmp_path / META_FILE).rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=r"1 of 122 tensors do not fit, first conv1\.weight") as error:
        build_model("resnet18", num_classes=5, weights=str(tmp_path / WEIGHTS_FILE))
    one_line(error)


def test_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.ResNet18_Weights.DEFAULT
    reference = torchvision.models.resnet18()
    kind = type(published)
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **kwargs: reference.state_dict())
    built = build_model("resnet18", num_classes=10, weights="imagenet")
    assert built.load_report.replaced == ("fc.weight", "fc.bias")
    assert built.meta.mean == (0.485, 0.456, 0.406)
    assert built.meta.input_size == 224
    assert built.meta.classes is None
    whole = build_model("resnet18", num_classes=1000, weights="imagenet")
    assert whole.meta.classes is not None
    assert len(whole.meta.classes) == 1000

    def offline(self: object, **kwargs: object) -> None:
        assert kwargs["weights_only"]
        raise OSError("no route to host")

    monkeypatch.setattr(kind, "get_state_dict", offline)
    with pytest.raises(WeightsError, match=r"could not be downloaded; fetch https://.*pass the file") as error:
        build_model("resnet18", num_classes=10, weights="imagenet")
    one_line(error)
    with pytest.raises(WeightsError, match="no ImageNet weights of resnet20"):
        build_model("resnet20", num_classes=10, weights="imagenet")


def test_auxiliary_heads_are_passed_over(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = torchvision.models.googlenet(num_classes=4, aux_logits=True, init_weights=False)
    torch.save(full.state_dict(), tmp_path / "g.pth")
    built = build_model("googlenet", num_classes=4, weights=str(tmp_path / "g.pth"))
    assert built.load_report.replaced == ()
    assert len(built.load_report.loaded) == len(built.module.state_dict())


# ------------------------------------------------------------------ bad weights


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary, path = tmp_path / "ran", tmp_path / "w.pth"
    torch.save({"state_dict": Hostile(canary)}, path)
    torch.load(path, weights_only=False)
    assert canary.exists(), "the file must be able to do harm, or the test shows nothing"
    canary.unlink()
    plain = tmp_path / "w.pt"
    plain.write_bytes(pickle.dumps(Hostile(canary)))
    for file in (path, plain):
        with pytest.raises(WeightsError, match="holds more than tensors") as error:
            build_model("resnet20", num_classes=3, weights=str(file))
        one_line(error)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    tensors = build_model("resnet20", num_classes=3).module.state_dict()
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match="cut short") as error:
        build_model("resnet20", num_classes=3, weights=str(path))
    one_line(error)


def test_weights_of_another_architecture(saved: tuple[Path, nn.Module, ModelMeta], tmp_path: Path) -> None:
    folder, module, _ = saved
    with pytest.raises(WeightsError, match=r"weights of resnet20, the model is resnet32; set model\.name=resnet20"):
        build_model("resnet32", num_classes=3, weights=str(folder))
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"not weights of resnet32: \d+ of \d+ tensors .*layer1\.3") as error:
        build_model("resnet32", num_classes=3, weights=str(tmp_path / "w.pth"))
    one_line(error)


def test_contents_that_are_no_weights(saved: tuple[Path, nn.Module, ModelMeta], tmp_path: Path) -> None:
    folder, module, meta = saved
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    broken = state(module)
    broken["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(broken, tmp_path / "nan.pth")
    (tmp_path / "w.bin").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for weights, message in [
        ("w.pth", "no state dict"),
        ("nan.pth", r"layer1\.0\.conv1\.weight holds NaN"),
        ("w.bin", "not a kind of weights file"),
        ("absent.pth", "no file or run"),
        ("empty", r"no model\.safetensors there"),
    ]:
        with pytest.raises(WeightsError, match=message) as error:
            build_model("resnet20", num_classes=3, weights=str(tmp_path / weights))
        one_line(error)
    with pytest.raises(WeightsError, match="no bundled:nothing"):
        build_model("resnet20", num_classes=3, weights="bundled:nothing")
    for content, message in [
        (b"{", "does not describe a model"),
        (b"[]", "does not describe a model"),
        (b'{"format_version": 99}', "format version 99"),
        (meta_to_bytes(replace(meta, classes=("a",))), "do not fit"),
        (meta_to_bytes(replace(meta, architecture="resnet1")), "no model 'resnet1'"),
    ]:
        (folder / META_FILE).write_bytes(content)
        with pytest.raises(WeightsError, match=message) as error:
            load_saved(folder)
        one_line(error)


def test_nothing_is_copied_unless_all_fits(saved: tuple[Path, nn.Module, ModelMeta]) -> None:
    from augft.model.pretrained import fit

    source = read_weights(str(saved[0]), "resnet20")
    assert source is not None
    source.tensors.pop("fc.bias")
    target = build_model("resnet20", num_classes=3, seed=8).module
    before = state(target)
    with pytest.raises(WeightsError, match=r"1 of .*fc\.bias is missing"):
        fit(target, "fc", source, architecture="resnet20", num_classes=3, classes=None, fresh_stem=None)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_runs_elsewhere_are_resolved(saved: tuple[Path, nn.Module, ModelMeta]) -> None:
    folder = saved[0]
    asked = []

    def resolve(name: str) -> Path | None:
        asked.append(name)
        return folder if name == "s3://bucket/run" else None

    built = build_model("resnet20", num_classes=3, weights="s3://bucket/run", resolve_run=resolve)
    assert built.load_report.replaced == ()
    with pytest.raises(WeightsError):
        build_model("resnet20", num_classes=3, weights="s3://bucket/other", resolve_run=resolve)
    assert asked == ["s3://bucket/run", "s3://bucket/other"]


def test_a_failed_write_leaves_nothing(saved: tuple[Path, nn.Module, ModelMeta], tmp_path: Path) -> None:
    _, module, meta = saved
    target = tmp_path / "target"
    target.mkdir()
    (target / WEIGHTS_FILE).mkdir()  # a folder in the way
    with pytest.raises(StorageError):
        write_model(target, module, meta)
    assert [path.name for path in target.iterdir()] == [WEIGHTS_FILE]


@pytest.mark.parametrize("weights", bundled_names())
def test_bundled_weights_load(weights: str) -> None:
    source = read_weights(weights, "")
    assert source is not None
    assert source.meta is not None
    meta = source.meta
    report = build_model(meta.architecture, num_classes=meta.num_classes, weights=weights).load_report
    assert report.replaced == ()


# ------------------------------------------------------------------ real weights


@pytest.mark.real_data
def test_real_pretrained_weights() -> None:
    folder = os.environ.get("AUGFT_TEST_DATA")
    path = Path(folder or "") / "resnet18-tiny-imagenet.pth"
    if not folder or not path.is_file():
        pytest.skip("set AUGFT_TEST_DATA to the folder with resnet18-tiny-imagenet.pth")
    ten = build_model("resnet18", num_classes=10, weights=str(path))
    assert ten.load_report.replaced == ("fc.weight", "fc.bias")
    assert len(ten.load_report.loaded) == 120
    all_of_it = build_model("resnet18", num_classes=200, weights=str(path))
    assert len(all_of_it.load_report.loaded) == 122
    expected = torch.load(path, weights_only=True)
    assert all(torch.equal(all_of_it.module.state_dict()[key], value) for key, value in expected.items())
