// A client of Stageline's native protocol in plain Node (18 or newer, no packages), written from docs/protocol.md.
//
//   const client = await Client.connect('127.0.0.1:7710');
//   const x = { dtype: 'float32', shape: [1, 2], data: new Float32Array([1, 2]) };
//   const { outputs } = await client.infer('model', { x }, { deadlineMs: 500 });
//   await client.close();

'use strict';

const net = require('node:net');
const tls = require('node:tls');
const { randomUUID } = require('node:crypto');
const msgpack = require('./msgpack');

const VERSION = 1;
const PREFIX_BYTES = 8;
const MAX_HEADER_BYTES = 4 << 20; // a Described may be that large
const MISSED_PINGS = 3;
const GRACE_MS = 10000; // the gateway is the one to say that a deadline passed

// dtype -> [bytes per element, typed array]. Halves come as raw 16-bit patterns.
const DTYPES = {
  bool: [1, Uint8Array], uint8: [1, Uint8Array], int8: [1, Int8Array], int16: [2, Int16Array], int32: [4, Int32Array],
  int64: [8, BigInt64Array], float16: [2, Uint16Array], bfloat16: [2, Uint16Array], float32: [4, Float32Array],
  float64: [8, Float64Array],
};

class StagelineError extends Error {
  constructor(code, message, { retryAfterMs, node } = {}) {
    super(message);
    this.name = 'StagelineError';
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.node = node;
  }

  get retryable() {
    return ['rejected', 'unavailable', 'connection_lost'].includes(this.code);
  }
}

function tensorBytes(spec) {
  const dtype = DTYPES[spec.dtype];
  if (!dtype) throw new StagelineError('remote_protocol', `tensor ${spec.name} has the unknown dtype ${spec.dtype}`);
  return spec.shape.reduce((product, size) => product * size, dtype[0]);
}

function packInputs(inputs) {
  const specs = [];
  const parts = [];
  for (const [name, { dtype, shape, data }] of Object.entries(inputs)) {
    if (!DTYPES[dtype]) throw new StagelineError('invalid_input', `input ${name} has the unknown dtype ${dtype}`);
    const spec = { name, dtype, shape };
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length !== tensorBytes(spec)) {
      const text = `${dtype} of shape (${shape}) needs ${tensorBytes(spec)} bytes, got ${bytes.length}`;
      throw new StagelineError('invalid_input', `input ${name}: ${text}`);
    }
    specs.push(spec);
    parts.push(bytes);
  }
  return [specs, parts];
}

function unpackOutputs(specs, body) {
  const outputs = {};
  let offset = 0;
  for (const spec of specs) {
    const size = tensorBytes(spec);
    if (offset + size > body.length) throw new StagelineError('remote_protocol', 'an answer is shorter than its tensors');
    const own = new Uint8Array(body.subarray(offset, offset + size)); // a copy, so that it is aligned
    outputs[spec.name] = { dtype: spec.dtype, shape: spec.shape, data: new DTYPES[spec.dtype][1](own.buffer) };
    offset += size;
  }
  if (offset !== body.length) throw new StagelineError('remote_protocol', 'an answer is longer than its tensors');
  return outputs;
}

