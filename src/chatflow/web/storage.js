// What outlives a reload. Everything is small, bounded and optional: a browser that forbids storage only forgets.

import { MAX_ROOMS } from "./bounds.js";
import { canonicalRoom, randomUserId, usernameProblem } from "./text.js";

function read(area, key, fallback) {
  try {
    const value = JSON.parse(area().getItem(`chatflow.${key}`));
    return value ?? fallback;
  } catch {
    return fallback;
  }
}

function write(area, key, value) {
  try {
    if (value === null) area().removeItem(`chatflow.${key}`);
    else area().setItem(`chatflow.${key}`, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works on, it only will not remember.
  }
}

const everyTab = () => localStorage;
const thisTab = () => sessionStorage;

/** Who the person is: `{userId, username}`. The id is made once; the name is null until one was chosen. */
export function loadIdentity(limits) {
  const stored = read(everyTab, "identity", {});
  const known = Number.isSafeInteger(stored.userId) && stored.userId > 0;
  const username = typeof stored.username === "string" ? stored.username : "";
  const identity = {
    userId: known ? stored.userId : randomUserId(),
    username: usernameProblem(username, limits) === null ? username : null,
  };
  if (!known) saveIdentity(identity);
  return identity;
}

export function saveIdentity(identity) {
  write(everyTab, "identity", identity);
}

/** The sidebar's rooms: `[{name, lastRead, visitedAt}]`, at most MAX_ROOMS; `lastRead` is a seq or null. */
export function loadRooms() {
  const stored = read(everyTab, "rooms", []);
  if (!Array.isArray(stored)) return [];
  return stored
    .filter((room) => room !== null && typeof room === "object" && canonicalRoom(String(room.name)) === room.name)
    .slice(0, MAX_ROOMS)
    .map(({ name, lastRead, visitedAt }) => ({
      name,
      lastRead: Number.isSafeInteger(lastRead) ? lastRead : null,
      visitedAt: Number(visitedAt) || 0,
    }));
}

/** Another tab may know rooms that this one does not: they stay, unless this tab has left them. */
export function saveRooms(rooms, left) {
  const mine = new Set(rooms.map(({ name }) => name));
  const others = loadRooms().filter(({ name }) => !mine.has(name) && !left.has(name));
  write(everyTab, "rooms", [...others, ...rooms].slice(-MAX_ROOMS));
}

export function loadDraft(room) {
  return String(read(everyTab, `draft.${room}`, ""));
}

export function saveDraft(room, text) {
  write(everyTab, `draft.${room}`, text === "" ? null : text);
}

/** Messages that no server has acknowledged yet: `[{id, text, at, state, reason}]`, kept for this tab only. */
export function loadOutbox(room) {
  const stored = read(thisTab, `outbox.${room}`, []);
  return Array.isArray(stored) ? stored.filter((entry) => typeof entry?.id === "string") : [];
}

export function saveOutbox(room, entries) {
  write(thisTab, `outbox.${room}`, entries.length === 0 ? null : entries);
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
