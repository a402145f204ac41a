// Bytes, integers and the one spelling of base64 and UTF-8.

import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, concatBytes, hexToBytes, randomBytes, utf8ToBytes } from '@noble/hashes/utils.js';

export { bytesToHex as hex, concatBytes as concat, hexToBytes as unhex, randomBytes as random, utf8ToBytes as utf8 };

// fail stops with a message.
export function fail(message, code) {
  throw Object.assign(new Error(message), { code });
}

export const equal = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
export const isZero = (b) => b.every((x) => x === 0);
export const sha256Hex = (b) => bytesToHex(sha256(b));

// be writes n in size bytes, big endian.
export function be(n, size) {
  const out = new Uint8Array(size);
  for (let i = size - 1, v = BigInt(n); i >= 0; i--, v >>= 8n) out[i] = Number(v & 255n);
  return out;
}

// uint reads big-endian bytes as a BigInt.
export const uint = (b) => BigInt('0x' + (bytesToHex(b) || '0'));
export const u32 = (b, i) => Number(uint(b.subarray(i, i + 4)));

export const base64 = (b) => Buffer.from(b).toString('base64');

// unbase64 takes the standard alphabet, padded, unused bits zero.
export function unbase64(s) {
  const b = new Uint8Array(Buffer.from(s, 'base64'));
  if (base64(b) !== s) fail('base64 not canonical');
  return b;
}

// text refuses what is not UTF-8.
export const text = (b) => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(b);

// number reads a decimal without leading zeros. What passes 2^53 is of no use here.
export function number(s) {
  if (!/^(0|[1-9][0-9]*)$/.test(s) || BigInt(s) >= 1n << 63n) fail(`not a number: ${s}`);
  return Number(s);
}

export const dayOf = (seconds) => Math.floor(seconds / 86400);
