"""A job submitted from a host that is no part of the cluster: its workers on two hosts, its actors on the third."""

from __future__ import annotations

from pathlib import Path

from augft.run import Run
from tests.cluster.driving import APART, AUGFT, JOB_FILE, PATIENCE_S, SMALL, assert_same
from tests.cluster.ray_hosts import RayHosts


def test_a_submitted_job_ends_as_a_local_one(cluster: RayHosts, undisturbed: Run, tmp_path: Path) -> None:
    cluster.add_host("laptop")
    runs, fetched = cluster.shared / "runs", tmp_path / "fetched"
    where = ["--address=http://head:8265", f"--set=run.storage_path={runs}", "--set=name=submitted", f"--out={fetched}"]
    said = cluster.run("laptop", *AUGFT, "submit", str(JOB_FILE), *where, *SMALL, *APART, timeout_s=PATIENCE_S)
    run = Run(str(runs / "submitted"))
    assert_same(run, undisturbed)
    assert sorted(run.summary["workers"]) == sorted(cluster.hosts[name].address for name in ("node1", "node2"))
    assert "trains with 2 workers" in said, said
    for name in ("summary.json", "report.html"):
        assert (fetched / name).read_bytes() == run.storage.read(name)
