"""The typed job file: load, override, validate.

Each key is declared, documented, bounded and given its default here and nowhere else. A job file is read with
`yaml.safe_load`; an unknown key fails and names the nearest valid one; `--set train.epochs=3` overrides any key with
a value in YAML's own syntax.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from augft.errors import ConfigError

QUICKSTART = "quickstart"
"""The name of the job that `augft train` runs when it is given none."""

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the job file: frozen, no unknown keys, docstrings become descriptions in the schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `true` would pass for the number 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("is no true or false")
        return value


class DataConfig(Section):
    """Which pictures, how they are stored and split."""

    source: str = "digits"
    """`digits`, `cifar10`, or a path: class folders, a .tar/.tar.gz/.zip of them, Parquet, or a packed data set."""
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = 32
    """Stored height and width in pixels; null keeps the size of pictures that all have the same one, and is refused by
    `store: encoded`. A packed data set keeps its own."""
    store: Literal["pixels", "encoded"] = "pixels"
    """What is stored: `pixels`, each picture's central square at image_size; `encoded`: the picture files as they are,
    of any size, decoded in the actors, where a crop is cut from the whole picture and resized in the one resample:
    docs/scale.md. They come out at image_size. A packed data set keeps its own, and as pixels is refused by
    `encoded`."""
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of train carved for validation, stratified by class, keyed by the seed. Not used where the source
    brings a `val` split of its own. 0: no validation, the last weights are the chosen ones."""
    labels_per_class: PositiveInt | None = None
    """Few-shot regime: how many training pictures of each class are kept; null for all."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What to do with a picture that cannot be read: stop, or leave it out and list it in the manifest."""
    shuffle: Literal["full", "windowed"] = "full"
    """`full`: an epoch's order is one shuffle of all pictures, which a node lays down on its disk; `windowed`: shards
    are shuffled, and pictures within windows of shards, for sets that do not fit there: docs/scale.md. Pictures that
    are packed for such a run are packed in shuffled order."""
    window_shards: Auto | PositiveInt = "auto"
    """Shards of a window; `auto`: as many as a node lays down in 1 GiB, at least 2. A node holds two windows a lane."""
    lanes: Annotated[int, Field(ge=1, le=65536)] = 1
    """Parts of a step that draw from windows of their own: more mix better, and with as many as there are workers, or
    a multiple, each reads its own shards alone."""


class AugmentConfig(Section):
    """How new samples are made from the originals and joined with them."""

    policy: str | list[str | dict[str, dict[str, Any] | None]] | dict[str, Any] = "standard"
    """A preset, a short name as `rand-m9-n2`, a list of ops, a path to a policy file, or what such a file holds:
    docs/augmentation.md."""
    select: Fraction = 1.0
    """Share of the samples that get copies, drawn anew each epoch."""
    copies: Annotated[int, Field(ge=0, le=2**20)] = 1
    """Augmented copies of each selected sample in an epoch."""
    keep_original: bool = False
    """Whether each original also takes part in each epoch, once and untouched."""
    sampling: Literal["nearest", "bilinear"] | None = None
    """Interpolation of the one resample; null takes the policy's own."""
    where: Literal["actors", "device"] = "actors"
    """Who makes the pictures: `actors`, on CPUs, ahead of the training step; `device`: actors only read the originals,
    and the step augments them where it trains, by the same draws to the same bytes. Then `stream_digest` vouches for
    the originals and for what each row is, not for augmented pixels."""
    mixup_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """MixUp (Zhang et al., 2018): alpha of the Beta distribution; 0 is off."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)] = 0.0
    """CutMix (Yun et al., 2019): alpha of the Beta distribution; 0 is off."""
    draws: Annotated[int, Field(ge=0)] = 0
    """Which of many independent sets of draws the seed gives: with another number the same policy makes other pictures,
    and split, head and order stay."""

    @model_validator(mode="after")
    def _an_epoch_has_items(self) -> AugmentConfig:
        if not self.keep_original and (self.copies == 0 or self.select == 0.0):
            raise ValueError("an epoch would be empty: set keep_original: true, or copies and select above 0")
        return self


class ModelConfig(Section):
    """The network, where its weights come from, and what of it learns."""

    name: str = "resnet18"
    """Any torchvision classifier, or resnet20/32/44/56/110 (He et al., 2016, for CIFAR)."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's), `none`, a .safetensors/.pth/.pt file, a run directory, `bundled:resnet20-cifar10`."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`cifar`: a 3x3 convolution of stride 1 and no pooling, for small pictures (torchvision ResNets)."""
    input_size: Annotated[int, Field(ge=4, le=4096)] | None = None
    """Height and width that the model sees, resized on the device; null: the stored size."""
    normalize: Literal["auto", "dataset", "imagenet"] = "auto"
    """Mean and standard deviation: `auto` takes what the weights say they were trained with, ImageNet's for a
    weights file that does not say, and the data set's own where there are no weights."""
    freeze: str = "none"
    """`none`, `backbone`, a stage name (frozen up to and with it), or `gradual`."""
    bn: Literal["auto", "frozen", "train"] = "auto"
    """Batch normalisation: `auto` learns where its stage does, `frozen` keeps all statistics, `train` learns all."""


