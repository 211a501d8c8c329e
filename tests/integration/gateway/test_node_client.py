"""The client in examples/node, which was written from docs/protocol.md alone, against a real gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node") or shutil.which("nodejs")
FOLDER = Path(__file__).parents[3] / "examples/node"
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

SCRIPT = """
const { Client, inferWithRetry } = require('./stageline');
const [address, width] = [process.argv[1], Number(process.argv[2])];
const item = (value, rows = 1) => ({
  x: { dtype: 'float32', shape: [rows, width], data: new Float32Array(rows * width).fill(value) } });
const code = (promise) => promise.then(() => 'result', (error) => error.code);
(async () => {
%s
})().then((value) => console.log(JSON.stringify(value)), (error) => { console.error(error); process.exitCode = 1; });
"""


def node(body, address, width=4):
    done = subprocess.run(
        [NODE, "-e", SCRIPT % body, address, str(width)],
        cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answers_errors_and_models(serving):
    found = node(
        """
        const client = await Client.connect(address, { name: 'test', user: 'u' });
        const out = { limits: client.server.limits, models: await client.describe() };
        const how = { priority: -1, deadlineMs: 5000, traceId: 't', timings: true };
        const one = await client.infer('m', item(3, 2), how);
        out.shape = one.outputs.y.shape;
        out.values = Array.from(one.outputs.y.data);
        out.stages = one.timings.stages.length;
        out.codes = [
          await code(client.infer('nope', item(1))),
          await code(client.infer('m', { z: item(1).x })),
          await code(client.infer('m', { x: { dtype: 'float32', shape: [1, 5], data: new Float32Array(5) } })),
          await code(client.infer('m', { x: { dtype: 'float32', shape: [1, 5], data: new Float32Array(4) } })),
          await code(client.infer('m', item(1), { deadlineMs: -1 })),
          await code(client.infer('m', item(NaN))),
        ];
        const many = await Promise.all(Array.from({ length: 200 }, (_, i) => client.infer('m', item(i))));
        out.many = many.every(({ outputs }, i) => outputs.y.data.every((v) => v === i + 2));
        await client.close();
        out.closed = await code(client.infer('m', item(1)));
        return out;
        """,
        serving.client,
    )
    assert found["limits"]["max_in_flight"] == 4096
    assert [model["name"] for model in found["models"]] == ["m"]
    assert found["models"][0]["signature"]["inputs"][0]["dims"] == ["batch", 4]
    assert (found["shape"], found["values"], found["stages"]) == ([2, 4], [5.0] * 8, 2)
    assert found["codes"] == ["model_not_found", *["invalid_input"] * 3, "deadline", "result"]
    assert (found["many"], found["closed"]) == (True, "connection_lost")


def test_large_tensors(cluster, start_gateway, eventually):
    cluster.add("a")
    cluster.publish([["a"]], width=1 << 20)
    gateway = start_gateway()
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready")
    assert node(
        """
        const client = await Client.connect(address);
        const answers = await Promise.all([1, 2, 3, 4].map((i) => client.infer('m', item(i))));
        await client.close();
        return answers.map(({ outputs }) => [outputs.y.shape[1], outputs.y.data[0], outputs.y.data[width - 1]]);
        """,
        gateway.client,
        1 << 20,
    ) == [[1 << 20, i + 1, i + 1] for i in (1, 2, 3, 4)]


def test_cancelling_and_deadlines(serving, cluster, eventually):
    cluster.set_mode("a", "hold")
    assert node(
        """
        const client = await Client.connect(address);
        const abort = new AbortController();
        const cancelled = code(client.infer('m', item(1), { signal: abort.signal }));
        const late = code(client.infer('m', item(1), { deadlineMs: 100 }));
        await late;
        abort.abort();
        const codes = [await cancelled, await late];
        await client.close();
        return codes;
        """,
        serving.client,
    ) == ["cancelled", "deadline"]
    eventually(lambda: serving.metric("stageline_gateway_in_flight") == 0, "recalled")


def test_a_retry_on_a_new_connection_computes_once(serving, cluster):
    cluster.set_mode("a", "run")
    found = node(
        """
        let tries = 0;
        const connect = async () => {
          const client = await Client.connect(address);
          tries += 1;
          if (tries === 1) setTimeout(() => client._socket.destroy(), 0);
          return client;
        };
        const { outputs } = await inferWithRetry(connect, 'm', item(4), { idempotencyKey: 'once', deadlineMs: 20000 });
        const again = await inferWithRetry(connect, 'm', item(4), { idempotencyKey: 'once', deadlineMs: 20000 });
        const other = await code(inferWithRetry(connect, 'm', item(5), { idempotencyKey: 'once' }));
        return [Array.from(outputs.y.data), Array.from(again.outputs.y.data), other];
        """,
        serving.client,
    )
    assert found == [[6.0] * 4, [6.0] * 4, "invalid_input"]
    assert sum(len(batch.ids) for batch in cluster.executors["a"].batches) == 1


def test_no_gateway(serving):
    serving.process.kill()
    serving.process.wait(20)
    assert node("return code(Client.connect(address));", serving.client) == "connection_lost"


def test_the_demo(serving):
    done = subprocess.run(
        [NODE, "demo.js", serving.client], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m: serving\ny float32 (1, 4): ")
    assert "answered in " in done.stdout
