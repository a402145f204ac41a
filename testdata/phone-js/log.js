// The log: policy, checkpoint, proof, entries, index and keyring (FORMAT.md, "Log,
// manifests and the public tree"; FORMAT-keyring.md; C2SP signed-note, tlog-cosignature,
// tlog-policy, tlog-proof).

import { ed25519 } from '@noble/curves/ed25519.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ml_dsa44 } from '@noble/post-quantum/ml-dsa.js';
import { be, concat, equal, fail, hex, number, sha256Hex, text, uint, unbase64, utf8 } from './bytes.js';

// Keys

const keySize = { 0x01: 32, 0x04: 32, 0x06: 1312 };
const notName = /[\p{White_Space}\p{Cc}+]/u;

function readVkey(s) {
  const [, name, id, key] = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(s) ?? fail('not a vkey');
  const b = unbase64(key);
  const kind = b[0];
  if (notName.test(name) || b.length !== 1 + keySize[kind]) fail('not a vkey');
  if (hex(sha256(concat(utf8(name + '\n'), b)).subarray(0, 4)) !== id) fail('a vkey with a wrong id');
  return { name, id, kind, key: b.slice(1) };
}

function verifies({ name, kind, key }, cp, sig) {
  const strict = { zip215: false };
  if (kind === 0x01) return { ok: sig.length === 64 && ed25519.verify(sig, cp.body, key, strict) };
  if (sig.length !== 8 + (kind === 0x04 ? 64 : 2420)) return { ok: false };
  const time = uint(sig.subarray(0, 8));
  if (time >= 1n << 63n) return { ok: false };
  if (kind === 0x04) {
    const message = concat(utf8(`cosignature/v1\ntime ${time}\n`), cp.body);
    return { ok: ed25519.verify(sig.subarray(8), message, key, strict), time };
  }
  const string = (s) => concat(be(utf8(s).length, 1), utf8(s));
  const message = concat(utf8('subtree/v1\n\0'), string(name), sig.subarray(0, 8), string(cp.origin), be(0, 8), be(cp.size, 8), cp.root);
  return { ok: ml_dsa44.verify(sig.subarray(8), message, key), time };
}

// Policy

// readPolicy reads a C2SP tlog-policy. Both keys of every log have to be in it.
export function readPolicy(bytes) {
  if (bytes.length > 256 << 10) fail('policy too long');
  const logs = [];
  const defined = new Map(); // name -> { vkey } or { k, members }
  const inGroup = new Set();
  let quorum;
  const define = (name, what) => (name === undefined || name === 'none' || defined.has(name) ? fail('policy: a name twice, or none') : defined.set(name, what));
  for (const line of text(bytes).split('\n')) {
    if (/[^\t\P{Cc}]/u.test(line)) fail('policy: control characters');
    const [word, ...rest] = line.split(/[ \t]+/).filter(Boolean);
    if (word === undefined || word.startsWith('#')) continue;
    if (word === 'log' && (rest.length === 1 || rest.length === 2)) {
      logs.push(readVkey(rest[0]));
    } else if (word === 'witness' && (rest.length === 2 || rest.length === 3)) {
      define(rest[0], { vkey: readVkey(rest[1]) });
    } else if (word === 'group' && rest.length >= 3) {
      const [name, k, ...members] = rest;
      for (const m of members) if (!defined.has(m) || inGroup.has(m)) fail(`policy: ${m} is not defined or in two groups`);
      members.forEach((m) => inGroup.add(m));
      const least = k === 'all' ? members.length : k === 'any' ? 1 : number(k);
      if (least < 1 || least > members.length) fail('policy: threshold');
      define(name, { k: least, members });
    } else if (word === 'quorum' && rest.length === 1 && quorum === undefined) {
      if (rest[0] !== 'none' && !defined.has(rest[0])) fail('policy: quorum of what is not defined');
      quorum = rest[0];
    } else {
      fail(`policy: a line of ${word}`);
    }
  }
  if (quorum === undefined) fail('policy: no quorum');
  const witnesses = [...defined.values()].filter((d) => d.vkey).map((d) => d.vkey);
  if (logs.some((l) => l.kind !== 0x01) || witnesses.some((w) => w.kind === 0x01)) fail('policy: a key of the wrong kind');
  for (const list of [logs, witnesses]) {
    if (new Set(list.map((v) => hex(v.key))).size !== list.length) fail('policy: a key twice');
  }
  for (const { name } of logs) if (!witnesses.some((w) => w.kind === 0x06 && w.name === name)) fail(`policy: no ML-DSA-44 key of ${name}`);
  return { logs, witnesses, defined, quorum };
}

