// The permit: POPRF of RFC 9497, ristretto255-SHA512, and the signature of an upload
// (PHONES.md 7, 8, 10).

import { ed25519, ristretto255, ristretto255_hasher, ristretto255_oprf } from '@noble/curves/ed25519.js';
import { sha256, sha512 } from '@noble/hashes/sha2.js';
import { be, concat, fail, random, utf8 } from './bytes.js';
import { schemes, uploadRequest } from './wire.js';

const { Point } = ristretto255;
const context = concat(utf8('OPRFV1-'), new Uint8Array([2]), utf8('-ristretto255-SHA512'));
const dst = (name) => ({ DST: concat(utf8(name), context) });

export const permitInput = (e, nonce) => sha512(concat(utf8('bluekey/v1 permit input\n'), e, nonce)).slice(0, 32);
export const permitInfo = (origin, region, type, epoch) => utf8(`bluekey/v1 permit\n${origin}\n${region}\n${type}\n${epoch}\n`);
export const outputHash = (output) => sha256(concat(utf8('bluekey/v1 permit spent\n'), output));

// blindInput is blind · HashToGroup(input). It needs no info.
export function blindInput(input, blind) {
  const p = ristretto255_hasher.hashToCurve(input, dst('HashToGroup-'));
  return p.multiply(Point.Fn.fromBytes(blind)).toBytes();
}

function randomScalar() {
  for (;;) {
    const b = random(32);
    b[31] &= 0x1f; // below 2^253: half of them are reduced
    if (Point.Fn.isValidNot0(Point.Fn.fromBytes(b, true))) return b;
  }
}

// draw makes the values of one case. They are stored before anything is sent.
export function draw(seed = random(32), nonce = random(32), blind = randomScalar()) {
  const e = ed25519.getPublicKey(seed);
  const input = permitInput(e, nonce);
  return { seed, e, nonce, input, blind, blinded: blindInput(input, blind) };
}

export function tweakedKey(publicKey, info) {
  const m = ristretto255_hasher.hashToScalar(concat(utf8('Info'), be(info.length, 2), info), dst('HashToScalar-'));
  const key = Point.fromBytes(publicKey);
  if (key.equals(Point.ZERO)) fail('permit key is the identity');
  return Point.BASE.multiply(m).add(key).toBytes();
}

// finalize verifies the proof and gives the output.
export function finalize({ input, blind, blinded, info, publicKey, evaluated, proof }) {
  return ristretto255_oprf.poprf(info).finalize(input, blind, evaluated, blinded, proof, tweakedKey(publicKey, info));
}

// takePermit makes a permit of a done reply. No upload may follow if it fails.
export function takePermit(keyring, today, drawn, reply) {
  const { reportType, epoch } = reply;
  if (![1, 2, 3].includes(reportType)) fail('a report type of no permit');
  if (epoch !== today && epoch !== today - 1) fail('the permit is of another day: is the clock right?');
  const publicKey = keyring.permits.get(epoch);
  if (!publicKey) fail('the keyring has no permit key for that day');
  const info = permitInfo(keyring.origin, keyring.region, reportType, epoch);
  const output = finalize({ ...drawn, info, publicKey, evaluated: reply.evaluated, proof: reply.proof });
  return { seed: drawn.seed, e: drawn.e, nonce: drawn.nonce, output, reportType, epoch, onsetDay: reply.onsetDay };
}

export const signedMessage = (info, output, plain) =>
  concat(utf8('bluekey/v1 upload\n'), be(info.length, 2), info, outputHash(output), plain.subarray(0, 960));

// signUpload gives the whole plaintext of an upload under a permit.
export function signUpload(keyring, permit, scheme, records, cover = false) {
  const info = permitInfo(keyring.origin, keyring.region, permit.reportType, permit.epoch);
  const plain = uploadRequest({ ...permit, scheme, records, cover });
  plain.set(ed25519.sign(signedMessage(info, permit.output, plain), permit.seed), 960);
  return plain;
}

// coverUpload looks like an upload of 14 days under a permit that nobody issued.
export function coverUpload(keyring, scheme, today) {
  const { secret, day } = schemes[scheme];
  const records = Array.from({ length: 14 }, (_, i) => ({ secret: random(secret), start: (today - 14 + i) * day, count: day, days: 0, risk: 0 }));
  const permit = { ...draw(), output: random(64), reportType: 1, epoch: today };
  return signUpload(keyring, permit, scheme, records, true);
}
