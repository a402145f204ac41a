// What goes over the wire in the clear and inside the seal: codes, headers, records,
// replies and bodies (PHONES.md 2, 5, 6, 7, 8, 9).

import { base64, be, concat, fail, isZero, u32, uint, unbase64, utf8 } from './bytes.js';

export const REDEEM = 1;
export const UPLOAD = 2;
export const GAEN = 1;
export const BLUEZONE = 2;

// schemes: bytes of a secret, records in an upload, intervals in a day, seconds in an interval.
export const schemes = {
  [GAEN]: { name: 'gaen', secret: 16, records: 30, day: 144, interval: 600 },
  [BLUEZONE]: { name: 'bluezone', secret: 32, records: 16, day: 96, interval: 900 },
};

// Codes

const damm = [
  '0317598642', '7092154863', '4206871359', '1750983426', '6123045978',
  '3674209581', '5869720134', '8945362017', '9438617205', '2581436790',
];

// readCode gives the canonical form of a code as typed, or fails.
export function readCode(typed) {
  if (utf8(typed).length > 64) fail('mistyped code');
  const code = typed.replace(/[ -]/g, '').replace(/[a-z]/g, (c) => c.toUpperCase()).replace(/[IL]/g, '1').replace(/O/g, '0');
  if (/^[0-9]{9}$/.test(code)) {
    let x = 0;
    for (const d of code) x = Number(damm[x][d]);
    if (x === 0) return code;
  } else if (/^[0-9A-HJKMNP-TV-Z]{16}$/.test(code)) {
    return code;
  }
  return fail('mistyped code');
}

// Requests

// fill lays parts at their offsets into size bytes.
function fill(size, parts) {
  const out = new Uint8Array(size);
  for (const [offset, bytes] of parts) out.set(bytes, offset);
  return out;
}

export function redeemRequest({ code, blinded, cover = false }) {
  return fill(1024, [[0, [1, REDEEM, cover ? 1 : 0, code.length]], [16, utf8(code)], [32, blinded]]);
}

// sortRecords: strictly ascending by (start, secret).
export function sortRecords(records) {
  const bySecret = (a, b) => Buffer.compare(a.secret, b.secret);
  const sorted = [...records].sort((a, b) => a.start - b.start || bySecret(a, b));
  if (sorted.some((r, i) => i > 0 && r.start === sorted[i - 1].start && bySecret(r, sorted[i - 1]) === 0)) fail('one key twice');
  return sorted;
}

// uploadRequest gives the plaintext without its signature.
export function uploadRequest({ scheme, reportType, epoch, nonce, e, output, records, cover = false }) {
  const { secret, records: most } = schemes[scheme];
  if (records.length < 1 || records.length > most) fail(`an upload holds 1 to ${most} keys`);
  const list = sortRecords(records).map((r) => {
    if (r.secret.length !== secret) fail('secret of a wrong length');
    return concat(r.secret, be(r.start, 4), new Uint8Array([r.count, r.days & 255, r.risk]));
  });
  return fill(1024, [
    [0, [1, UPLOAD, cover ? 1 : 0, scheme, list.length, reportType]],
    [8, be(epoch, 4)], [16, nonce], [48, e], [80, output], [144, concat(...list)],
  ]);
}

// coarseDays is days since onset as an upload states it. onsetDay 0: nobody knows.
export function coarseDays(scheme, start, onsetDay) {
  const days = Math.floor(start / schemes[scheme].day) - onsetDay;
  return onsetDay !== 0 && days >= -2 && days <= 3 ? 0 : 6;
}

// Replies

const statusOf = [0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1];
const reasonsFor = { [REDEEM]: [0, 1, 2, 8, 9, 10], [UPLOAD]: [0, 1, 3, 4, 5, 6, 7, 9, 10] };
const namesRecord = [1, 5, 6, 7];

export const reasons = [
  'done', 'malformed', 'code not valid', 'permit not valid', 'more keys than a permit takes', 'key too old',
  'key in the future', 'keys overlap', 'short codes are paused', 'busy', 'closed',
];

// readReply decodes the reply to an operation; sent is how many records its request had.
// Whatever it gives no meaning to is zero.
export function readReply(operation, plain, sent = 30) {
  if (plain.length !== 512) fail('reply of a wrong length');
  const [version, op, status, reason, record, type] = plain;
  if (version !== 1) fail('reply of another version');
  if (op === 0 ? status !== 1 || reason !== 1 || record !== 0 : op !== operation) fail('reply to another operation');
  if (!reasonsFor[operation].includes(reason)) fail('a reason that does not answer the operation');
  if (status !== statusOf[reason]) fail('a status that is not that of its reason');
  if (record > sent || (record && (operation !== UPLOAD || !namesRecord.includes(reason)))) fail('a record that cannot be named');

  const retryMinutes = plain[6] * 256 + plain[7];
  if ((status === 2) !== retryMinutes > 0) fail('a wait where none belongs, or none where one does');

  const reply = { status, reason, record, retryMinutes };
  let end = 8;
  if (status === 0 && operation === REDEEM) {
    if (type < 1 || type > 3) fail('a report type of no permit');
    Object.assign(reply, {
      reportType: type, epoch: u32(plain, 8), onsetDay: u32(plain, 12),
      evaluated: plain.slice(16, 48), proof: plain.slice(48, 112),
    });
    end = 112;
  } else if (type !== 0) {
    fail('a byte that should be zero');
  }
  if (status === 0 && operation === UPLOAD) {
    const time = uint(plain.subarray(8, 16));
    if (time < 1n || time >= 1n << 63n) fail('a time that is none');
    reply.publishBy = Number(time);
    end = 16;
  }
  if (!isZero(plain.subarray(end))) fail('a byte that should be zero');
  return reply;
}

// Bodies

const field = (n) => [0x0a, (n & 127) | 128, n >> 7]; // protobuf: field 1, n bytes, n two bytes long

export const protoBody = (sealed) => concat(new Uint8Array(field(sealed.length)), sealed);
export const jsonBody = (sealed) => `{"sealed":"${base64(sealed)}"}`;

export function readProtoBody(body) {
  const head = field(560);
  if (body.length !== 563 || head.some((x, i) => x !== body[i])) fail('not the body of a reply');
  return body.slice(3);
}

export function readJsonBody(body) {
  const o = JSON.parse(body);
  if (Object.keys(o).join() !== 'sealed' || typeof o.sealed !== 'string') fail('not the body of a reply');
  const sealed = unbase64(o.sealed);
  if (sealed.length !== 560) fail('not the body of a reply');
  return sealed;
}

// readRefusal gives the reason in a Connect error, or ''.
export function readRefusal(body) {
  try {
    const detail = JSON.parse(body).details.find((d) => d.type === 'bluekey.v1.Refusal');
    const b = Buffer.from(detail.value, 'base64');
    return b[0] === 0x0a && b[1] < 128 && b.length >= 2 + b[1] ? b.subarray(2, 2 + b[1]).toString() : '';
  } catch {
    return '';
  }
}
