"""A gateway process with tokens and TLS, asked by the clients, the command line and the Node client."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stageline import Client, Tls
from stageline.cli import run
from stageline.clienttokens import Limits, create_token, revoke_tokens
from stageline.errors import AuthenticationError

NODE = shutil.which("node") or shutil.which("nodejs")
FOLDER = Path(__file__).parents[3] / "examples/node"
X = {"x": np.ones((1, 4), np.float32)}

SCRIPT = """
const { readFileSync } = require('node:fs');
const { Client } = require('./stageline');
const [address, token, ca, other] = process.argv.slice(1);
const secure = { ca: readFileSync(ca) };
const x = { dtype: 'float32', shape: [1, 4], data: new Float32Array(4) };
const ask = async (address, options) => {
  const client = await Client.connect(address, options);
  try { return Array.from((await client.infer('m', { x })).outputs.y.data); } finally { await client.close(); }
};
const code = (promise) => promise.then((found) => found, (error) => error.code);
(async () => [
  await code(ask(address, { token, secure })),
  await code(ask(address.replace('tls://127.0.0.1', 'localhost'), { token, secure })),
  await code(ask(address, { secure })),
  await code(ask(address, { token: 'slc_wrong', secure })),
  await code(ask(address, { token, secure: { ca: readFileSync(other) } })),
])().then((value) => console.log(JSON.stringify(value)), (error) => { console.error(error); process.exitCode = 1; });
"""


@pytest.fixture
def tokens(tmp_path):
    return tmp_path / "tokens.json"


@pytest.fixture
def secured(cluster, start_gateway, certificates, tokens, eventually):
    """A gateway with TLS and the token "camera", which may have two requests unanswered; and that token."""
    token = create_token(tokens, "camera", Limits(in_flight=2), now=0.0)[1]
    cluster.add("a")
    cluster.publish([["a"]])
    gateway = start_gateway(tokens_file=tokens, tls_cert=certificates.gateway, tls_key=certificates.gateway_key)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "the gateway is ready")
    return gateway, token


def test_a_client_and_the_command_line_are_served(secured, certificates, tokens, cluster, tmp_path, eventually, capsys):
    gateway, token = secured
    assert gateway.http.startswith("https://")
    assert cluster.hellos[-1].client_address == gateway.client and gateway.client.startswith("tls://127.0.0.1:")
    np.save(tmp_path / "x.npy", X["x"])
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    ask = ["infer", "m", "--input", f"x={tmp_path / 'x.npy'}", "--gateway", gateway.client, "--json"]
    trust = ["--ca-file", str(certificates.ca)]
    assert run([*ask, *trust, "--token-file", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["top"][0]["value"] == 2.0
    assert run([*ask, *trust]) == 1
    assert "asks for a token" in capsys.readouterr().err

    with Client(gateway.client, token=token, tls=Tls(certificates.ca)) as client:
        many = list(client.infer_many("m", [X] * 32, concurrency=8))
        assert all((one.outputs["y"] == 2).all() for one in many), "more than are allowed at once, but all in the end"
    cluster.set_mode("a", "hold")
    with Client(gateway.client, token=token, tls=Tls(certificates.ca), retry=None) as client:
        waiting = client.submit("m", X)
        eventually(lambda: gateway.metric("stageline_gateway_in_flight") == 1, "it is in flight")
        revoke_tokens(tokens, "camera")
        with pytest.raises(AuthenticationError, match="revoked"):
            waiting.result(20)
    eventually(lambda: gateway.metric("stageline_gateway_in_flight") == 0, "nothing is left of it")
    assert gateway.metric("stageline_gateway_clients_refused_total") == 1
    assert "refused a client" in gateway.log.read_text() and token not in gateway.log.read_text()


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_node_client_is_served(secured, certificates):
    gateway, token = secured
    arguments = [gateway.client, token, certificates.ca, certificates.other]
    done = subprocess.run(
        [NODE, "-e", SCRIPT, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1.0] * 4, [1.0] * 4, *["authentication"] * 3]
