"""The command line. Each command imports what it needs when it runs, so that `augft --help` is immediate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from augft.errors import AugftError, ConfigError, HeadLostError, RunError

app = typer.Typer(
    name="augft",
    help="Fine-tune an image classifier with data augmentation, on one machine or on a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
config_app = typer.Typer(help="Show the resolved job, or the JSON schema of job files.", no_args_is_help=True)
app.add_typer(config_app, name="config")

_USAGE_ERROR: type[Any] = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130


def _here(written: str) -> Path:
    """A path of this machine, as an option takes it."""
    if "://" in written:
        raise ConfigError(f"{written}: this is written to a path of this machine: give one, and copy it there")
    return Path(written)


JobFile = Annotated[
    str | None, typer.Argument(metavar="[JOB.yaml]", help="A job file; the quickstart job without one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in --set train.epochs=3; repeatable."),
]


@app.command()
def train(
    job: JobFile = None,
    overrides: Overrides = None,
    run_dir: Annotated[str | None, typer.Option(help="Where the run lives; else STORAGE_PATH/NAME of the job.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray and the workers print.")] = False,
) -> None:
    """Fine-tune a model.

    Example: `augft train jobs/cifar10.yaml --set train.epochs=2`
    """
    from augft.config import load_job
    from augft.train.launch import train as launch

    launch(load_job(job, overrides or ()), run_dir=run_dir, address=address, resume=resume, verbose=verbose)


@app.command()
def pack(
    source: Annotated[str, typer.Argument(help="digits, cifar10, or a path or URI: folders, an archive, Parquet.")],
    out: Annotated[str, typer.Argument(help="The folder to make, or a URI as s3://bucket/folder.")],
    image_size: Annotated[
        int | None,
        typer.Option(min=4, max=4096, help="Height and width to store; else that of the pictures."),
    ] = None,
    val_fraction: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of train to set apart as val.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of val.")] = 0,
    on_bad: Annotated[str, typer.Option(help="fail, or skip: what to do with a picture that cannot be read.")] = "fail",
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="Store train in a shuffled order, for data.shuffle=windowed.")
    ] = False,
    encoded: Annotated[
        bool,
        typer.Option(
            "--encoded", help="Store the picture files as they are, of any size, to come out at --image-size."
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray tasks at a time; else threads of this process.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
) -> None:
    """Turn pictures into a packed data set: Parquet shards and a manifest.

    Broken off, it goes on with what is done when it is started again. On a cluster SOURCE and OUT are a folder that
    all nodes share, or URIs.

    Example: `augft pack pictures/ packed/ --image-size 64`

    Example: `augft pack s3://bucket/pictures s3://bucket/packed --image-size 224 --shuffle --address auto`
    """
    from functools import partial

    from augft.data.pack import pack as pack_source
    from augft.data.packed import open_packed
    from augft.display import Display
    from augft.errors import ConfigError, Stopped

    if on_bad not in ("fail", "skip"):
        raise ConfigError(f"--on-bad {on_bad}: give fail or skip")
    make: Any = pack_source
    if workers is not None or address is not None:
        from augft.data.pack_on_ray import pack_on_ray

        make = partial(pack_on_ray, address=address, workers=workers)
    with Display() as display:
        try:
            path = make(
                source,
                out,
                image_size=image_size,
                val_fraction=val_fraction,
                seed=seed,
                on_bad="skip" if on_bad == "skip" else "fail",
                shuffled=shuffle,
                encoded=encoded,
                progress=lambda done, total: display.count("packing", done, total),
                say=display.say,
            )
        except KeyboardInterrupt:
            raise Stopped("interrupted; the same command goes on with what is packed") from None
        manifest = open_packed(path).manifest
        rows = ", ".join(f"{name} {split.num_rows:,}" for name, split in manifest.splits.items())
        display.say(f"{path}: {rows} pictures of {len(manifest.classes)} classes, digest {manifest.digest[:12]}")
        for rejected in manifest.rejected:
            display.say(f"left out {rejected.path}: {rejected.reason}")


@app.command()
def preview(
    job: JobFile = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(parser=_here, help="The PNG file to write.")] = Path("preview.png"),
    all_ops: Annotated[
        bool, typer.Option("--all-ops", help="Show every op there is, on pictures of the job, not its policy.")
    ] = False,
    sample_id: Annotated[
        int | None, typer.Option(min=0, help="Show one picture of the run: this sample's, in an epoch, as a copy.")
    ] = None,
    epoch: Annotated[int | None, typer.Option(min=0, help="Which epoch's pictures, from 0; else the first.")] = None,
    copy: Annotated[int | None, typer.Option(min=0, help="With --sample-id: which copy, from 0; else 0.")] = None,
) -> None:
    """Draw originals and what the policy makes of them, every op, or again one picture that training saw.

    Example: `augft preview jobs/cifar10.yaml --out preview.png`

    Example: `augft preview jobs/cifar10.yaml --sample-id 1234 --epoch 3 --out one.png`
    """
    from augft.config import load_job
    from augft.display import Display
    from augft.prepare import prepare
    from augft.report.preview import ops_png, preview_png, replay
    from augft.storage import Storage

    chosen = {"--sample-id": sample_id, "--epoch": epoch, "--copy": copy}
    if all_ops and (given := [name for name, value in chosen.items() if value is not None]):
        raise ConfigError(f"--all-ops shows every op at its defaults: {given[0]} does not go with it")
    if copy is not None and sample_id is None:
        raise ConfigError("--copy says which copy of a sample: give --sample-id too")
    with Display() as display:
        prepared = prepare(load_job(job, overrides or ()), display)
        if all_ops:
            png = ops_png(prepared)
        elif sample_id is not None:
            made = replay(prepared, sample_id=sample_id, epoch=epoch or 0, copy=copy or 0)
            png = made.png
            typer.echo("\n".join(made.lines))
        else:
            png = preview_png(prepared, epoch=epoch or 0)
        Storage(out.absolute().parent).write(out.name, png)
        display.say(str(out))


@app.command()
def compare(
    job: JobFile = None,
    overrides: Overrides = None,
    policies: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="The contenders: presets and policy files; else the job's.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, from the job's own on.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The contender to hold the others against; else the first.")
    ] = None,
    labels_per_class: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="An axis: compare at each number of labelled pictures a class.")
    ] = None,
    magnitudes: Annotated[
        str | None, typer.Option(metavar="M,M,…", help="Contenders with a magnitude take part once with each.")
    ] = None,
    models: Annotated[str | None, typer.Option(metavar="A,B,…", help="An axis: compare with each model.")] = None,
    run_dir: Annotated[
        str | None, typer.Option(help="The comparison's folder; else STORAGE_PATH/NAME of the job.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: what is done stays; more seeds or contenders may come.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray and the workers print.")] = False,
) -> None:
    """Find out which augmentation helps: the same runs with each policy, over several seeds, and honest statistics.

    For each seed all policies have the same labelled pictures, split, head and order. Options are short for the keys
    of the job's section `compare`.

    Example: `augft compare jobs/compare.yaml --policies none,standard,randaugment --seeds 5`
    """
    from augft.config import load_job
    from augft.experiment.compare import compare as run_comparison

    given = {
        "policies": policies,
        "labels_per_class": labels_per_class,
        "magnitudes": magnitudes,
        "models": models,
    }
    keys = [f"compare.{key}=[{value}]" for key, value in given.items() if value is not None]
    keys += [f"compare.{key}={value}" for key, value in (("seeds", seeds), ("baseline", baseline)) if value is not None]
    run_comparison(
        load_job(job, [*(overrides or ()), *keys]), run_dir=run_dir, address=address, resume=resume, verbose=verbose
    )


@app.command()
def tune(
    job: JobFile = None,
    overrides: Overrides = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Where the search lives; else STORAGE_PATH/NAME of the job.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search that is there.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray and the trials print.")] = False,
) -> None:
    """Search an augmentation policy, and race it against those that need no search.

    What is searched, and how much is spent on it, says the job's section `search`. The result is policy.json, which
    `--set augment.policy=` takes, and a report.

    Example: `augft tune jobs/search.yaml --set search.trials=32`
    """
    from augft.config import load_job
    from augft.experiment.tune import tune as search

    search(load_job(job, overrides or ()), run_dir=run_dir, address=address, resume=resume, verbose=verbose)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(help="Of a run, a comparison or a search.")],
    baseline: Annotated[str | None, typer.Option(help="Another run, to hold this one against.")] = None,
) -> None:
    """Write the report of a run, a comparison or a search again.

    Example: `augft report runs/compare/runs/standard-seed-0`
    """
    from augft.report.comparison import COMPARISON, write_comparison_report
    from augft.report.page import write_report
    from augft.report.search import SEARCH, write_search_report
    from augft.storage import Storage

    storage = Storage(folder)
    kinds = {COMPARISON: write_comparison_report, SEARCH: write_search_report}
    writers = [write for name, write in kinds.items() if storage.exists(name)]
    if writers and baseline is not None:
        raise ConfigError(f"--baseline {baseline}: a comparison or a search has its own")
    typer.echo(writers[0](folder) if writers else write_report(folder, baseline))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option(parser=_here, help="The file to write: .safetensors, .onnx or .pt2.")],
    format: Annotated[
        str, typer.Option(help="safetensors, onnx, or torch: a program of torch.export.")
    ] = "safetensors",
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Write a run's model for others to load, with a card that says what it is.

    ONNX models and PyTorch programs have the preprocessing inside: bytes of pictures in, logits and probabilities out.
    Each is run and held against the model before it is written.

    Example: `augft export runs/photos --format onnx --out photos.onnx`
    """
    from augft.export.write import export as write_files

    for path in write_files(run, format, out, force=force):
        typer.echo(path)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Other pictures: folders, an archive, Parquet, packed.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the pictures; else test, or what there is.")] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also under 15 corruptions at 5 severities.")
    ] = False,
    sweeps: Annotated[bool, typer.Option("--sweeps", help="Also turned and shifted, step by step.")] = False,
    tta: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Also averaged over copies that a policy makes.")
    ] = None,
    tta_copies: Annotated[int, typer.Option(min=1, max=1024, help="With --tta: how many copies.")] = 8,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Save the fitted temperature: probabilities then are divided by it.")
    ] = False,
    against: Annotated[str | None, typer.Option(metavar="RUN", help="Another run, on the same pictures.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors; else threads of this process.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=_here, help="The JSON file to write, its page beside it; else in the run's evaluation/."),
    ] = None,
) -> None:
    """Examine a run's model: exact metrics, per class, calibration with a temperature, robustness; two runs compared.

    All counts are the same at any number of workers. Writes evaluation/NAME.json and evaluation/NAME.html.

    Example: `augft evaluate runs/quickstart --corruptions --sweeps`
    """
    from rich.console import Console

    from augft.assess.assess import Wanted, assess
    from augft.display import Display
    from augft.report.assessment import tables

    with Display() as display:
        found, written = assess(
            run,
            source=data,
            split=split,
            wanted=Wanted(corruptions, sweeps, tta, tta_copies, temperature, against),
            num_workers=workers,
            address=address,
            out=out,
            display=display,
        )
    console = Console()
    for part in tables(found):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
    typer.echo(written)


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    source: Annotated[
        str,
        typer.Argument(help="A folder of pictures, a picture, an archive, Parquet, a packed set; also a URI as s3://…"),
    ],
    out: Annotated[
        str, typer.Option(help="A file ending in .parquet, or else a folder of them; a path or a URI as s3://…")
    ],
    workers: Annotated[
        str, typer.Option(metavar="N|auto", help="Processes with the model; auto: one a GPU, else a CPU.")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Begin anew; write over predictions that are there.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let Ray and the workers print.")] = False,
) -> None:
    """Predict pictures, however many: a row each with class and probabilities, in a Parquet file.

    Labels are not needed. Pictures that cannot be used are left out, and listed in OUT.rejected.jsonl. If it is stopped
    or killed, the same command goes on.

    Example: `augft predict runs/photos new-photos/ --out predictions.parquet`
    """

    if workers != "auto" and not (workers.isdecimal() and int(workers) > 0):
        raise ConfigError(f"--workers {workers}: give a number from 1 on, or auto")
    from augft.prediction.predict import predict as predict_all

    made = predict_all(
        run,
        source,
        out,
        num_workers=None if workers == "auto" else int(workers),
        address=address,
        force=force,
        verbose=verbose,
    )
    listed = f", listed in {made.rejected}" if made.rejected else ""
    typer.echo(f"{made.out}: {made.num_rows:,} pictures predicted, {made.num_rejected:,} rejected{listed}")
    if not made.num_rows:
        raise RunError(f"{source}: no picture could be used; {made.rejected} says why")


