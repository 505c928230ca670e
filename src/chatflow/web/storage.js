// Small values in localStorage: identity, theme, and what others keep here. A browser that forbids it merely forgets them; outboxes.js and
// drafts.js hold what must not be forgotten.

import { readOne } from "./database.js";
import { randomUserId, usernameProblem } from "./text.js";

/** Every key of the page begins with this. */
export const KEY = "chatflow.";
/** Milliseconds to wait for a silent storage before making a new identity. */
const PATIENCE_MS = 2_000;

/** A value as it was written; `fallback` if there is none. */
export function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(KEY + key)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function write(key, value) {
  try {
    localStorage.setItem(KEY + key, JSON.stringify(value));
  } catch {
    // Full or forbidden: the page works without it.
  }
}

export function remove(key) {
  try {
    localStorage.removeItem(KEY + key);
  } catch {
    // As above.
  }
}

/** `changed()` runs when another tab wrote or removed this value. */
export function watch(key, changed) {
  addEventListener("storage", (event) => event.key === KEY + key && changed());
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
  watch("identity", () => {
    const identity = storedIdentity();
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
