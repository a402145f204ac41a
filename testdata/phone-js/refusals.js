// Servers that misbehave, on loopback: what this client does then (PHONES.md 2, 11). Exit code
// 1 if it does something else.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { ml_kem768_x25519 as xwing } from '@noble/post-quantum/hybrid.js';
import { dayOf } from './bytes.js';
import { Phone } from './client.js';
import { readPolicy } from './log.js';

const file = (name) => readFileSync(new URL(`../vectors/phone/tree/${name}`, import.meta.url));

// against runs what a phone does against a server, and gives its error and the number of
// requests.
async function against(answer, act) {
  let requests = 0;
  const server = http.createServer((request, response) => {
    requests++;
    request.resume();
    request.on('end', () => answer(request, response));
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  const phone = new Phone({
    service: `http://127.0.0.1:${server.address().port}`, policy: readPolicy(file('policy')), scheme: 1,
    patience: { answer: 300, lost: [10, 20] },
  });
  const today = dayOf(Date.now() / 1000);
  const seals = new Map([today, today + 1].map((day) => [day, xwing.keygen().publicKey]));
  phone.ring = { origin: 'log.example/hai-phong', region: 'VN-HP', seals, permits: new Map() };
  const began = Date.now();
  const error = await act(phone).then(() => undefined, (err) => err.message);
  server.closeAllConnections();
  server.close();
  return { error, requests, took: Date.now() - began };
}

const upload = (phone) => phone.coverRedeem();

const wrongType = await against((_, response) => response.writeHead(415).end(), upload);
assert.match(wrongType.error, /Content-Type/);
assert.equal(wrongType.requests, 1, 'after 415 nothing is sent again');

const cutOff = await against((request) => request.socket.destroy(), upload);
assert.ok(cutOff.error);
assert.equal(cutOff.requests, 3, 'what is lost is sent twice more');

const silent = await against(() => {}, (phone) => phone.index());
assert.ok(silent.error);
assert.ok(silent.took < 5000, 'a silent server is waited for without end');

const endless = await against((_, response) => response.writeHead(200).end(Buffer.alloc(128 * 1024 + 1)), (phone) => phone.file('checkpoint', 128 << 10));
assert.match(endless.error, /too long/);

// An index that names entries which the checkpoint beside it does not cover.
const checkpoint = file('checkpoint').toString();
const size = Number(checkpoint.split('\n')[1]);
const index = JSON.parse(file('index.json'));
const ahead = { ...index, size: size + 1, exports: [{ ...index.exports[0], entry: size }] };
const tree = { '/index.json': JSON.stringify(ahead, null, 1) + '\n', '/checkpoint': checkpoint };
const older = await against(({ url }, response) => (url in tree ? response.end(tree[url]) : response.writeHead(404).end()), (phone) => phone.download());
assert.match(older.error, /checkpoint older than the index/);
assert.equal(older.requests, 2, 'no file is fetched then');

console.log('every refusal holds');
