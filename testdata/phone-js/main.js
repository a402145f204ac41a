// main.js URL POLICY_FILE CODE SCHEME KEYS.json HEARD.csv
//
// One case from code to match: keyring, redeem, cover, upload at once (this is a test: an app
// waits for its scheduled time), publication, matching. Prints one JSON line for every match
// and one at the end.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fail, unhex } from './bytes.js';
import { Phone } from './client.js';
import { readPolicy } from './log.js';
import { contacts, lastID, matches, published, sorted } from './match.js';
import { ruleOf, show } from './notices.js';
import { reasons, schemes } from './wire.js';

const patience = 10; // seconds after publish_by

function done(reply, what) {
  if (reply.status === 0) return reply;
  const record = reply.record ? `, record ${reply.record}` : '';
  return fail(`${what}: ${reasons[reply.reason]}${record}${reply.retryMinutes ? `, again in ${reply.retryMinutes} minutes` : ''}`);
}

function readSightings(csv, scheme) {
  const idSize = { gaen: 32, bluezone: 24 }[schemes[scheme].name];
  return csv.split('\n').map((l) => l.trim()).filter(Boolean).map((line) => {
    const m = /^([0-9a-f]+),([0-9]+)$/i.exec(line);
    if (!m || m[1].length !== idSize) fail(`not a sighting: ${line}`);
    return { id: m[1].toLowerCase(), seen: Number(m[2]) };
  });
}

async function main([url, policyFile, code, schemeName, keysFile, heardFile]) {
  if (heardFile === undefined) fail('usage: main.js URL POLICY_FILE CODE SCHEME KEYS.json HEARD.csv');
  const scheme = Number(Object.keys(schemes).find((s) => schemes[s].name === schemeName) ?? fail('SCHEME is gaen or bluezone'));
  const own = JSON.parse(readFileSync(keysFile, 'utf8')).map((k) => ({ secret: unhex(k.key), start: k.start, count: k.count, risk: k.risk ?? 0 }));
  const sightings = readSightings(readFileSync(heardFile, 'utf8'), scheme);

  const phone = new Phone({ service: url, policy: readPolicy(readFileSync(policyFile)), scheme });
  await phone.readKeyring();
  await phone.readNotices();
  done(await phone.redeem(code), 'redeem');
  await phone.coverRedeem();
  await phone.coverUpload();

  const { handedIn, replies } = await phone.upload(own);
  if (replies.length === 0) fail('no key has ended within the last 15 days');
  replies.forEach((r) => done(r, 'upload'));
  const again = await phone.upload(handedIn);
  if (JSON.stringify(again.replies) !== JSON.stringify(replies)) fail('the second upload was answered otherwise');
  const publishBy = Math.max(...replies.map((r) => r.publishBy));
  console.error(`${handedIn.length} of ${own.length} keys handed in, public by ${new Date(publishBy * 1000).toISOString()}`);

  // An app downloads every five minutes at most.
  const found = new Set();
  let missing = handedIn;
  while (missing.length > 0) {
    for (const set of await phone.download()) {
      matches(scheme, set.keys, sightings).forEach((s) => found.add(s));
      const ids = published(scheme, set.keys);
      missing = missing.filter((key) => !ids.has(lastID(scheme, key)));
    }
    if (missing.length > 0 && Date.now() / 1000 > publishBy + patience) fail(`${missing.length} keys were accepted and kept back`);
    if (missing.length > 0) await sleep(1000);
  }
  for (const { id, seen } of sightings.filter((s) => found.has(s))) console.log(JSON.stringify({ id, seen }));
  const near = sorted(contacts(scheme, phone.keys, sightings, ruleOf(phone.notices)));
  if (near.length > 0) console.error(show(phone.notices, Date.now() / 1000, ['en']).title);
  console.log(JSON.stringify({ matches: found.size, published: true, contacts: near }));
}

main(process.argv.slice(2)).catch((err) => {
  console.error(`phone-js: ${err.message}`);
  process.exitCode = 1;
});