// Checkpoint

// openCheckpoint demands both signatures of the log; whether the quorum is met it tells.
export function openCheckpoint(policy, bytes) {
  if (bytes.length > 128 << 10) fail('checkpoint too long');
  const note = text(bytes);
  if (/[^\n\P{Cc}]/u.test(note)) fail('checkpoint: control characters');
  const m = /^([^\n]+)\n([0-9]+)\n([^\n]+)\n\n((?:\u2014 [^\n]+\n)+)$/.exec(note);
  if (!m) fail('not a checkpoint');
  const cp = { origin: m[1], size: number(m[2]), root: unbase64(m[3]), body: utf8(`${m[1]}\n${m[2]}\n${m[3]}\n`) };
  if (notName.test(cp.origin) || utf8(cp.origin).length > 255 || cp.size > 2 ** 40 || cp.root.length !== 32) fail('not a checkpoint');
  if (cp.size === 0 && !equal(cp.root, sha256(new Uint8Array(0)))) fail('checkpoint: root of the empty log');

  const log = policy.logs.filter((l) => l.name === cp.origin);
  if (log.length === 0) fail(`a checkpoint of ${cp.origin}, which the policy does not name`);
  const known = [...log, ...policy.witnesses];
  const signed = new Set();
  const lines = m[4].split('\n').slice(0, -1);
  if (lines.length > 100) fail('checkpoint: too many signatures');
  for (const line of lines) {
    const parts = line.split(' ');
    if (parts.length !== 3 || !parts[1] || notName.test(parts[1])) fail('checkpoint: not a signature line');
    const sig = unbase64(parts[2]);
    if (sig.length < 5) fail('checkpoint: not a signature line');
    const vkey = known.find((v) => v.name === parts[1] && v.id === hex(sig.subarray(0, 4)));
    if (!vkey) continue;
    const { ok, time } = verifies(vkey, cp, sig.subarray(4));
    if (!ok) fail(`checkpoint: a signature of ${vkey.name} that does not verify`);
    if (time !== 0n) signed.add(vkey);
  }
  const both = [log, policy.witnesses.filter((w) => w.kind === 0x06 && w.name === cp.origin)];
  if (!both.every((keys) => keys.some((v) => signed.has(v)))) fail('checkpoint: without both signatures of the log');

  const met = (name) => {
    if (name === 'none') return true;
    const d = policy.defined.get(name);
    return d.vkey ? signed.has(d.vkey) : d.members.filter(met).length >= d.k;
  };
  return { ...cp, quorum: met(policy.quorum) };
}

// Proof

const node = (left, right) => sha256(concat(new Uint8Array([1]), left, right));

// rootOf follows an inclusion proof as RFC 6962 (RFC 9162, 2.1.3.2) says.
export function rootOf(leaf, index, size, hashes) {
  if (index >= size) fail('proof: index beyond the log');
  let [fn, sn, root] = [index, size - 1, leaf];
  for (const h of hashes) {
    if (sn === 0) fail('proof: too many hashes');
    if (fn % 2 === 1 || fn === sn) {
      root = node(h, root);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [fn / 2, Math.floor(sn / 2)];
    } else {
      root = node(root, h);
    }
    [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)];
  }
  if (sn !== 0) fail('proof: too few hashes');
  return root;
}