@app.command()
def serve(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000,
    replicas: Annotated[str, typer.Option(metavar="N|auto", help="Processes with the model; auto: as needed.")] = "1",
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="Pictures that go through the model together.")] = 32,
    batch_wait_ms: Annotated[float, typer.Option(min=0, max=1000, help="For how long a batch waits for more.")] = 5.0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a picture file.")] = 16 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of a picture, by its header.")] = 32 * 2**20,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable with the token that clients must give.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
) -> None:
    """Serve a run's model over HTTP, on Ray Serve, until Ctrl-C; with a page to try it on.

    `POST /predict` takes a picture, as the body or as a file of a form, and gives classes with probabilities; `POST
    /augment` gives what the run's policy makes of it. `/healthz`, `/readyz` and `/metrics` are for machines.

    Example: `augft serve runs/photos --port 8000 --replicas 2`
    """

    if replicas != "auto" and not (replicas.isdecimal() and int(replicas) > 0):
        raise ConfigError(f"--replicas {replicas}: give a number from 1 on, or auto")
    from augft.serve.start import serve as serve_run

    serve_run(
        run,
        host=host,
        port=port,
        replicas=None if replicas == "auto" else int(replicas),
        max_batch=max_batch,
        batch_wait_s=batch_wait_ms / 1000,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        token_env=token_env,
        address=address,
    )


