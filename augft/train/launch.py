"""Job → Ray Train → a run directory that explains itself."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from augft.config import Job
from augft.display import Display
from augft.errors import StorageError
from augft.model import build_model
from augft.model.stages import stages, trainable_stages
from augft.prepare import Prepared, prepare
from augft.report.page import write_report
from augft.report.text import comparison
from augft.run import Run, check_startable, is_done, write_summary
from augft.sealed import Sealed
from augft.storage import Storage, extend_uri
from augft.train.attend import Attendance, TellFailures
from augft.train.contact import Listener
from augft.train.describe import describe_run
from augft.train.entry import train_loop
from augft.train.incidents import Incidents
from augft.train.lease import Lease
from augft.train.loop import Assignment
from augft.train.nodes import cluster_nodes, is_autoscaled
from augft.train.placement import Placement, cluster_placement, local_placement
from augft.train.session import ray_session
from augft.train.trackers import check_trackers, follow
from augft.train.visibility import Files, check_visible, resolved_weights, weights_file
from augft.train.worker import Post

_RESIZE_S = 30.0
"""Ray looks for more workers' room no more often: each change of size starts the workers anew."""
_RAY_FOLDER = ".ray"


def run_uri(job: Job, run_dir: str | None = None) -> str:
    """Where a job's run lives: `run_dir`, else `<storage_path>/<name>`."""
    return Storage(run_dir or extend_uri(job.run.storage_path, f"/{job.name}")).uri


def train(
    job: Job,
    *,
    run_dir: str | None = None,
    address: str | None = None,
    resume: bool = False,
    verbose: bool = False,
    display: Display | None = None,
    trials: int | None = None,
) -> Run:
    """Train a job to its end and return its run. With `run.baseline`, that run follows, beside this one.

    The first SIGINT or SIGTERM while it trains has it finish the step and save; the second ends it at once.

    Args:
        job: what to do.
        run_dir: where the run lives; None: `<storage_path>/<name>`.
        address: of a Ray cluster; None: this machine.
        resume: go on with the run that is there.
        verbose: let through what Ray and the workers print.
        display: where progress is shown; None: on stderr.
        trials: how many such runs share the cluster at a time; None: it is this one's alone.

    Raises:
        InputError: job, data, weights, run directory or cluster are wrong; nothing was begun.
        RunError: the run began and failed.
        Stopped: it was asked to stop, and has saved.
    """
    began_at = time.time()
    uri = run_uri(job, run_dir)
    jobs = {uri: job}
    if job.run.baseline is not None:
        jobs[extend_uri(uri, "-baseline")] = _baseline(job)
    local = local_placement(job.scale) if address is None else None
    check_trackers(job.run.trackers)
    with display or Display() as shown, ExitStack() as stack:
        for where, each in jobs.items():
            check_startable(where, each, resume)
        if address is not None:
            shown.say(f"connecting to Ray at {address}")
            stack.enter_context(ray_session(address, num_cpus=0, verbose=verbose))
        # On a cluster, where all nodes see it; here, in this machine's cache.
        packed_root = None if address is None else extend_uri(job.run.storage_path, "/.packed")
        prepared = {where: prepare(each, shown, packed_root) for where, each in jobs.items()}
        check_model(job, prepared[uri])
        leases = {where: stack.enter_context(Lease(Storage(where), shown.say)) for where in jobs}
        for where, each in jobs.items():
            check_startable(where, each, resume)  # again: another may have begun it meanwhile
        if local is not None:
            shown.say("starting Ray on this machine")
            stack.enter_context(ray_session(None, num_cpus=local.num_cpus, verbose=verbose))
        placement = local or _place(job, prepared[uri], list(jobs), trials)
        if placement.note:
            shown.say(placement.note)
        for where, each in jobs.items():
            if is_done(where, each):
                shown.say(f"{where}: finished before")
                with follow(each.run.trackers, Run(where), shown.say) as followed:
                    followed.finish()  # what a tracker that did not answer has not got
                continue
            shown.say(f"{where}: {prepared[where].policy}")
            _train(each, prepared[where], where, leases[where], placement, began_at, shown)
            began_at = time.time()
        baseline = extend_uri(uri, "-baseline") if len(jobs) > 1 else None
        page = write_report(uri, baseline)
        if baseline is not None:
            shown.console.print(comparison(Run(uri).summary, Run(baseline).summary))
        shown.say(f"report: {page}")
    return Run(uri)