// openProof gives entry, index and checkpoint. Where nothing but the quorum is missing, the
// error has the code QUORUM.
export function openProof(policy, bytes) {
  if (bytes.length > 256 << 10) fail('proof too long');
  const m = /^c2sp\.org\/tlog-proof@v1\nextra ([^\n]+)\nindex ([0-9]+)\n((?:[^\n]+\n)*)\n([^]*)$/.exec(text(bytes));
  if (!m) fail('not a proof');
  const [entry, index] = [unbase64(m[1]), number(m[2])];
  const hashes = m[3].split('\n').slice(0, -1).map(unbase64);
  if (entry.length > 65535 || hashes.length > 63 || hashes.some((h) => h.length !== 32)) fail('not a proof');
  const checkpoint = openCheckpoint(policy, utf8(m[4]));
  const leaf = sha256(concat(new Uint8Array([0]), entry));
  if (!equal(rootOf(leaf, index, checkpoint.size, hashes), checkpoint.root)) fail('proof: another root');
  if (!checkpoint.quorum) fail('proof: the quorum is not met', 'QUORUM');
  return { entry: text(entry), index, checkpoint };
}

// Entries

const word = /^[A-Za-z0-9._-]{1,64}$/;
const kinds = ['zip', 'keys', 'ids'];

// reader takes a text of "name value" lines, one after the other.
function reader(s, title) {
  const list = s.split('\n');
  if (list.pop() !== '' || list.shift() !== title) fail(`not a ${title}`);
  return {
    has: (name) => list.length > 0 && list[0].startsWith(name + ' '),
    take: (name) => (list[0]?.startsWith(name + ' ') ? list.shift().slice(name.length + 1) : fail(`${title}: no ${name}`)),
    end: () => list.length && fail(`${title}: more lines`),
  };
}

function oneOf(s, ...values) {
  return values.includes(s) ? s : fail(`${s} instead of ${values.join(' or ')}`);
}

const match = (s, re) => (re.test(s) ? s : fail(`not well formed: ${s}`));

function readOrigin(s) {
  return s && utf8(s).length <= 255 && !notName.test(s) ? s : fail('not an origin');
}

export function readFileEntry(entry) {
  const r = reader(entry, 'bluekey file v1');
  const f = { time: number(r.take('time')), path: r.take('path'), size: number(r.take('size')), sha256: match(r.take('sha256'), /^[0-9a-f]{64}$/) };
  r.end();
  return f;
}

// readWindow reads a manifest.
export function readWindow(entry) {
  const r = reader(entry, 'bluekey window v1');
  const w = { origin: readOrigin(r.take('origin')), region: match(r.take('region'), word), scheme: oneOf(r.take('scheme'), 'gaen', 'bluezone') };
  for (const name of ['start', 'end', 'period', 'hold', 'retain', 'keys']) w[name] = number(r.take(name));
  w.metadata = oneOf(r.take('metadata'), 'coarse', 'exact');
  w.encoder = match(r.take('encoder'), word);
  w.signers = [];
  while (r.has('signer')) w.signers.push(match(r.take('signer'), /^[A-Za-z0-9._-]{1,64}-[A-Za-z0-9._]{1,32}$/));
  w.files = [];
  while (r.has('file')) {
    const [path, size, sum, keys, ...more] = r.take('file').split(' ');
    const m = /^exports\/([0-9]+)-([0-9]+)-([0-9a-f]{16})\.(zip|keys|ids)$/.exec(path);
    if (more.length || !m || number(m[1]) !== w.start || number(m[2]) !== w.end) fail('manifest: path of another window');
    if (!/^[0-9a-f]{64}$/.test(sum) || !sum.startsWith(m[3])) fail('manifest: digest of another path');
    w.files.push({ path, kind: m[4], size: number(size), sha256: sum, keys: number(keys) });
  }
  r.end();

  if (w.end <= w.start || w.period < 1 || w.retain < 1) fail('manifest: numbers');
  if (w.signers.length > 10 || new Set(w.signers).size !== w.signers.length) fail('manifest: signers');
  const order = w.files.map((f) => kinds.indexOf(f.kind));
  if (order.some((k, i) => i > 0 && k < order[i - 1])) fail('manifest: order of the files');
  for (const kind of kinds) {
    const of = w.files.filter((f) => f.kind === kind);
    if (of.length && of.reduce((n, f) => n + f.keys, 0) !== w.keys) fail('manifest: a kind of file without all keys');
  }
  if ((w.keys === 0) !== (w.files.length === 0)) fail('manifest: files and keys');
  const archives = order.includes(0);
  if (archives !== w.signers.length > 0 || (archives && w.scheme !== 'gaen')) fail('manifest: signers and archives');
  return w;
}