@app.command()
def submit(
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard, as http://head:8265."),
    ],
    job: JobFile = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="After --: more arguments of the verb.")
    ] = None,
    verb: Annotated[str, typer.Option(help="The command that the cluster shall run.")] = "train",
    overrides: Overrides = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Where on the cluster the run lives; else STORAGE_PATH/NAME of the job.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit, and leave the job to the cluster.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(parser=_here, help="The folder here for summary and report; else runs/NAME of the job."),
    ] = None,
) -> None:
    """Run a job on a Ray cluster: submit it, follow its log, fetch summary and report, end with its exit code.

    The job file goes along, with the policies and weights that it names on this machine. Data does not:
    `data.source`, `run.storage_path` and `--run-dir` are paths and URIs of the cluster. augft has to be installed
    there. Ctrl-C stops the job, which saves first; a second one leaves it running. Where the cluster wants a token,
    set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.

    Example: `augft submit jobs/cifar10.yaml --address http://head:8265 --set run.storage_path=/shared/runs`
    """
    from augft.config import load_job
    from augft.submit.client import submit as send_job

    commands = getattr(typer.main.get_command(app), "commands", {}).items()
    takes = {name: {each.name for each in command.params} for name, command in commands if name != "submit"}
    verbs = [name for name in takes if {"job", "address", "run_dir"} <= takes[name]]
    if verb not in verbs:
        raise ConfigError(f"--verb {verb}: give one of {', '.join(verbs)}")
    code = send_job(
        load_job(job, overrides or ()),
        address=address,
        verb=verb,
        arguments=arguments or (),
        run_dir=run_dir,
        resume=resume,
        wait=not no_wait,
        out=out,
    )
    sys.exit(code)  # the run has said itself how it ended