class OptimizerConfig(Section):
    """The update rule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Stochastic gradient descent, or AdamW (Loshchilov and Hutter, 2019)."""
    lr: Annotated[float, Field(gt=0.0)] = 0.05
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of SGD; beta1 of AdamW."""
    nesterov: bool = True
    """Nesterov momentum (SGD only)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 5.0e-4
    """Weight decay of matrices and kernels; biases and normalisation parameters have none."""


class ScheduleConfig(Section):
    """The learning rate as a pure function of the step."""

    name: Literal["cosine", "one_cycle", "step", "constant"] = "cosine"
    """Shape after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    final_fraction: Fraction = 0.0
    """cosine: the last learning rate as a share of the peak."""
    milestones: list[Fraction] = [0.5, 0.75]
    """step: where in the run, as fractions, the rate is multiplied by gamma."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """step: the factor at each milestone."""


class StopConfig(Section):
    """What ends a run before its epochs are done; whichever comes first, the reason is recorded."""

    loss: Annotated[float, Field(gt=0.0)] | None = None
    """Stop when an epoch's mean training loss is at or below this."""
    epochs: PositiveInt | None = None
    """Stop after this many epochs; the schedule keeps to `train.epochs`."""
    steps: PositiveInt | None = None
    """Stop after this many steps; the schedule keeps to `train.epochs`."""
    time_s: Annotated[float, Field(gt=0.0)] | None = None
    """Stop after this much training time, over all resumes, in seconds."""
    patience: PositiveInt | None = None
    """Stop after this many epochs without a better val_top1."""


class TrainConfig(Section):
    """The steps of a run."""

    epochs: PositiveInt = 10
    """Epochs of the plan; the learning rate schedule spans them."""
    global_batch_size: PositiveInt = 256
    """Samples of a step over all workers; what a step holds never depends on the number of workers."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    head_lr_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of the head over that of the backbone."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor of the learning rate from one stage to the stage below it."""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """`mse`: mean squared error of softmax against one-hot targets."""
    jsd_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """AugMix's consistency loss: weight of the Jensen-Shannon divergence between the model's answers to a picture and
    to two mixtures of it, added to the loss of the picture; 12 in the paper, 0 is off. The policy ends with aug_mix."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability mass spread evenly over all classes."""
    clip_grad_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Largest L2 norm of the gradient."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the hardware is fast at it, else fp32."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory format of pictures and weights; `auto`: channels last on CUDA and in bf16, where it is the faster."""
    compile: bool = False
    """torch.compile the model."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Exponential moving average of the weights, used for validation and the final model."""
    grad_accum_steps: PositiveInt = 1
    """Micro-batches of a rank's share of a step."""
    stop: StopConfig = StopConfig()