// readIndex reads index.json, which is not signed.
export function readIndex(bytes) {
  if (bytes.length > 16 << 20) fail('index too long');
  const s = text(bytes);
  const index = JSON.parse(s);
  const { origin, region, size, exports } = index;
  const list = exports.map(({ entry, manifest }) => ({ entry, manifest }));
  if (JSON.stringify({ origin, region, size, exports: list }, null, 1) + '\n' !== s) fail('index: another spelling');
  list.forEach((x, i) => {
    number(String(x.entry));
    if (x.entry >= size || (i > 0 && x.entry <= list[i - 1].entry)) fail('index: entries do not ascend');
    x.window = readWindow(x.manifest);
    if (x.window.origin !== origin || x.window.region !== region) fail('index: a manifest of another log');
  });
  return { origin, region, size, exports: list };
}

// Keyring

// reduced: every coefficient of an ML-KEM-768 key is below q (FIPS 203, 7.2).
function reduced(key) {
  for (let i = 0; i < 1152; i += 3) {
    if ((key[i] | ((key[i + 1] & 15) << 8)) >= 3329 || ((key[i + 1] >> 4) | (key[i + 2] << 4)) >= 3329) return false;
  }
  return true;
}

export function readKeyring(bytes) {
  if (bytes.length > 65536) fail('keyring too long');
  const r = reader(text(bytes), 'bluekey keyring v1');
  const name = (s) => (s && utf8(s).length <= 255 && !/[\p{White_Space}\p{Cc}]/u.test(s) ? s : fail('keyring: not a name'));
  const ring = { origin: name(r.take('origin')), region: name(r.take('region')), permits: new Map(), seals: new Map() };
  for (const [kind, keys, size] of [['permit', ring.permits, 32], ['seal', ring.seals, 1216]]) {
    let before = -1;
    do {
      const [d, b, ...more] = r.take(kind).split(' ');
      const [day, key] = [number(d), unbase64(b ?? '')];
      if (more.length || day <= before || day >= 2 ** 32 || key.length !== size) fail(`keyring: a ${kind} key`);
      if (kind === 'seal' && !reduced(key)) fail('keyring: an ML-KEM key that is not reduced');
      keys.set((before = day), key);
    } while (r.has(kind));
  }
  r.end();
  return ring;
}

// openKeyring verifies a keyring by its proof. older is what the phone knew before.
export function openKeyring(policy, bytes, proofBytes, today, older) {
  const { entry, checkpoint } = openProof(policy, proofBytes);
  const file = readFileEntry(entry);
  if (file.path !== 'keyring') fail('a proof of another file');
  if (file.size !== bytes.length || file.sha256 !== sha256Hex(bytes)) fail('the keyring is just being replaced: again in five minutes', 'REPLACED');
  const ring = readKeyring(bytes);
  if (ring.origin !== checkpoint.origin) fail('a keyring of another log');
  if (!ring.permits.has(today) || !ring.seals.has(today)) fail('the keyring has no keys for today');
  for (const kind of older?.origin === ring.origin ? ['permits', 'seals'] : []) {
    for (const [day, key] of ring[kind]) {
      if (older[kind].has(day) && !equal(older[kind].get(day), key)) fail('two keys for one day: somebody tries to tell phones apart');
    }
  }
  return ring;
}
