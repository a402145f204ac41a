// HPKE base mode with X-Wing, HKDF-SHA256 and ChaCha20-Poly1305, one message, and the
// reply under its export (PHONES.md 4).

import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { expand, extract } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ml_kem768_x25519 as xwing } from '@noble/post-quantum/hybrid.js';
import { be, concat, equal, fail, random, utf8 } from './bytes.js';

const suite = concat(utf8('HPKE'), new Uint8Array([0x64, 0x7a, 0, 1, 0, 3]));
const v1 = utf8('HPKE-v1');
const empty = new Uint8Array(0);

const LE = (salt, label, ikm) => extract(sha256, concat(v1, suite, utf8(label), ikm), salt);
const LX = (prk, label, info, n) => expand(sha256, prk, concat(be(n, 2), v1, suite, utf8(label), info), n);

export function keySchedule(shared, info) {
  const context = concat(new Uint8Array([0]), LE(empty, 'psk_id_hash', empty), LE(empty, 'info_hash', info));
  const secret = LE(shared, 'secret', empty);
  return { key: LX(secret, 'key', context, 32), nonce: LX(secret, 'base_nonce', context, 12), exporter: LX(secret, 'exp', context, 32) };
}

export const keyID = (origin, publicKey) => sha256(concat(utf8(`bluekey/v1 seal key\n${origin}\n`), publicKey)).slice(0, 8);
export const sealInfo = (origin, id) => concat(utf8(`bluekey/v1 seal\n${origin}\n`), id);

const exported = (schedule) => LX(schedule.exporter, 'sec', utf8('bluekey/v1 reply'), 32);

// seal gives the request and what opens its reply. rand is for vectors only.
export function seal(origin, publicKey, plain, rand = random(64)) {
  const id = keyID(origin, publicKey);
  const { cipherText: enc, sharedSecret } = xwing.encapsulate(publicKey, rand);
  const schedule = keySchedule(sharedSecret, sealInfo(origin, id));
  const request = concat(id, enc, chacha20poly1305(schedule.key, schedule.nonce).encrypt(plain));
  return { request, enc, export: exported(schedule) };
}

// openRequest is the service's side: a client that has a seed checks vectors with it.
export function openRequest(origin, seed, publicKey, request) {
  const id = keyID(origin, publicKey);
  if (!equal(id, request.subarray(0, 8))) fail('sealed to another key');
  const enc = request.slice(8, 1128);
  const schedule = keySchedule(xwing.decapsulate(enc, seed), sealInfo(origin, id));
  return { enc, export: exported(schedule), plain: chacha20poly1305(schedule.key, schedule.nonce).decrypt(request.subarray(1128)) };
}

export function replyKeys(sealed, replyNonce) {
  const prk = extract(sha256, sealed.export, concat(sealed.enc, replyNonce));
  return { prk, key: expand(sha256, prk, utf8('key'), 32), nonce: expand(sha256, prk, utf8('nonce'), 12) };
}

// openReply fails on what is not the reply to that request.
export function openReply(sealed, reply) {
  if (reply.length !== 560) fail('reply of a wrong length');
  const { key, nonce } = replyKeys(sealed, reply.subarray(0, 32));
  return chacha20poly1305(key, nonce).decrypt(reply.subarray(32));
}
