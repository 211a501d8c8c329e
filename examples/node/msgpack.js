// The part of msgpack that the protocol uses: nil, bool, integers, float64, strings, bytes, arrays and maps with string
// keys (https://github.com/msgpack/msgpack/blob/master/spec.md). Ext types are refused.

'use strict';

function encode(value) {
  const pieces = [];
  write(value, pieces);
  return Buffer.concat(pieces);
}

function write(value, out) {
  if (value === null || value === undefined) out.push(Buffer.from([0xc0]));
  else if (typeof value === 'boolean') out.push(Buffer.from([value ? 0xc3 : 0xc2]));
  else if (typeof value === 'number') out.push(number(value));
  else if (typeof value === 'string') {
    const bytes = Buffer.from(value, 'utf8');
    out.push(length(bytes.length, 0xa0, 31, [0xd9, 0xda, 0xdb]), bytes);
  } else if (Array.isArray(value)) {
    out.push(length(value.length, 0x90, 15, [null, 0xdc, 0xdd]));
    for (const item of value) write(item, out);
  } else if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    out.push(length(entries.length, 0x80, 15, [null, 0xde, 0xdf]));
    for (const [key, item] of entries) {
      write(key, out);
      write(item, out);
    }
  } else throw new TypeError(`cannot encode a ${typeof value}`);
}

function length(size, fix, fixMost, [code8, code16, code32]) {
  if (size <= fixMost) return Buffer.from([fix | size]);
  if (size < 0x100 && code8 !== null) return Buffer.from([code8, size]);
  const out = Buffer.alloc(size < 0x10000 ? 3 : 5);
  out[0] = size < 0x10000 ? code16 : code32;
  if (size < 0x10000) out.writeUInt16BE(size, 1);
  else out.writeUInt32BE(size, 1);
  return out;
}

function number(value) {
  let out;
  if (!Number.isSafeInteger(value)) {
    out = Buffer.alloc(9);
    out[0] = 0xcb;
    out.writeDoubleBE(value, 1);
  } else if (value >= 0 && value < 0x80) out = Buffer.from([value]);
  else if (value < 0 && value >= -0x20) out = Buffer.from([0x100 + value]);
  else if (value >= -0x80000000 && value < 0x80000000) {
    out = Buffer.alloc(5);
    out[0] = 0xd2;
    out.writeInt32BE(value, 1);
  } else {
    out = Buffer.alloc(9);
    out[0] = 0xd3;
    out.writeBigInt64BE(BigInt(value), 1);
  }
  return out;
}

function decode(bytes) {
  const reader = { bytes, at: 0 };
  const value = read(reader, 0);
  if (reader.at !== bytes.length) throw new Error('bytes after the end of a message');
  return value;
}

function take(reader, size) {
  if (reader.at + size > reader.bytes.length) throw new Error('a message ends too early');
  reader.at += size;
  return reader.at - size;
}

function read(reader, depth) {
  if (depth > 32) throw new Error('a message is nested too deeply');
  const { bytes } = reader;
  const code = bytes[take(reader, 1)];
  if (code < 0x80) return code;
  if (code < 0x90) return map(reader, code & 0x0f, depth);
  if (code < 0xa0) return array(reader, code & 0x0f, depth);
  if (code < 0xc0) return string(reader, code & 0x1f);
  if (code >= 0xe0) return code - 0x100;
  switch (code) {
    case 0xc0: return null;
    case 0xc2: return false;
    case 0xc3: return true;
    case 0xc4: return binary(reader, bytes.readUInt8(take(reader, 1)));
    case 0xc5: return binary(reader, bytes.readUInt16BE(take(reader, 2)));
    case 0xc6: return binary(reader, bytes.readUInt32BE(take(reader, 4)));
    case 0xca: return bytes.readFloatBE(take(reader, 4));
    case 0xcb: return bytes.readDoubleBE(take(reader, 8));
    case 0xcc: return bytes.readUInt8(take(reader, 1));
    case 0xcd: return bytes.readUInt16BE(take(reader, 2));
    case 0xce: return bytes.readUInt32BE(take(reader, 4));
    case 0xcf: return Number(bytes.readBigUInt64BE(take(reader, 8)));
    case 0xd0: return bytes.readInt8(take(reader, 1));
    case 0xd1: return bytes.readInt16BE(take(reader, 2));
    case 0xd2: return bytes.readInt32BE(take(reader, 4));
    case 0xd3: return Number(bytes.readBigInt64BE(take(reader, 8)));
    case 0xd9: return string(reader, bytes.readUInt8(take(reader, 1)));
    case 0xda: return string(reader, bytes.readUInt16BE(take(reader, 2)));
    case 0xdb: return string(reader, bytes.readUInt32BE(take(reader, 4)));
    case 0xdc: return array(reader, bytes.readUInt16BE(take(reader, 2)), depth);
    case 0xdd: return array(reader, bytes.readUInt32BE(take(reader, 4)), depth);
    case 0xde: return map(reader, bytes.readUInt16BE(take(reader, 2)), depth);
    case 0xdf: return map(reader, bytes.readUInt32BE(take(reader, 4)), depth);
    default: throw new Error(`msgpack type 0x${code.toString(16)} is not used here`);
  }
}

function string(reader, size) {
  const at = take(reader, size);
  return reader.bytes.toString('utf8', at, at + size);
}

function binary(reader, size) {
  const at = take(reader, size);
  return reader.bytes.subarray(at, at + size);
}

function array(reader, size, depth) {
  const out = [];
  for (let i = 0; i < size; i += 1) out.push(read(reader, depth + 1));
  return out;
}

function map(reader, size, depth) {
  const out = {};
  for (let i = 0; i < size; i += 1) {
    const key = read(reader, depth + 1);
    Object.defineProperty(out, key, { value: read(reader, depth + 1), enumerable: true, configurable: true, writable: true });
  }
  return out;
}

module.exports = { decode, encode };
