// The phone: keyring, redeem, upload, cover, downloads (PHONES.md 2, 3, 7 to 11).
//
// What a phone keeps in durable storage is kept in memory here, and times are not drawn: the
// caller decides when. An app does neither (PHONES.md 10, 11).

import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { dayOf, fail, sha256Hex } from './bytes.js';
import { readKeySet } from './keyset.js';
import * as log from './log.js';
import * as notices from './notices.js';
import * as permit from './permit.js';
import * as seal from './seal.js';
import * as wire from './wire.js';

const now = () => Date.now() / 1000;
// In milliseconds: how long an answer may take, and what passes before each time that a lost
// request is sent again.
const patience = { answer: 30_000, lost: [1000, 2000] };

// call makes one request on a connection of its own.
function call(url, { method = 'GET', type, body, most, patience: { answer } }) {
  const u = new URL(url);
  const headers = body ? { 'Content-Type': type, 'Content-Length': body.length } : {};
  const options = { method, headers, agent: false, signal: AbortSignal.timeout(answer) };
  return new Promise((resolve, reject) => {
    const request = (u.protocol === 'https:' ? https : http).request(u, options, (response) => {
      const parts = [];
      let size = 0;
      response.on('data', (part) => {
        parts.push(part);
        if ((size += part.length) > most) response.destroy(new Error(`${u.pathname}: too long`));
      });
      response.on('end', () => resolve({ status: response.statusCode, body: new Uint8Array(Buffer.concat(parts)) }));
      response.on('error', reject);
      response.on('close', () => reject(new Error(`${u.pathname}: cut off`)));
    });
    request.on('error', reject);
    request.end(body);
  });
}

export class Phone {
  // tree is the public tree, the service's own unless told; tests have less patience.
  constructor({ service, tree = service, policy, scheme, ...rest }) {
    Object.assign(this, { patience, ...rest, service: service.replace(/\/$/, ''), tree: tree.replace(/\/$/, ''), policy, scheme });
    this.seen = new Set(); // manifests whose file was used
    this.keys = []; // published keys of the phone's scheme
  }

  async file(path, most) {
    const { status, body } = await call(`${this.tree}/${path}`, { most, patience: this.patience });
    return status === 200 ? body : fail(`${path}: status ${status}`, status === 404 || status === 410 ? 'MISSING' : 'STATUS');
  }

  // readKeyring fetches and verifies the keyring; an older one is compared and replaced.
  async readKeyring() {
    const bytes = await this.file('keyring', 65536);
    const proof = await this.file('keyring.tlog-proof', 256 << 10);
    this.ring = log.openKeyring(this.policy, bytes, proof, dayOf(now()), this.ring);
  }

  // readNotices fetches and verifies the notices; those known stay if it fails. No file is no
  // failure for a phone that knows none.
  async readNotices() {
    if (!this.ring) await this.readKeyring();
    let bytes;
    try {
      bytes = await this.file(notices.path, notices.most);
    } catch (err) {
      if (err.code === 'MISSING' && !this.notices) return;
      throw err;
    }
    const proof = await this.file(`${notices.path}.tlog-proof`, 256 << 10);
    this.notices = notices.openNotices(this.policy, bytes, proof, this.ring.origin, this.notices);
  }

  // exchange seals a plaintext, sends it, and gives the reply. What is lost is sent again.
  async exchange(plain) {
    const [, operation, , , sent] = plain;
    let reread = false;
    for (let tries = 0; ; ) {
      const { ring, publicKey } = await this.sealKey();
      const sealed = seal.seal(ring.origin, publicKey, plain);
      let reason;
      let opened;
      try {
        const answer = await call(`${this.service}/bluekey.v1.PhoneService/Exchange`, {
          method: 'POST', type: 'application/proto', body: wire.protoBody(sealed.request), most: 64 << 10, patience: this.patience,
        });
        if (answer.status === 200) opened = seal.openReply(sealed, wire.readProtoBody(answer.body));
        else reason = wire.readRefusal(Buffer.from(answer.body).toString());
        if (answer.status === 404 || answer.status === 501) reason ||= 'the address is wrong';
        if (answer.status === 415) reason = 'not a Content-Type of the service';
        if (reason === '') fail(`status ${answer.status}`);
      } catch (err) {
        if (tries === this.patience.lost.length) throw err;
        await sleep(this.patience.lost[tries++]);
        continue;
      }
      if (opened) return wire.readReply(operation, opened, operation === wire.UPLOAD ? sent : 0);
      if (reason !== 'unknown_key' || reread) fail(`refused in the clear: ${reason}`);
      reread = true;
      await this.readKeyring();
    }
  }

