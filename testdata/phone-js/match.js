// From keys to IDs, and from IDs to matches (PHONES.md 11).

import { ecb } from '@noble/ciphers/aes.js';
import { hkdf } from '@noble/hashes/hkdf.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { hex, utf8 } from './bytes.js';
import { GAEN, schemes } from './wire.js';

const bluezoneBytes = [0, 4, 8, 12, 16, 18, 20, 22, 24, 26, 28, 30];
const slack = { 1: 7200, 2: 120 }; // seconds before an interval and after its end

export const rpiKey = (secret) => hkdf(sha256, secret, undefined, utf8('EN-RPIK'), 16);

// ids gives the IDs of a key, one for each interval from its start.
export function ids(scheme, { secret, start, count }) {
  const list = [];
  if (scheme === GAEN) {
    const blocks = new Uint8Array(16 * count);
    for (let i = 0; i < count; i++) {
      blocks.set(utf8('EN-RPI'), 16 * i);
      new DataView(blocks.buffer).setUint32(16 * i + 12, start + i, true);
    }
    const out = ecb(rpiKey(secret), { disablePadding: true }).encrypt(blocks);
    for (let i = 0; i < count; i++) list.push(out.slice(16 * i, 16 * i + 16));
  } else {
    for (let i = 0, s = secret; i < count; i++, s = sha256(s)) list.push(Uint8Array.from(bluezoneBytes, (b) => s[b]));
  }
  return list;
}

// matches gives the sightings ({ id: hex, seen }) that keys of one scheme explain.
export function matches(scheme, keys, sightings) {
  const { interval } = schemes[scheme];
  const heard = group(sightings);
  const found = new Set();
  for (const key of keys) {
    ids(scheme, key).forEach((id, i) => {
      const begins = (key.start + i) * interval;
      for (const s of heard.get(hex(id)) ?? []) {
        if (s.seen >= begins - slack[scheme] && s.seen < begins + interval + slack[scheme]) found.add(s);
      }
    });
  }
  return sightings.filter((s) => found.has(s));
}

function group(sightings) {
  const m = new Map();
  for (const s of sightings) m.set(s.id, [...(m.get(s.id) ?? []), s]);
  return m;
}

// lastID names a key wherever its start may have moved: its last interval and ID.
export function lastID(scheme, key) {
  return `${key.start + key.count - 1} ${hex(ids(scheme, key).at(-1))}`;
}

// published tells which IDs keys stand for, as lastID names them.
export function published(scheme, keys) {
  return new Set(keys.flatMap((key) => ids(scheme, key).map((id, i) => `${key.start + i} ${hex(id)}`)));
}