class ScaleConfig(Section):
    """Who works on it. None of these changes what a step holds or how a picture looks."""

    num_workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Training workers; [min, max] is elastic."""
    use_gpu: Auto | bool = "auto"
    """A GPU for each training worker; `auto`: where there are enough, on a cluster for the fewest workers."""
    cpus_per_worker: Auto | PositiveInt = "auto"
    """CPUs, and so threads, of a training worker; `auto`: an even share of the machine; on a cluster what fits on nodes
    beside the actors, and at most 2 with a GPU."""
    augment_actors: PositiveInt | tuple[PositiveInt, Auto | PositiveInt] = (1, "auto")
    """Augmentation actors: a number, or [min, max], more while training waits for pictures, fewer while they idle."""
    placement_strategy: Literal["pack", "spread"] = "pack"
    """Training workers on as few nodes as they fit on, or each on a node of its own where there are enough."""
    worker_label_selector: dict[str, str] = {}
    """Labels that a node must have for training workers, in Ray's syntax: {augft-role: train}."""
    actor_label_selector: dict[str, str] = {}
    """Labels that a node must have for augmentation actors; without any they keep off GPU nodes while others have
    room."""
    unit_rows: Auto | PositiveInt = "auto"
    """Pictures that an actor makes for one worker at a time, at least; `auto`: as many as hide Ray's cost of a task."""

    @field_validator("num_workers", "augment_actors")
    @classmethod
    def _min_at_most_max(cls, value: Any) -> Any:
        if isinstance(value, tuple) and value[1] != "auto" and value[0] > value[1]:
            raise ValueError(f"min {value[0]} is above max {value[1]}")
        return value

    @property
    def max_workers(self) -> int:
        return self.num_workers[1] if isinstance(self.num_workers, tuple) else self.num_workers

    @property
    def min_workers(self) -> int:
        return self.num_workers[0] if isinstance(self.num_workers, tuple) else self.num_workers


class RunConfig(Section):
    """Where a run lives and how it survives."""

    storage_path: str = "runs"
    """Folder of all runs, seen by every node: local, NFS, s3://, gs://."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts after a lost worker or node before the run fails."""
    checkpoint_every_steps: PositiveInt | None = None
    """Steps between checkpoints; null: at the end of each epoch."""
    keep_checkpoints: PositiveInt = 2
    """How many checkpoints stay; the best weights always stay."""
    hang_timeout_s: Annotated[float, Field(gt=0.0)] | None = 600.0
    """A run that makes no step for this long has its hung worker named, stopped and started again; null: never."""
    storage_retry_s: Annotated[float, Field(ge=0.0)] = 120.0
    """How long a storage that fails is tried again, with growing pauses, before the run fails."""
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = ["tensorboard"]
    """Where metrics are sent besides metrics.jsonl."""
    baseline: str | None = None
    """A policy to train once more with, as a run beside this one, and to print against it."""


Pair = Field(min_length=2, max_length=2)


class CompareConfig(Section):
    """What `augft compare` holds against each other; options of the command override these keys."""

    policies: Annotated[list[str | dict[str, dict[str, Any]]], Field(min_length=2)] = [
        "none",
        "basic",
        "standard",
        "randaugment",
        "trivialaugment",
    ]
    """The contenders: policies as `augment.policy` names them, or {name: {keys of augment}}, as
    {mixup: {policy: standard, mixup_alpha: 0.2}}."""
    baseline: str | None = None
    """The contender that the others are held against; null: the first."""
    seeds: PositiveInt = 5
    """How many seeds, from the job's own on; each has its own labels, split, head, order and draws."""
    labels_per_class: list[PositiveInt] = []
    """An axis: the comparison at each of these; none: at the job's own."""
    equal_steps: bool = False
    """Along `labels_per_class`, as many steps everywhere as at the job's own `data.labels_per_class`: fewer epochs of
    more pictures. Else as many epochs everywhere."""
    models: list[str] = []
    """An axis: the comparison with each of these; none: with the job's own."""
    magnitudes: list[Annotated[float, Field(ge=0.0)]] = []
    """Contenders whose ops have a magnitude take part once with each of these; none: with their own."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Of all intervals of a comparison together."""
    concurrent: PositiveInt | None = None
    """Most trials at a time; null: as many as there is room for."""
    gpus_per_trial: Auto | Annotated[float, Field(ge=0.0)] = "auto"
    """GPUs, or a share of one, of a trial that is one process; `auto`: one where there are any."""


