// Notices (PHONES.md 11): what a contact reads, by which rule there is one, announcements.

import { fail, sha256Hex, text } from './bytes.js';
import { openProof, readFileEntry } from './log.js';

export const path = 'notice/notices.json';
export const most = 256 << 10;

// builtIn is the warning of a phone that has seen none.
const builtIn = {
  title: { vi: 'Có thể bạn đã ở gần ca bệnh', en: 'You may have been near a case' },
  text: {
    vi: 'Đây là thông báo có sẵn trong ứng dụng: ngành y tế chưa công bố thông báo nào.',
    en: 'These are the words of this app: the health service has published none yet.',
  },
  to_do: { vi: 'Hãy ở nhà và gọi trạm y tế.', en: 'Stay at home and call your health station.' },
  hotline: '',
  matching: { minutes: 15, tolerance: 120, onset_from: -2, onset_to: 10 },
};

const pick = (o, ...names) => Object.fromEntries(names.map((name) => [name, o[name]]));
const wording = (o) => pick(o, 'vi', 'en');

// write gives the one spelling of notices.
function write({ warning, announcements }) {
  const file = {};
  if (warning !== undefined) {
    file.warning = {
      title: wording(warning.title), text: wording(warning.text), to_do: wording(warning.to_do), hotline: warning.hotline,
      matching: pick(warning.matching, 'minutes', 'tolerance', 'onset_from', 'onset_to'),
    };
  }
  file.announcements = announcements.map((a) => ({ title: wording(a.title), text: wording(a.text), until: a.until }));
  const escape = (c) => `\\u00${c.charCodeAt(0).toString(16)}`;
  return JSON.stringify(file, null, 1).replace(/[<>&]/g, escape) + '\n';
}

function checkWording({ vi, en }, longest) {
  for (const s of [vi, en]) {
    if (typeof s !== 'string' || s.trim() === '' || [...s].length > longest) fail('notices: length of a text');
    if (/[^\n\P{Cc}]|[\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(s)) fail('notices: a text that is not plain');
  }
}

function checkNumber(n, from, to) {
  if (!Number.isInteger(n) || n < from || n > to) fail('notices: a number');
}

function checkDay(day) {
  const at = /^2[01][0-9]{2}-[0-9]{2}-[0-9]{2}$/.test(day) ? new Date(`${day}T00:00:00Z`) : NaN;
  if (isNaN(at) || at.toISOString().slice(0, 10) !== day) fail('notices: not a day');
}

export function readNotices(bytes) {
  if (bytes.length > most) fail('notices too long');
  const s = text(bytes);
  const notices = JSON.parse(s);
  if (write(notices) !== s) fail('notices: another spelling');
  const { warning, announcements } = notices;
  if (warning) {
    checkWording(warning.title, 80);
    checkWording(warning.text, 2000);
    checkWording(warning.to_do, 2000);
    if (typeof warning.hotline !== 'string' || !/^[+0-9 .-]{1,20}$/.test(warning.hotline)) fail('notices: hotline');
    const { minutes, tolerance, onset_from: from, onset_to: to } = warning.matching;
    checkNumber(minutes, 1, 240);
    checkNumber(tolerance, 0, 3600);
    checkNumber(from, -14, 14);
    checkNumber(to, from, 14);
  }
  for (const a of announcements) {
    checkWording(a.title, 80);
    checkWording(a.text, 2000);
    checkDay(a.until);
  }
  return notices;
}

// openNotices verifies notices by their proof. service is the origin of the keyring, known
// what the phone has stored: { origin, entry, time, bytes }, or undefined.
export function openNotices(policy, bytes, proofBytes, service, known) {
  const { entry, index, checkpoint } = openProof(policy, proofBytes);
  const file = readFileEntry(entry);
  if (file.path !== path) fail('a proof of another file');
  if (file.size !== bytes.length || file.sha256 !== sha256Hex(bytes)) fail('the notices are just being replaced: again in five minutes', 'REPLACED');
  const { origin } = checkpoint;
  if (file.time >= 2 ** 32) fail('notices of a time to come');
  if (origin !== service) fail('notices of another log');
  if (known && (origin === known.origin ? index < known.entry : file.time < known.time)) fail('notices older than those known');
  if (origin === known?.origin && index === known.entry && file.sha256 !== sha256Hex(known.bytes)) fail('two texts in one entry: tell an auditor');
  readNotices(bytes);
  return { origin, entry: index, time: file.time, bytes };
}

const warningOf = (known) => (known && readNotices(known.bytes).warning) ?? builtIn;

export const ruleOf = (known) => warningOf(known).matching;

// show gives what an app shows at a time (Unix seconds) to an owner with these languages.
export function show(known, now, languages) {
  const lang = languages.map((l) => /^(vi|en)([-_]|$)/i.exec(l)?.[1].toLowerCase()).find(Boolean) ?? 'vi';
  const today = new Date((now + 7 * 3600) * 1000).toISOString().slice(0, 10);
  const { title, text, to_do, hotline } = warningOf(known);
  const announcements = known ? readNotices(known.bytes).announcements.filter((a) => today <= a.until) : [];
  return {
    title: title[lang], text: text[lang], to_do: to_do[lang], hotline,
    announcements: announcements.map((a) => [a.title[lang], a.text[lang], a.until]),
  };
}
