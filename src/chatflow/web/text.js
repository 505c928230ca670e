// The rules of names, rooms and messages, as the wire protocol states them. Pure functions.

const ROOM_NAME = /^[A-Za-z0-9._-]{1,64}$/;
const USERNAME = /^[A-Za-z0-9]+$/;

/** The room that `raw` means (`room5` is `5`), or null when it is not a room name. */
export function canonicalRoom(raw) {
  const name = raw.trim().replace(/^#\/?/, "");
  if (!ROOM_NAME.test(name)) return null;
  return /^room\d+$/.test(name) ? name.slice(4) : name;
}

/** A note that the typed name is an alias of another room; empty when there is nothing to say. */
export function roomNote(raw) {
  const [typed, name] = [raw.trim().replace(/^#\/?/, ""), canonicalRoom(raw)];
  return name === null || name === typed ? "" : `${typed} is another name for room ${name}.`;
}

/** The valid room name nearest to what somebody typed, or null. */
export function suggestRoom(raw) {
  const cleaned = raw.trim().replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 64);
  return canonicalRoom(cleaned);
}

/** The room part of a location hash, still unchecked; empty when the hash names none. */
export function roomOfHash(hash) {
  const raw = hash.replace(/^#\/?/, "");
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw; // A lone % is no escape; the name check will reject it.
  }
}

/** Why `name` cannot be a username, in words; null when it can. */
export function usernameProblem(name, { usernameMin, usernameMax }) {
  if (name === "") return "Please pick a name.";
  if (!USERNAME.test(name)) return "Letters A–Z and digits only, please: no spaces or signs.";
  if (name.length < usernameMin) return `A little longer, please: at least ${usernameMin} characters.`;
  if (name.length > usernameMax) return `A little shorter, please: at most ${usernameMax} characters.`;
  return null;
}

/** The token in what somebody pasted: bare, in quotes, after "Bearer", or in an address; empty if there is none. */
export function tokenOf(raw) {
  const text = raw.replace(/^.*[#&]token=/s, "").replace(/&.*$/s, "").replace(/^\s*(authorization:)?\s*bearer\s/i, "");
  return text.replace(/[\s"'`]+/g, "");
}

/** What the server says in half a sentence, as a whole one. */
export function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** Length as the server counts it, in code points rather than UTF-16 units. */
export function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** A random user id, 1 .. 2^53-1. */
export function randomUserId() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high >>> 11) * 2 ** 32 + low || 1;
}

let lastMs = 0;
let sequence = 0;

/** A UUIDv7 (RFC 9562) that sorts after every earlier one of this page, even within a millisecond. */
export function uuid7(nowMs = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  if (nowMs > lastMs) {
    lastMs = nowMs;
    sequence = ((bytes[6] & 0x07) << 8) | bytes[7];
  } else if (++sequence > 0xfff) {
    lastMs += 1;
    sequence = 0;
  }
  for (let index = 0; index < 6; index += 1) bytes[index] = Math.floor(lastMs / 2 ** (8 * (5 - index))) % 256;
  bytes[6] = 0x70 | (sequence >> 8);
  bytes[7] = sequence & 0xff;
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** "1 message", "2 messages". */
export function counted(number, noun) {
  return `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
}