@app.command()
def doctor(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB.yaml]", help="A job file; without one, only the machines are checked.")
    ] = None,
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster, as auto or host:6379; else this machine.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many such jobs Ray Tune would run at a time; else no Tune.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Can this machine or cluster run a job: versions, resources, storage, clocks, who sits where, what would deadlock.

    With a job it also measures, for about a second each, how fast an actor augments and a worker trains. Each finding
    is a line; the exit code is 2 if one of them is a problem.

    Example: `augft doctor jobs/cifar10.yaml --address auto`
    """
    import json

    from augft.config import load_job
    from augft.display import Display
    from augft.doctor.examine import examine, show

    with Display() as display:
        checkup = examine(
            load_job(job, overrides or ()) if job or overrides else None,
            address=address,
            trials=trials,
            display=display,
        )
    if as_json:
        typer.echo(json.dumps(checkup.to_dict(), indent=2))
    else:
        show(checkup)
    raise typer.Exit(checkup.exit_code)


@config_app.command("show")
def config_show(job: JobFile = None, overrides: Overrides = None) -> None:
    """Print the resolved job as YAML.

    Example: `augft config show jobs/cifar10.yaml --set seed=1`
    """
    from augft.config import load_job

    typer.echo(load_job(job, overrides or ()).to_yaml(), nl=False)


@config_app.command("schema")
def config_schema(job: JobFile = None) -> None:
    """Print the JSON schema of job files; a job file, if given, is checked first.

    Example: `augft config schema > job.schema.json`
    """
    import json

    from augft.config import load_job
    from augft.schema import job_schema

    if job is not None:
        load_job(job)
    typer.echo(json.dumps(job_schema(), indent=2))


def _version(show: bool) -> None:
    if show:
        from augft import __version__

        typer.echo(f"augft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors of augft's own are one line on stderr and an exit code."""
    try:
        # Not standalone: else Typer answers to a wrong option with a box of its own, and to Ctrl-C with nothing.
        code = app(prog_name="augft", standalone_mode=False)
    except AugftError as error:
        typer.echo(f"augft: {error}", err=True)
        if isinstance(error, HeadLostError):
            # Ray would take leave of the head as this process ends, and wait two minutes for its answer.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except _USAGE_ERROR as error:
        if message := " ".join(error.format_message().split()):  # empty after a help that nobody asked for
            where = error.ctx.command_path if error.ctx else "augft"
            typer.echo(f"augft: {message.rstrip('.')}; see {where} --help", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        typer.echo("augft: interrupted; go on from the last checkpoint with --resume", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
