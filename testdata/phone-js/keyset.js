// Key sets, .keys (FORMAT.md, "Key set").

import { sha256 } from '@noble/hashes/sha2.js';
import { equal, fail, uint } from './bytes.js';
import { GAEN, schemes } from './wire.js';

const max64 = (1n << 64n) - 1n;

class Reader {
  constructor(bytes) {
    Object.assign(this, { bytes, at: 0, left: 0 }); // left: bits of bytes[at - 1] not yet read
  }
  byte() {
    if (this.at >= this.bytes.length) fail('key set ends early');
    return this.bytes[this.at++];
  }
  varint(most) {
    let v = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const b = this.byte();
      v |= BigInt(b & 127) << shift;
      if (v > max64 || shift > 63n) fail('key set: a varint beyond 64 bits');
      if (b < 128) {
        if (b === 0 && shift > 0n) fail('key set: a longer varint than needed');
        return v <= BigInt(most) ? Number(v) : fail('key set: a number beyond its bound');
      }
    }
  }
  bit() {
    if (this.left === 0) [this.current, this.left] = [this.byte(), 8];
    return (this.current >> --this.left) & 1;
  }
  bits(n) {
    let v = 0n;
    for (let i = 0; i < n; i++) v = (v << 1n) | BigInt(this.bit());
    return v;
  }
  // align skips the unused bits of the last byte.
  align() {
    if (this.current & ((1 << this.left) - 1)) fail('key set: unused bits that are not zero');
    this.left = 0;
  }
}

// secrets reads the n secrets of a group, in ascending order.
function secrets(r, n, size) {
  const k = 64 - n.toString(2).length;
  const list = [];
  let [first, rest] = [0n, -1n];
  for (let i = 0; i < n; i++) {
    let quotient = 0n;
    while (r.bit()) if (++quotient > 2n * BigInt(n)) fail('key set: a number beyond 2^64 - 1');
    const d = (quotient << BigInt(k)) | r.bits(k);
    first += d;
    if (first > max64) fail('key set: a number beyond 2^64 - 1');
    const tail = r.bits(8 * (size - 8));
    if (i > 0 && d === 0n && tail <= rest) fail('key set: secrets do not ascend');
    rest = tail;
    const digits = ((first << BigInt(8 * (size - 8))) | tail).toString(16).padStart(2 * size, '0');
    list.push(Uint8Array.from(Buffer.from(digits, 'hex')));
  }
  return list;
}

// readKeySet gives { scheme, start, end, keys }; keys have secret, start, count, days (null:
// unknown), reportType, risk.
export function readKeySet(bytes) {
  if (bytes.length < 32) fail('not a key set');
  const body = bytes.subarray(0, -32);
  if (!equal(sha256(body), bytes.subarray(-32))) fail('key set: another digest');
  const r = new Reader(body);
  for (const c of Buffer.from('BKEYSET\x01')) if (r.byte() !== c) fail('not a key set');
  const scheme = r.byte();
  if (!schemes[scheme]) fail('key set: another scheme');
  const { secret, day } = schemes[scheme];
  const start = r.varint(253402300799);
  const length = r.varint(253402300799 - start);
  const groups = r.varint(2 ** 32 - 1);
  const total = r.varint(2 ** 32 - 1);
  if (length < 1 || groups > total || (groups === 0 && total !== 0)) fail('key set: header');

  const keys = [];
  let interval = 0;
  let before = -1n;
  for (let g = 0; g < groups; g++) {
    interval += r.varint(2 ** 32 - 1 - interval);
    const [count, onset, reportRisk] = [r.byte(), r.byte(), r.byte()];
    const [reportType, risk] = [reportRisk >> 4, reportRisk & 15];
    if (scheme === GAEN ? count < 1 || count > day : count !== day - (interval % day)) fail('key set: count');
    if (onset > 29 || reportType > 5 || risk > 8) fail('key set: metadata');
    const order = uint(Uint8Array.of(count, onset, reportRisk)) + (BigInt(interval) << 24n);
    if (order <= before) fail('key set: groups do not ascend');
    before = order;
    const n = r.varint(total - keys.length);
    if (n < 1) fail('key set: an empty group');
    const days = onset === 0 ? null : onset - 15;
    for (const s of secrets(r, n, secret)) keys.push({ secret: s, start: interval, count, days, reportType, risk });
    r.align();
  }
  if (keys.length !== total) fail('key set: another number of keys');
  if (r.at !== body.length) fail('key set goes on behind its end');
  return { scheme, start, end: start + length, keys };
}
