"""`models set` and `plan set` without a cluster: what cannot be is told first, in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stageline.blobs import BlobStore
from stageline.catalogue import ClusterCatalogue
from stageline.cli import run
from stageline.cli.options import EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.cli.wishing import describe
from stageline.errors import ModelNotFoundError
from stageline.manifest import BlockSpec, DimRange, ModelManifest, Tolerance, ValueSpec, canonical_json
from stageline.messages import ModelRow
from stageline.wishes import Wishes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--priority", "-1"], "priority: must be 0 or between"),
        (["--priority", "nan"], "priority: must be 0 or between"),
        (["--rate", "inf"], "rate_per_s: must be between"),
        (["--rate", "many"], "many"),
        (["--max-replicas", "0"], "max_replicas: must be between"),
        (["--source", ""], "source: must be the name of a worker"),
        (["--forbid", "a", "--require", "a"], "forbidden: a is required, too"),
        (["--source", "a", "--unset", "source"], "source cannot be set and unset at once"),
        (["--unset", "color"], "color"),
        (["--tolerance", "0"], "--tolerance must be above 0 and at most 1, not 0"),
        (["--tolerance", "nan"], "--tolerance must be above 0"),
        ([], "nothing to set"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "set", "net", *arguments]) == EXIT_USAGE
    shown = capsys.readouterr()
    assert expected in shown.err and shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1


def test_they_need_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "set", "net", "--priority", "2"]) == EXIT_NO_CLUSTER
    assert run(["plan", "set", "--objective", "latency"]) == EXIT_NO_CLUSTER
    assert run(["plan", "set", "--objective", "cheap"]) == EXIT_USAGE
    assert run(["plan", "set"]) == EXIT_USAGE
    capsys.readouterr()


def test_another_tolerance_uploads_a_manifest_and_no_weights(tmp_path: Path) -> None:
    value = ValueSpec("x", "float32", ("batch", 2))
    block = BlockSpec("b", "b" * 64, 2, (), (value,), (value,), 1, 1)
    old = ModelManifest("net", (value,), (value,), (block,), {"batch": DimRange(1, 8, 1)})
    kept = BlobStore(tmp_path)

    class Admin:
        registered = kept.put_bytes(canonical_json(old.to_json()))

        def models(self) -> tuple[ModelRow, ...]:
            return (ModelRow(name="net", manifest=self.registered, status="serving"),)

        def download(self, sha: str) -> bytes:
            return kept.read(sha)

        def upload(self, store: BlobStore, shas: list[str], progress: object) -> int:
            assert shas[:-1] == ["b" * 64], "which is asked for, and there"
            kept.put_bytes(store.read(shas[-1]))
            return 0

        def put_model(self, address: str) -> None:
            self.registered = address

    catalogue = ClusterCatalogue(Admin())  # type: ignore[arg-type]
    catalogue.declare("net", Tolerance.relative(0.01))
    now = catalogue.manifest(catalogue.row("net"))
    assert (now.tolerance.rtol, replace(now, tolerance=old.tolerance)) == (0.01, old)
    with pytest.raises(ModelNotFoundError):
        catalogue.declare("other", Tolerance())


def test_a_relative_tolerance_never_has_a_larger_floor_than_the_default() -> None:
    assert Tolerance.relative(1e-4) == Tolerance()
    assert Tolerance.relative(0.01) == Tolerance(0.01, 1e-5)
    assert Tolerance.relative(1e-6) == Tolerance(1e-6, 1e-7)


def test_wishes_are_told_in_the_words_of_the_options() -> None:
    assert describe(Wishes()) == ""
    assert describe(Wishes(priority=0.0, forbidden=("a", "b"))) == "priority 0, forbid a b"
    said = Wishes(priority=2.5, rate_per_s=30.0, max_replicas=2, source="a", required=("b",))
    assert describe(said) == "priority 2.5, rate 30, max-replicas 2, source a, require b"