class SearchConfig(Section):
    """What `augft tune` looks for, and how much it may spend on it."""

    algorithm: Literal["asha", "pbt"] = "asha"
    """`asha`: each trial has a policy, and the worse trials stop early (Li et al., 2020); `pbt`: policies change while
    a population trains (Jaderberg et al., 2017), and what is found is a schedule."""
    sampler: Literal["random", "optuna"] = "random"
    """asha: who proposes policies: chance, or Optuna's estimator of what was good so far (`augft[search]`)."""
    trials: PositiveInt = 16
    """Policies that are tried, baselines among them; of pbt the rest is the population."""
    epochs: PositiveInt | None = None
    """Epochs of a trial; null: `train.epochs`."""
    labels_per_class: PositiveInt | None = None
    """Training pictures of each class in a trial; null: `data.labels_per_class`."""
    first_rung_epochs: PositiveInt = 1
    """asha: no trial stops before this many epochs; later rungs are at each `reduction` times as many."""
    reduction: Annotated[float, Field(gt=1.0)] = 3.0
    """asha: of the trials that reach a rung, one in so many goes on."""
    interval_epochs: PositiveInt = 2
    """pbt: after so many epochs each, the worst quarter takes over weights and policy of the best, and changes it."""
    base: str = "standard"
    """A policy whose ops stand before those that are found, with its sampling and fill; `none` for none."""
    ops: Annotated[list[str], Field(min_length=1)] = [
        "rotate",
        "translate",
        "shear",
        "resized_crop",
        "elastic",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "gamma",
        "solarize",
        "posterize",
        "autocontrast",
        "equalize",
        "sharpness",
        "gaussian_blur",
        "gaussian_noise",
        "erasing",
        "cutout",
    ]
    """Ops to choose among; each has a probability and a strength, which are searched too."""
    num_ops: Annotated[list[PositiveInt], Pair] = [1, 3]
    """Fewest and most ops of a policy, beside the base's."""
    select: Annotated[list[Fraction], Pair] | None = None
    """asha: also search `augment.select` between two ends; null: the job's own."""
    copies: list[PositiveInt] = []
    """asha: also search `augment.copies` among these; none: the job's own. More copies are more steps."""
    mixup_alpha: Annotated[list[Annotated[float, Field(ge=0.0)]], Pair] | None = None
    """asha: also search `augment.mixup_alpha` between two ends; null: the job's own."""
    cutmix_alpha: Annotated[list[Annotated[float, Field(ge=0.0)]], Pair] | None = None
    """asha: also search `augment.cutmix_alpha` between two ends; null: the job's own."""
    learning_rate: bool = False
    """asha: also search the peak learning rate, from a third of the job's own to three times that."""
    baselines: list[str] = ["none", "standard", "randaugment", "trivialaugment"]
    """Policies that are trials too, are never stopped early, and that what is found is raced against."""
    seeds: Annotated[int, Field(ge=0)] = 5
    """Fresh seeds of the race on the whole task; 0: no race."""
    proxy_checks: Annotated[int, Field(ge=0)] = 2
    """Further trials trained on the whole task, to see whether the small one ranks policies alike."""
    concurrent: PositiveInt | None = None
    """Most trials at a time; null: as many as there is room for."""
    gpus_per_trial: Auto | Annotated[float, Field(ge=0.0)] = "auto"
    """GPUs, or a share of one, of a trial that trains with one worker; `auto`: one, where there are any."""

    @field_validator("num_ops", "select", "mixup_alpha", "cutmix_alpha")
    @classmethod
    def _low_at_most_high(cls, value: Any) -> Any:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"low {value[0]} is above high {value[1]}")
        return value


