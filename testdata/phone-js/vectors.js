// Checks this client against the vectors that PHONES.md 12 names. Exit code 1 on a difference.

import { readFileSync } from 'node:fs';
import { ristretto255_oprf } from '@noble/curves/ed25519.js';
import { sha256 } from '@noble/hashes/sha2.js';
import { ml_kem768_x25519 as xwing } from '@noble/post-quantum/hybrid.js';
import { be, concat, hex, sha256Hex, unhex, utf8 } from './bytes.js';
import { readKeySet } from './keyset.js';
import * as log from './log.js';
import { contacts, ids, matches, rpiKey, sorted } from './match.js';
import * as notices from './notices.js';
import * as permit from './permit.js';
import * as seal from './seal.js';
import * as wire from './wire.js';

const bytes = (name) => new Uint8Array(readFileSync(new URL(`../vectors/${name}`, import.meta.url)));
const json = (name) => JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'));

let checks = 0;
let differences = 0;

function same(what, got, want) {
  const show = (x) => (x instanceof Uint8Array ? hex(x) : typeof x === 'string' ? x : JSON.stringify(x));
  checks++;
  if (show(got) === show(want)) return;
  differences++;
  console.error(`${what}\n  got  ${show(got)}\n  want ${show(want)}`);
}

// holds checks that f returns, or that it fails.
function holds(what, want, f) {
  let why = '';
  try {
    f();
  } catch (err) {
    why = err.message;
  }
  checks++;
  if (want === (why === '')) return;
  differences++;
  console.error(want ? `${what}: ${why}` : `${what}: taken`);
}

