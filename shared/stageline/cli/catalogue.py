"""Which catalogue a command means: a running coordinator's, or the data directory itself while none runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stageline.catalogue import Catalogue, ClusterCatalogue
from stageline.cli.options import Where, chosen_data_dir, connect
from stageline.cli.output import note
from stageline.errors import NoClusterError


@contextmanager
def open_catalogue(where: Where) -> Iterator[Catalogue]:
    """The catalogue of the cluster that is meant; of the data directory if no cluster runs and none was named."""
    try:
        location = where()
    except NoClusterError:
        if where.by_address:
            raise
        directory = chosen_data_dir(where.data_dir)
    else:
        with connect(location) as admin:
            yield ClusterCatalogue(admin)
        return
    from stageline.cli.offline import open_directory

    note(f"no cluster runs: working on {directory} itself")
    with open_directory(directory) as catalogue:
        yield catalogue
