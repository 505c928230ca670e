// Small values in localStorage: identity, rooms, theme. A browser that forbids it merely forgets them; outboxes.js and
// drafts.js hold what must not be forgotten.

import { readOne } from "./database.js";
import { canonicalRoom, randomUserId, usernameProblem } from "./text.js";

/** Every key of the page begins with this. */
export const KEY = "chatflow.";
/** Milliseconds to wait for a silent storage before making a new identity. */
const PATIENCE_MS = 2_000;

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(KEY + key)) ?? fallback;
  } catch {
    return fallback;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(KEY + key, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works without it.
  }
}

/**
 * The person: `{userId, username}`. The id is made once; the name is null until one is chosen.
 *
 * Browsers write localStorage late, so after a crash only the messages database may still have the identity.
 */
export async function loadIdentity(limits) {
  const kept = storedIdentity() ?? known(await lastWriter());
  const stored = storedIdentity() ?? kept ?? { userId: randomUserId() };
  const username = typeof stored.username === "string" ? stored.username : "";
  const identity = {
    userId: stored.userId,
    username: usernameProblem(username, limits) === null ? username : null,
  };
  saveIdentity(identity);
  return identity;
}

/** Null if there is none. */
export function storedIdentity() {
  return known(read("identity", null));
}

export function saveIdentity(identity) {
  write("identity", identity);
}

/** `changed(identity)` runs when another tab saved one. */
export function watchIdentity(changed) {
  addEventListener("storage", ({ key }) => {
    const identity = key === `${KEY}identity` ? storedIdentity() : null;
    if (identity !== null) changed(identity);
  });
}

function known(stored) {
  return Number.isSafeInteger(stored?.userId) && stored.userId > 0 ? stored : null;
}

async function lastWriter() {
  const late = new Promise((resolve) => setTimeout(() => resolve(null), PATIENCE_MS));
  return Promise.race([readOne("identity", "last").catch(() => null), late]);
}

/** The sidebar's rooms: `[{name, lastRead, visitedAt}]`; `lastRead` is a seq or null. */
export function loadRooms() {
  const stored = read("rooms", []);
  if (!Array.isArray(stored)) return [];
  return stored
    .filter((room) => room !== null && typeof room === "object" && canonicalRoom(String(room.name)) === room.name)
    .map(({ name, lastRead, visitedAt }) => ({
      name,
      lastRead: Number.isSafeInteger(lastRead) ? lastRead : null,
      visitedAt: Number(visitedAt) || 0,
    }));
}

/** Keeps rooms that only another tab knows, unless this tab has left them. */
export function saveRooms(rooms, left) {
  const mine = new Set(rooms.map(({ name }) => name));
  const others = loadRooms().filter(({ name }) => !mine.has(name) && !left.has(name));
  write("rooms", [...others, ...rooms]);
}

export function loadTheme() {
  try {
    return localStorage.getItem("chatflow.theme");
  } catch {
    return null;
  }
}

/** `theme` is "light", "dark" or null for the system's. Stored bare, since theme.js reads it before any module. */
export function saveTheme(theme) {
  try {
    if (theme === null) localStorage.removeItem("chatflow.theme");
    else localStorage.setItem("chatflow.theme", theme);
  } catch {
    // As above.
  }
}