const checksOf = {
  'phone/codes.json': (v) => {
    for (const { typed, code } of v.good) same(typed, wire.readCode(typed), code);
    for (const typed of v.refused) holds(`code ${JSON.stringify(typed)}`, false, () => wire.readCode(typed));
  },

  'phone/permit.json': (v) => {
    const drawn = permit.draw(unhex(v.e_seed), unhex(v.nonce), unhex(v.blind));
    for (const name of ['e', 'nonce', 'input', 'blind', 'blinded']) same(name, drawn[name], v[name]);
    same('request', wire.redeemRequest({ code: v.code, blinded: drawn.blinded }), v.request_plain);
    same('info', permit.permitInfo(v.origin, v.region, v.report_type, v.epoch), v.info);
    const permits = new Map(Object.entries(v.published).map(([day, key]) => [Number(day), unhex(key)]));
    const ring = { origin: v.origin, region: v.region, permits };
    const take = ({ today, reply_plain }) => permit.takePermit(ring, today, drawn, wire.readReply(wire.REDEEM, unhex(reply_plain)));
    for (const t of v.taken) holds(t.name, true, () => take(t));
    for (const t of v.phone_stops) holds(t.name, false, () => take(t));
    const got = take(v.taken[0]);
    same('output', got.output, v.output);
    same('output hash', permit.outputHash(got.output), v.output_hash);
    same('type, epoch, onset', [got.reportType, got.epoch, got.onsetDay], [v.report_type, v.epoch, v.onset_day]);
    const first = wire.readReply(wire.REDEEM, unhex(v.taken[0].reply_plain));
    same('evaluated', first.evaluated, v.evaluated);
    same('proof', first.proof, v.proof);
  },

  'phone/uploads.json': (v) => {
    const p = json('phone/permit.json');
    const drawn = permit.draw(unhex(p.e_seed), unhex(p.nonce), unhex(p.blind));
    const under = { ...drawn, output: unhex(p.output), reportType: p.report_type, epoch: p.epoch };
    for (const u of v.uploads) {
      const records = u.keys.map((k) => {
        const days = wire.coarseDays(u.scheme, k.start, v.onset_day);
        same(`${u.name}: days`, days, k.days_since_onset);
        return { secret: unhex(k.secret), start: k.start, count: k.count, days, risk: k.risk };
      });
      const plain = permit.signUpload(p, under, u.scheme, records);
      same(`${u.name}: signed`, permit.signedMessage(unhex(p.info), under.output, plain), u.signed);
      same(`${u.name}: request`, plain, u.request_plain);
    }
  },

  'phone/replies.json': (v) => {
    for (const r of v.good) {
      const got = wire.readReply(r.operation, unhex(r.reply_plain));
      const says = (x) => [x.status, x.reason ?? 0, x.record ?? 0, x.retry_minutes ?? x.retryMinutes ?? 0, x.publish_by ?? x.publishBy ?? 0];
      same(r.name, says(got), says(r));
    }
    for (const r of v.refused) holds(r.name, false, () => wire.readReply(r.operation, unhex(r.reply_plain), r.sent));
  },

  'phone/sealed.json': (v) => {
    same('key id', seal.keyID(v.origin, unhex(v.recipient_public)), v.key_id);
    same('info', seal.sealInfo(v.origin, unhex(v.key_id)), v.hpke_info);
    same('public key', xwing.keygen(unhex(v.recipient_seed)).publicKey, v.recipient_public);
    let first;
    for (const x of v.exchanges) {
      const got = exchange(v, x);
      first ??= got;
      const keys = seal.replyKeys(got, unhex(x.reply_nonce));
      for (const name of ['prk', 'key', 'nonce']) same(`${x.name}: ${name}`, keys[name], x[name]);
      same(`${x.name}: body`, wire.protoBody(unhex(x.request)), x.proto_request);
      same(`${x.name}: JSON body`, wire.jsonBody(unhex(x.request)), x.json_request);
      same(`${x.name}: reply`, wire.readProtoBody(unhex(x.proto_reply)), x.reply);
      same(`${x.name}: JSON reply`, wire.readJsonBody(x.json_reply), x.reply);
    }
    for (const r of v.not_replies_to_the_first) holds(r.name, false, () => seal.openReply(first, unhex(r.reply)));
  },

  'phone/tree.json': (v) => {
    const tree = (name) => bytes(`phone/tree/${name}`);
    const policy = log.readPolicy(tree('policy'));
    const ring = tree('keyring');
    same('keyring', { size: ring.length, sha256: sha256Hex(ring) }, { size: v.keyring.size, sha256: v.keyring.sha256 });
    const today = Number(Object.keys(v.keyring.seal_key_ids)[0]);
    const opened = log.openKeyring(policy, ring, tree('keyring.tlog-proof'), today);
    const byDay = (m, f) => Object.fromEntries([...m].map(([day, key]) => [day, hex(f(key))]));
    same('origin', [opened.origin, opened.region], [v.origin, v.region]);
    same('permit keys', byDay(opened.permits, (k) => k), v.keyring.permits);
    same('seal keys', byDay(opened.seals, (k) => seal.keyID(v.origin, k)), v.keyring.seal_key_ids);
    holds('another key for a day', false, () => {
      const older = { ...opened, permits: new Map([[today, new Uint8Array(32)]]) };
      log.openKeyring(policy, ring, tree('keyring.tlog-proof'), today, older);
    });

    const told = notices.openNotices(policy, tree(notices.path), tree(`${notices.path}.tlog-proof`), opened.origin);
    same('notices', { entry: told.entry, time: told.time }, v.notices);

    const keys = [];
    const found = new Set();
    const sightings = v.sightings.map((s) => ({ ...s }));
    const index = log.readIndex(tree('index.json'));
    same('index', [index.origin, index.region], [v.origin, v.region]);
    const checkpoint = log.openCheckpoint(policy, tree('checkpoint'));
    same('checkpoint', [checkpoint.origin, checkpoint.size], [v.origin, index.size]);
    for (const { entry, manifest, window } of index.exports) {
      const file = window.files.find((f) => f.kind === 'keys');
      const proof = log.openProof(policy, tree(`${file.path}.tlog-proof`));
      same('proof of the manifest', [proof.index, proof.entry], [entry, manifest]);
      const data = tree(file.path);
      same('file', [data.length, sha256Hex(data)], [file.size, file.sha256]);
      const set = readKeySet(data);
      same('window', [wire.schemes[set.scheme].name, set.start, set.end, set.keys.length], [window.scheme, window.start, window.end, file.keys]);
      keys.push(...set.keys);
      matches(set.scheme, set.keys, sightings).forEach((s) => found.add(s));
    }
    const plain = (k) => [k.secret instanceof Uint8Array ? hex(k.secret) : k.secret, k.start, k.count, k.risk, k.days ?? k.days_since_onset].join();
    same('keys', keys.map(plain).sort(), v.keys.map(plain).sort());
    for (const s of sightings) same(`match: ${s.why}`, found.has(s), s.match);

    for (const p of v.proofs) {
      holds(`proof: ${p.name}`, p.good, () => {
        const { entry } = log.openProof(log.readPolicy(utf8(p.policy)), utf8(p.proof));
        const data = tree(p.file);
        const of = p.file === 'keyring' ? [log.readFileEntry(entry)] : log.readWindow(entry).files;
        if (!of.some((f) => f.size === data.length && f.sha256 === sha256Hex(data))) throw new Error('not the entry of the file');
      });
    }
  },

  'phone/notices.json': (v) => {
    const policy = log.readPolicy(bytes('phone/tree/policy'));
    for (const { name, text } of v.good) holds(`notices: ${name}`, true, () => notices.readNotices(utf8(text)));
    for (const { name, text } of v.refused) holds(`notices: ${name}`, false, () => notices.readNotices(utf8(text)));
    for (const { now, languages, ...want } of v.shown) same(`shown at ${now}`, notices.show({ bytes: utf8(v.good[0].text) }, now, languages), want);
    for (const r of v.reads) {
      const known = r.known ? { ...r.known, bytes: utf8(r.known.text) } : undefined;
      holds(`notices: ${r.name}`, r.taken, () => notices.openNotices(policy, utf8(r.text), utf8(r.proof), r.service, known));
    }
    for (const c of v.contacts) {
      const got = [wire.GAEN, wire.BLUEZONE].flatMap((scheme) => {
        const keys = v.keys.filter((k) => k.scheme === scheme).map((k) => ({
          secret: unhex(k.secret), start: k.start, count: k.count, days: k.days_since_onset, reportType: k.report_type,
        }));
        return contacts(scheme, keys, c.heard, c.rule);
      });
      same(`contacts: ${c.name}`, sorted(got), c.contacts);
    }
  },

  'permit/rfc9497-poprf-ristretto255.json': (v) => {
    for (const x of v.vectors) {
      const info = unhex(x.info);
      const items = x.input.map((input, i) => ({
        input: unhex(input), blind: unhex(x.blind[i]), evaluated: unhex(x.evaluated[i]), blinded: unhex(x.blinded[i]),
      }));
      items.forEach((it) => same('blinded', permit.blindInput(it.input, it.blind), it.blinded));
      if (x.batch === 1) {
        const output = permit.finalize({ ...items[0], info, publicKey: unhex(v.public_key), proof: unhex(x.proof) });
        same('output', output, x.output[0]);
      } else {
        const key = permit.tweakedKey(unhex(v.public_key), info);
        const outputs = ristretto255_oprf.poprf(info).finalizeBatch(items, unhex(x.proof), key);
        same('outputs', outputs.map(hex), x.output);
      }
    }
  },

  'permit/hpke-xwing.json': (v) => {
    const { cipherText, sharedSecret } = xwing.encapsulate(unhex(v.pkRm), unhex(v.ikmE));
    same('enc', cipherText, v.enc);
    same('shared secret', sharedSecret, v.shared_secret);
    same('decapsulated', xwing.decapsulate(unhex(v.enc), unhex(v.skRm)), v.shared_secret);
    const s = seal.keySchedule(unhex(v.shared_secret), unhex(v.info));
    same('key schedule', [s.key, s.nonce, s.exporter].map(hex), [v.key, v.base_nonce, v.exporter_secret]);
  },

  'permit/exchange.json': (v) => v.exchanges.forEach((x) => exchange(v, x)),

  'gaen/rpi.json': (v) => {
    const key = { secret: unhex(v.tek), start: v.rolling_start_interval_number, count: v.rolling_period };
    same('RPIK', rpiKey(key.secret), v.rpi_key);
    same('RPIs', ids(wire.GAEN, key).map(hex), v.rpis);
  },

  'bluezone/vectors.json': (v) => {
    const list = (seed, count) => ids(wire.BLUEZONE, { secret: unhex(seed.toLowerCase()), start: 0, count });
    for (const chain of v.chains) {
      for (const d of chain.days) {
        const got = list(d.seed, chain.max);
        if (d.ids) same(`${chain.name}, day ${d.day}`, got.map((id) => hex(id).toUpperCase()), d.ids);
        same(`${chain.name}, day ${d.day}: digest`, hex(sha256(concat(...got))).toUpperCase(), d.ids_sha256);
      }
    }
    for (const s of v.safe_seeds) same('safe seed', hex(sha256(concat(...list(s.seed, s.count)))).toUpperCase(), s.ids_sha256);
  },

  // Not named by PHONES.md: the only vectors of a quorum of witnesses.
  'c2sp/checkpoint.json': (v) => {
    const policy = log.readPolicy(bytes('c2sp/policy.txt'));
    const cp = log.openCheckpoint(policy, bytes('c2sp/checkpoint.txt'));
    same('checkpoint', [cp.origin, cp.size, hex(cp.root)], [v.origin, v.size, v.root_hex]);
    same('quorum', cp.quorum, true);
    const lines = v.signatures.filter((s) => s.role === 'log').map((s) => s.line);
    const alone = utf8(`${v.body}\n${lines.map((l) => (l.endsWith('\n') ? l : l + '\n')).join('')}`);
    same('no witnesses', log.openCheckpoint(policy, alone).quorum, false);
    same('entry 3', log.openProof(policy, bytes('c2sp/entry3.tlog-proof')).entry, v.entries[3]);
  },
  'c2sp/merkle.json': (v) => {
    for (const x of v.inclusion) {
      const leaf = sha256(concat(be(0, 1), utf8(`entry ${x.index}\n`)));
      same(`inclusion of ${x.index} in ${x.size}`, log.rootOf(leaf, x.index, x.size, x.proof_hex.map(unhex)), x.root_hex);
    }
  },
};

// exchange opens the request and the reply of a vector.
function exchange(v, x) {
  const got = seal.openRequest(v.origin, unhex(v.recipient_seed), unhex(v.recipient_public), unhex(x.request));
  same(`${x.name}: export`, got.export, x.export);
  same(`${x.name}: request`, got.plain, x.request_plain);
  same(`${x.name}: reply`, seal.openReply(got, unhex(x.reply)), x.reply_plain);
  if (x.encapsulation_random) {
    const sealed = seal.seal(v.origin, unhex(v.recipient_public), got.plain, unhex(x.encapsulation_random));
    same(`${x.name}: sealed`, sealed.request, x.request);
  }
  return got;
}

for (const [name, check] of Object.entries(checksOf)) {
  const before = differences;
  try {
    check(json(name));
  } catch (err) {
    differences++;
    console.error(err);
  }
  console.log(`${differences === before ? 'ok  ' : 'FAIL'} ${name}`);
}
console.log(`${checks} checks, ${differences} differences`);
process.exitCode = differences ? 1 : 0;