/** A socket to "host:port"; with TLS, the certificate must be good for that host. */
function open(address, secure) {
  const place = address.replace(/^(tcp|tls):\/\//, '');
  const colon = place.lastIndexOf(':');
  const where = { host: place.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(place.slice(colon + 1)) };
  if (!secure && !address.startsWith('tls://')) return net.connect({ ...where, noDelay: true });
  const servername = net.isIP(where.host) ? undefined : where.host;
  const socket = tls.connect({ ...where, servername, minVersion: 'TLSv1.2', ...(secure === true ? {} : secure || {}) });
  socket.setNoDelay(true);
  return socket;
}

/** The code for what ended a connection: one end does not believe the other, or it broke. */
function reason({ code = '' }) {
  return /^(ERR_SSL|ERR_TLS|CERT_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO)/.test(code) ? 'authentication' : 'connection_lost';
}

class Client {
  /**
   * Connects to "host:port" and greets. `token` is for gateways that ask for one. `secure` speaks TLS, as does an address
   * like "tls://host:port": true, or options of tls.connect such as { ca } ({ cert, key }: if the gateway asks for ours).
   * Rejects with a StagelineError of code connection_lost or authentication.
   */
  static async connect(address, { name = 'node', user = '', token = '', secure = false, timeoutMs = 5000 } = {}) {
    const client = new Client(address, { name, user, token }, secure);
    const late = new StagelineError('connection_lost', `${address} did not greet within ${timeoutMs} ms`);
    const timer = setTimeout(() => client._end(late), timeoutMs);
    try {
      await client._greeted;
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  constructor(address, identity, secure = false) {
    this._address = address;
    this._identity = identity;
    this._pending = new Map(); // id -> {resolve, reject, timer}
    this._lastId = 0;
    this._chunks = [];
    this._received = 0;
    this._needed = PREFIX_BYTES;
    this._lengths = null;
    this._error = null;
    this._heard = this._spoke = Date.now();
    this._greeted = new Promise((resolve, reject) => { this._greet = { resolve, reject }; });
    this._socket = open(address, secure);
    this._closed = new Promise((resolve) => this._socket.once('close', resolve));
    this._socket.on('data', (chunk) => this._onData(chunk));
    this._socket.on('error', (error) => this._end(new StagelineError(reason(error), `${address}: ${error.message}`)));
    this._socket.on('end', () => this._end(new StagelineError('connection_lost', `${address} closed the connection`)));
    this._socket.on('close', () => this._end(new StagelineError('connection_lost', `${address} closed the connection`)));
  }

  /**
   * Runs a model. `inputs` maps names to {dtype, shape, data (typed array)}; dimension 0 is the batch. Resolves to
   * {outputs, batch, attempts, timings}. `signal` is an AbortSignal. A retry after a broken connection should carry
   * the idempotencyKey of the first try.
   */
  async infer(model, inputs, { deadlineMs, priority, idempotencyKey, traceId, signal, timings = false } = {}) {
    const [specs, parts] = packInputs(inputs);
    const size = parts.reduce((sum, part) => sum + part.length, 0);
    const limit = this.server ? this.server.limits.max_request_bytes : Infinity;
    if (size > limit) throw new StagelineError('invalid_input', `the request has ${size} bytes, the gateway takes ${limit}`);
    const message = { t: 'Infer', model, inputs: specs };
    if (deadlineMs !== undefined) message.deadline_ms = deadlineMs;
    if (priority) message.priority = priority;
    if (idempotencyKey) message.idempotency_key = idempotencyKey;
    if (traceId) message.trace_id = traceId;
    if (timings) message.want_timings = true;
    const patience = (deadlineMs || this.server.limits.default_deadline_ms || 60000) + GRACE_MS;
    const { message: answer, body } = await this._ask(message, parts, patience, signal);
    const { batch = 1, attempts = 1, timings: times = null } = answer;
    return { outputs: unpackOutputs(answer.outputs, body), batch, attempts, timings: times };
  }

  /** The gateway's models, or only one, as in `Described`. */
  async describe(model, { timeoutMs = 10000 } = {}) {
    const { message } = await this._ask(model === undefined ? { t: 'Describe' } : { t: 'Describe', model }, [], timeoutMs);
    return message.models || [];
  }

  /** Closes; what is unanswered is rejected. */
  async close() {
    this._end(new StagelineError('connection_lost', 'the client was closed'));
    await this._closed;
  }

  // --- own ---------------------------------------------------------------------------------------------------------

  _ask(message, parts, timeoutMs, signal) {
    if (this._error) return Promise.reject(this._error);
    if (signal && signal.aborted) return Promise.reject(new StagelineError('cancelled', 'cancelled before it was sent'));
    const id = ++this._lastId;
    return new Promise((resolve, reject) => {
      const cancel = (code, text) => {
        if (!this._pending.has(id)) return;
        this._write({ t: 'Cancel', id });
        this._settle(id, (one) => one.reject(new StagelineError(code, text)));
      };
      const timer = setTimeout(() => cancel('deadline', `no answer within ${timeoutMs} ms`), timeoutMs);
      const aborted = () => cancel('cancelled', 'the request was cancelled');
      if (signal) signal.addEventListener('abort', aborted, { once: true });
      const done = () => {
        clearTimeout(timer);
        if (signal) signal.removeEventListener('abort', aborted);
      };
      this._pending.set(id, { resolve, reject, done });
      this._write({ ...message, id }, parts);
    });
  }

  _settle(id, how) {
    const one = this._pending.get(id);
    if (!one) return;
    this._pending.delete(id);
    one.done();
    how(one);
  }

  _write(message, parts = []) {
    const header = msgpack.encode(message);
    const prefix = Buffer.alloc(PREFIX_BYTES);
    prefix.writeUInt32BE(header.length, 0);
    prefix.writeUInt32BE(parts.reduce((sum, part) => sum + part.length, 0), 4);
    this._socket.cork();
    for (const piece of [prefix, header, ...parts]) this._socket.write(piece);
    this._socket.uncork();
    this._spoke = Date.now();
  }

  _onData(chunk) {
    this._heard = Date.now();
    this._chunks.push(chunk);
    this._received += chunk.length;
    try {
      while (!this._error && this._received >= this._needed) this._step();
    } catch (error) {
      this._end(error instanceof StagelineError ? error : new StagelineError('remote_protocol', error.message));
    }
  }

  /** One part of a frame is complete: the lengths, or header and body. */
  _step() {
    const all = this._chunks.length === 1 ? this._chunks[0] : Buffer.concat(this._chunks);
    const part = all.subarray(0, this._needed);
    this._chunks = all.length > this._needed ? [all.subarray(this._needed)] : [];
    this._received -= this._needed;
    if (this._lengths === null) {
      this._lengths = [part.readUInt32BE(0), part.readUInt32BE(4)];
      if (this._lengths[0] === 0 || this._lengths[0] > MAX_HEADER_BYTES) {
        throw new StagelineError('remote_protocol', `a header of ${this._lengths[0]} bytes: is this a Stageline gateway?`);
      }
      this._needed = this._lengths[0] + this._lengths[1];
      return;
    }
    const [headerBytes] = this._lengths;
    this._lengths = null;
    this._needed = PREFIX_BYTES;
    this._onMessage(msgpack.decode(part.subarray(0, headerBytes)), part.subarray(headerBytes));
  }

  _onMessage(message, body) {
    if (message.t === 'Error') {
      const error = new StagelineError(message.code, message.message, { retryAfterMs: message.retry_after_ms, node: message.node });
      if (message.id === 0) this._end(error);
      else this._settle(message.id, (one) => one.reject(error));
    } else if (message.t === 'ServerHello') {
      this._onHello(message);
    } else if (message.t === 'Result' || message.t === 'Described') {
      this._settle(message.id, (one) => one.resolve({ message, body }));
    } // Accepted, Pong, and whatever a newer server may say
  }

  _onHello(hello) {
    if (!hello.versions.includes(VERSION)) {
      throw new StagelineError('remote_protocol', `the gateway speaks protocol ${hello.versions}, this client ${VERSION}`);
    }
    if (hello.auth_required && !this._identity.token) {
      throw new StagelineError('authentication', `the gateway ${hello.gateway} asks for a token`);
    }
    this.server = hello;
    const { name, user, token } = this._identity;
    this._write({ t: 'ClientHello', version: VERSION, client: name, user, token });
    if (hello.keepalive_s) {
      const intervalMs = hello.keepalive_s * 1000;
      this._alive = setInterval(() => this._keepAlive(intervalMs), intervalMs / 4);
      this._alive.unref();
    }
    this._greet.resolve();
  }

  _keepAlive(intervalMs) {
    const now = Date.now();
    if (now - this._heard >= MISSED_PINGS * intervalMs) {
      this._end(new StagelineError('connection_lost', `${this._address} has said nothing for ${now - this._heard} ms`));
    } else if (now - this._spoke >= intervalMs || now - this._heard >= intervalMs) {
      this._write({ t: 'Ping' });
    }
  }

  _end(error) {
    if (this._error) return;
    this._error = error;
    clearInterval(this._alive);
    this._greet.reject(error);
    this._greeted.catch(() => {}); // nobody may be waiting for it any more
    for (const id of [...this._pending.keys()]) this._settle(id, (one) => one.reject(error));
    this._socket.destroy();
  }
}

/**
 * A request that survives broken connections: tries again with one idempotency key, until the deadline. `connect` makes
 * a client for each try, e.g. to one gateway after the other.
 */
async function inferWithRetry(connect, model, inputs, options = {}) {
  const key = options.idempotencyKey || randomUUID();
  const until = Date.now() + (options.deadlineMs || 60000);
  for (let pause = 50; ; pause = Math.min(pause * 2, 2000)) {
    let client;
    try {
      client = await connect();
      const deadlineMs = Math.max(1, until - Date.now());
      return await client.infer(model, inputs, { ...options, deadlineMs, idempotencyKey: key });
    } catch (error) {
      const wait = Math.max(error.retryAfterMs || 0, pause * (1 - Math.random() / 2));
      if (!error.retryable || Date.now() + wait >= until) throw error;
      await new Promise((resolve) => { setTimeout(resolve, wait); });
    } finally {
      if (client) await client.close();
    }
  }
}

module.exports = { Client, StagelineError, inferWithRetry };