  // sealKey gives the key of today, from a keyring read anew if the one at hand has none.
  async sealKey() {
    const today = dayOf(now());
    if (!this.ring?.seals.has(today)) await this.readKeyring();
    return { ring: this.ring, publicKey: this.ring.seals.get(today) };
  }

  async redeem(code) {
    const canonical = wire.readCode(code);
    const drawn = permit.draw(); // an app stores this now
    const reply = await this.exchange(wire.redeemRequest({ code: canonical, blinded: drawn.blinded }));
    if (reply.status === 0) this.permit = permit.takePermit(this.ring, dayOf(now()), drawn, reply);
    return reply;
  }

  // upload hands in keys ({ secret, start, count, risk }) under the permit, in as many uploads as
  // they need; it gives the replies.
  async upload(keys) {
    const { interval, records: most } = wire.schemes[this.scheme];
    const ended = ({ start, count }) => now() - (start + count) * interval;
    const fit = keys.filter((k) => ended(k) >= 0 && ended(k) <= 15 * 86400);
    const records = wire.sortRecords(fit.map((k) => ({ ...k, days: wire.coarseDays(this.scheme, k.start, this.permit.onsetDay) })));
    const replies = [];
    for (let i = 0; i < records.length; i += most) {
      const reply = await this.exchange(permit.signUpload(this.ring, this.permit, this.scheme, records.slice(i, i + most)));
      replies.push(reply);
      if (reply.status !== 0) break;
    }
    return { handedIn: fit, replies };
  }

  // Cover. The replies are opened, decoded and forgotten.
  async coverRedeem() {
    await this.exchange(wire.redeemRequest({ code: '000000000', blinded: permit.draw().blinded, cover: true }));
  }

  async coverUpload() {
    const { ring } = await this.sealKey();
    await this.exchange(permit.coverUpload(ring, this.scheme, dayOf(now())));
  }

  index = async () => log.readIndex(await this.file('index.json', 16 << 20));

  // download reads what the index names and was not read yet, and gives the new key sets.
  // Nothing of a file is used before its proof and digest were right.
  async download() {
    const index = await this.index();
    const checkpoint = log.openCheckpoint(this.policy, await this.file('checkpoint', 128 << 10));
    if (checkpoint.origin !== index.origin) fail('index and checkpoint of two logs');
    if (index.exports.some(({ entry }) => entry >= checkpoint.size)) fail('a checkpoint older than the index: again in five minutes');
    const sets = [];
    for (const { entry, manifest, window } of index.exports) {
      const file = window.files.find((f) => f.kind === 'keys');
      if (this.seen.has(manifest) || window.scheme !== wire.schemes[this.scheme].name || window.keys === 0) continue;
      if (!file) fail(`entry ${entry}: this client reads .keys only`);
      const proofBytes = await this.file(`${file.path}.tlog-proof`, 256 << 10);
      let proof;
      try {
        proof = log.openProof(this.policy, proofBytes);
      } catch (err) {
        if (err.code === 'QUORUM') continue; // cosignatures may still come
        throw err;
      }
      if (proof.index !== entry || proof.entry !== manifest) fail(`entry ${entry}: the index says other than the log`);
      if (proof.checkpoint.origin !== window.origin) fail(`entry ${entry}: a window of another log`);
      const bytes = await this.file(file.path, file.size);
      if (bytes.length !== file.size || sha256Hex(bytes) !== file.sha256) fail(`${file.path}: other bytes than logged`);
      const set = readKeySet(bytes);
      if (set.scheme !== this.scheme || set.start !== window.start || set.end !== window.end || set.keys.length !== file.keys) {
        fail(`${file.path}: of another window`);
      }
      this.seen.add(manifest);
      sets.push(set);
    }
    this.keys.push(...sets.flatMap((s) => s.keys));
    return sets;
  }
}
