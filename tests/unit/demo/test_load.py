"""A stream that breaks off must not look like one that has ended."""

from __future__ import annotations

import numpy as np
import pytest

from stageline.demo.load import Stream
from stageline.errors import ClusterError


def test_a_stream_that_finds_no_gateway_says_so() -> None:
    stream = Stream("m", np.zeros((1, 1), dtype=np.float32), "127.0.0.1:9", concurrency=1, count=1).start()
    with pytest.raises(ClusterError, match="the stream of m requests broke off"):
        stream.wait(60)
