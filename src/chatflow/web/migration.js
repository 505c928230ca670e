// Takes over what earlier versions of the page stored: drafts without an owner, in localStorage, and each tab's outbox in
// its sessionStorage. Both become this person's; the old copy is deleted only after the new one is written.

import { KEY } from "./storage.js";

const OLD_DRAFT = `${KEY}draft.`;
const OLD_OUTBOX = `${KEY}outbox.`;

export function migrateDrafts(drafts) {
  for (const [room, text] of oldItems(() => localStorage, OLD_DRAFT)) {
    const own = drafts.load(room);
    drafts.save(room, own === "" || own === text ? text : `${own}\n${text}`);
    if (drafts.isKept) localStorage.removeItem(OLD_DRAFT + room);
  }
}

/** `{entries, forget()}`: what this tab's old outbox holds. */
export function oldOutbox() {
  const old = oldItems(() => sessionStorage, OLD_OUTBOX);
  return {
    entries: old.flatMap(([room, entries]) => entriesOf(entries).map((entry) => ({ ...entry, room }))),
    forget: () => old.forEach(([room]) => sessionStorage.removeItem(OLD_OUTBOX + room)),
  };
}

/** `[room, value]` of every key with this prefix; values that are not JSON are left alone. */
function oldItems(area, prefix) {
  try {
    const items = [];
    for (const key of Object.keys(area())) {
      if (key.startsWith(prefix)) items.push([key.slice(prefix.length), area().getItem(key)]);
    }
    return items.flatMap(([room, json]) => parsed(json).map((value) => [room, value]));
  } catch {
    return [];
  }
}

function parsed(json) {
  try {
    return [JSON.parse(json)];
  } catch {
    return [];
  }
}

function entriesOf(value) {
  if (!Array.isArray(value)) return [];
  return value
    .filter((entry) => typeof entry?.id === "string" && typeof entry.text === "string")
    .map(({ id, text, at, state, reason }) => ({
      id,
      text,
      at: typeof at === "string" ? at : new Date().toISOString(),
      state: state === "failed" ? "failed" : "pending",
      reason: typeof reason === "string" ? reason : null,
      final: false,
    }));
}
