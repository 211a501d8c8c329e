from __future__ import annotations

import numpy as np


def item(value, rows=1):
    return {"x": np.full((rows, 4), value, np.float32)}


def test_answers(cluster, start_gateway, eventually):
    from stageline import Client

    cluster.add("a", "b")
    cluster.publish([["a"], ["b"]])
    gateway = start_gateway()
    with Client(gateway.client) as client:
        eventually(lambda: "m" in client.describe(), "plan")
        r = client.infer("m", item(3))
        assert r.outputs["y"].tolist() == [[5.0] * 4]
