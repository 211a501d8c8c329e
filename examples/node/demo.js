// node demo.js 127.0.0.1:7710 [model]: lists the models, then sends random inputs to one and prints what comes back.
// STAGELINE_TOKEN or STAGELINE_TOKEN_FILE: the token that the gateway asks for. STAGELINE_CA_FILE: speak TLS.

'use strict';

const { readFileSync } = require('node:fs');
const { Client, StagelineError } = require('./stageline');

const ARRAYS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array };

/** Random values of an input's dtype, every dynamic size at its nominal value. */
function randomInput({ dtype, dims }, ranges) {
  const shape = dims.map((dim) => (typeof dim === 'number' ? dim : (ranges[dim] ? ranges[dim].nominal : 1)));
  const size = shape.reduce((product, one) => product * one, 1);
  const make = ARRAYS[dtype];
  if (!make) throw new StagelineError('invalid_input', `this demo makes no ${dtype}`);
  const data = make.from({ length: size }, () => (dtype === 'int64' ? BigInt(Math.floor(Math.random() * 100)) : Math.random()));
  return { dtype, shape, data };
}

/** What the environment says of tokens and TLS. */
function security({ STAGELINE_TOKEN: token, STAGELINE_TOKEN_FILE: file, STAGELINE_CA_FILE: ca }) {
  const text = (name) => readFileSync(name, 'utf8');
  return { token: token || (file ? text(file).trim() : ''), secure: ca ? { ca: text(ca) } : false };
}

async function main(address = '127.0.0.1:7710', wanted = undefined) {
  if (!/:\d+$/.test(address)) throw new StagelineError('usage', `${address} is no HOST:PORT: node demo.js 127.0.0.1:7710 [model]`);
  const client = await Client.connect(address, security(process.env));
  try {
    const models = await client.describe();
    for (const { name, status, reason } of models) console.log(`${name}: ${reason || status}`);
    const model = models.find(({ name, status }) => (wanted ? name === wanted : status === 'serving'));
    if (!model) throw new StagelineError('model_not_found', wanted ? `no model is called ${wanted}` : 'nothing is served');
    const { inputs: specs, dims = {} } = model.signature;
    const inputs = Object.fromEntries(specs.map((spec) => [spec.name, randomInput(spec, dims)]));
    const { outputs, timings } = await client.infer(model.name, inputs, { timings: true });
    for (const [name, { dtype, shape, data }] of Object.entries(outputs)) {
      console.log(`${name} ${dtype} (${shape.join(', ')}): ${Array.from(data.slice(0, 5), Number).join(', ')} ...`);
    }
    console.log(`answered in ${(timings.total_us / 1000).toFixed(1)} ms`);
  } finally {
    await client.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(`${error.code || 'error'}: ${error.message}`);
  process.exitCode = 1;
});
