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

const soundsFor = 300; // seconds that a sighting stands for where no other follows
const revoked = 5;

// contacts gives { day, minutes } for each key and day near which the owner was long enough,
// by the rule of the notices.
export function contacts(scheme, keys, sightings, rule) {
  const { interval, day } = schemes[scheme];
  const heard = group(sightings);
  const list = [];
  for (const key of keys) {
    if (key.reportType === revoked || (key.days !== null && (key.days < rule.onset_from || key.days > rule.onset_to))) continue;
    const days = new Map();
    ids(scheme, key).forEach((id, i) => {
      const begins = (key.start + i) * interval;
      const near = (heard.get(hex(id)) ?? []).filter((s) => s.seen >= begins - rule.tolerance && s.seen < begins + interval + rule.tolerance);
      const d = Math.floor((key.start + i) / day);
      if (near.length) days.set(d, [...(days.get(d) ?? []), ...near.map((s) => s.seen)]);
    });
    for (const [d, seen] of days) {
      seen.sort((a, b) => a - b);
      const total = seen.reduce((sum, at, i) => sum + (i ? Math.min(at - seen[i - 1], soundsFor) : 0), soundsFor);
      const minutes = Math.floor(total / 60);
      if (minutes >= rule.minutes) list.push({ day: d, minutes });
    }
  }
  return list;
}

// sorted: by day, the longest first.
export const sorted = (list) => [...list].sort((a, b) => a.day - b.day || b.minutes - a.minutes);

// lastID names a key wherever its start may have moved: its last interval and ID.
export function lastID(scheme, key) {
  return `${key.start + key.count - 1} ${hex(ids(scheme, key).at(-1))}`;
}

// published tells which IDs keys stand for, as lastID names them.
export function published(scheme, keys) {
  return new Set(keys.flatMap((key) => ids(scheme, key).map((id, i) => `${key.start + i} ${hex(id)}`)));
}