def check_model(job: Job, prepared: Prepared) -> None:
    """Build the model once here, so that what is wrong with it is said before anything begins."""
    manifest = prepared.dataset.manifest
    built = build_model(
        job.model.name,
        num_classes=len(manifest.classes),
        weights=job.model.weights,
        stem=job.model.stem,
        classes=manifest.classes,
        seed=job.seed,
    )
    trainable_stages(job.model.freeze, list(stages(built.module)), 0, 1)


def _place(job: Job, prepared: Prepared, run_uris: list[str], trials: int | None) -> Placement:
    """Seats on the cluster's nodes, each of which sees the run's files.

    Raises:
        ResourceError: the job does not fit, or a node does not see a file.
    """
    nodes = cluster_nodes()
    placement = cluster_placement(job.scale, nodes, trials=trials, autoscaled=is_autoscaled(nodes))
    for uri in run_uris:
        files = Files(
            packed=str(prepared.dataset.path),
            digest=prepared.dataset.manifest.digest,
            folder=uri,
            weights=weights_file(job.model.weights),
        )
        check_visible(files, nodes)
    return placement


def _baseline(job: Job) -> Job:
    """The same job with the baseline's policy: as many steps of as many items."""
    plain = job.model_copy(
        update={
            "name": f"{job.name}-baseline",
            "augment": job.augment.model_copy(update={"policy": job.run.baseline}),
            "run": job.run.model_copy(update={"baseline": None}),
        }
    )
    return Job.model_validate(plain.to_dict())


def _train(
    job: Job, prepared: Prepared, uri: str, lease: Lease, placement: Placement, began_at: float, shown: Display
) -> None:
    storage = Storage(uri, retry_s=job.run.storage_retry_s, on_retry=shown.say)
    describe_run(storage, job, prepared, hardware=ray.cluster_resources(), placement=vars(placement))
    assignment = Assignment(
        job=resolved_weights(job),
        policy=prepared.policy,
        packed=str(prepared.dataset.path),
        run_uri=uri,
        threads=placement.cpus_per_worker,
        began_at=began_at,
    )
    incidents = Incidents(Storage(uri))
    with Listener() as listener, follow(job.run.trackers, Run(uri), shown.say) as followed:
        post = Post(assignment, placement.min_actors, placement.max_actors, placement.actor_labels, listener.actor)
        trainer = _trainer(post, placement)
        shown.say("starting the training workers")
        attendance = Attendance(listener, incidents, lease, job.run.hang_timeout_s, shown, followed.log)
        try:
            summary = attendance.attend(trainer, uri)
        finally:
            # Checkpoints are ours; what Ray writes of its own is of no use after the run.
            with suppress(StorageError):
                Storage(uri).remove(_RAY_FOLDER)
        summary["wall_s"] = time.time() - began_at
        write_summary(storage, summary)
        write_report(uri)
        followed.finish()


def _trainer(post: Post, placement: Placement) -> TorchTrainer:
    job = post.assignment.job
    resources = {"CPU": placement.cpus_per_worker, **({"GPU": 1} if placement.use_gpu else {})}
    return TorchTrainer(
        train_loop,
        train_loop_config=Sealed.of(post),
        scaling_config=ScalingConfig(
            num_workers=job.scale.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=resources,
            placement_strategy=placement.strategy,
            label_selector=placement.worker_labels or None,
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=RunConfig(
            name=_RAY_FOLDER,
            storage_path=post.assignment.run_uri,
            failure_config=FailureConfig(max_failures=job.run.max_failures),
            callbacks=[TellFailures(post.listener)],
        ),
    )