class Job(Section):
    """A whole job file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)] = "run"
    """Name of the run, and of its folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The one source of all randomness."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    scale: ScaleConfig = ScaleConfig()
    run: RunConfig = RunConfig()
    compare: CompareConfig = CompareConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _consistency_is_of_unmixed_pictures(self) -> Job:
        if self.train.jsd_weight and max(self.augment.mixup_alpha, self.augment.cutmix_alpha):
            raise ValueError("train.jsd_weight does not go with augment.mixup_alpha or cutmix_alpha: set them to 0")
        return self

    @model_validator(mode="after")
    def _a_device_augments_pixels(self) -> Job:
        if self.augment.where == "device" and self.data.store == "encoded":
            raise ValueError(
                "augment.where: device takes stored pixels, and data.store: encoded has none: set augment.where to "
                "actors, or data.store to pixels"
            )
        return self

    @model_validator(mode="after")
    def _a_step_has_a_sample_for_each_micro_batch(self) -> Job:
        least = self.scale.max_workers * self.train.grad_accum_steps
        if self.train.global_batch_size < least:
            raise ValueError(
                f"train.global_batch_size {self.train.global_batch_size} is less than {least} = "
                f"{self.scale.max_workers} workers x {self.train.grad_accum_steps} accumulation: raise it"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The resolved job as plain data, in the order of the file."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved job as YAML; `load_job` of it gives this job again."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False))

    def replace(self, overrides: Iterable[str]) -> Job:
        """This job with `key=value` overrides, validated again.

        Raises:
            ConfigError: an override is malformed, names no key, or its value is refused.
        """
        data = self.to_dict()
        for override in overrides:
            _override(data, override)
        return _validate(data, "--set")


def load_job(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Job:
    """Read a job file and apply overrides.

    Args:
        path: a YAML file; None is the quickstart job that comes with the package.
        overrides: texts of the form `key.key=value`, the value in YAML's syntax.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is refused.
    """
    where = "the quickstart job" if path is None else str(path)
    try:
        text = quickstart_text() if path is None else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}; give the path of a job file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: is not UTF-8 text; give a job file in YAML") from None
    return load_job_text(text, where, overrides)


def load_job_text(text: str, where: str, overrides: Iterable[str] = ()) -> Job:
    """As `load_job`, of a job file's text; `where` is what messages call it."""
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{where}{line}: {problem}; a job file is YAML") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: holds a {type(data).__name__}; a job file is a mapping of keys")
    for override in overrides:
        _override(data, override)
    return _validate(data, where)


def quickstart_text() -> str:
    """The quickstart job file: packaged beside the code, or in the checkout's `jobs/`."""
    packaged = files("augft") / "jobs" / f"{QUICKSTART}.yaml"
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / "jobs" / f"{QUICKSTART}.yaml").read_text(encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """Safe, and a key given twice is an error: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = node.value[number][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key} is given twice", mark)
        return super().construct_mapping(node, deep)


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: give it as key=value, for example --set train.epochs=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None
    *parents, last = key.strip().split(".")
    node: Any = data
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node[last] = value


def _validate(data: dict[str, Any], where: str) -> Job:
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{where}: {_describe(problems[0])}{more}") from None


def _describe(problem: Any) -> str:
    keys = _job_keys()
    # Unions add the branch that failed to the location: only names that are keys of the job say where it is.
    location: list[str] = []
    for part in problem["loc"]:
        if problem["type"] == "extra_forbidden" or ".".join([*location, str(part)]) in keys:
            location.append(str(part))
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        near = _nearest_key(name, keys)
        return f"unknown key {name}" + (f"; did you mean {near}?" if near else "")
    message: str = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not name:
        return message
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return f"{name}: {message}"
    return f"{name}: {message} (got {problem['input']!r})"


def _nearest_key(name: str, keys: list[str]) -> str | None:
    """The valid key that is most like `name`: first among its siblings, then by its last part anywhere."""
    parent, _, last = name.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == parent}
    anywhere = {key.rpartition(".")[2]: key for key in reversed(keys)}
    for names, cutoff in ((siblings, 0.6), (anywhere, 0.8), (siblings, 0.4)):
        if near := difflib.get_close_matches(last.lower(), names, n=1, cutoff=cutoff):
            return names[near[0]]
    return None


def _job_keys() -> list[str]:
    """All valid dotted keys, sections included."""

    def walk(section: type[BaseModel], prefix: str) -> Iterable[str]:
        for name, field in section.model_fields.items():
            yield prefix + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(field.annotation, f"{prefix}{name}.")

    return list(walk(Job, ""))
