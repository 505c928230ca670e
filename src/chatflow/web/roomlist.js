// The sidebar's rooms in localStorage, shared by one person's tabs.

import { read, write } from "./storage.js";
import { canonicalRoom } from "./text.js";

/** Milliseconds within which changes are written together. */
const DELAY_MS = 500;

export class RoomList {
  #key;
  #rooms;
  #left = new Set();
  #timer = null;

  /** `owner` is a user id, or null: names without proof share one list. `rooms()` gives this tab's rooms. */
  constructor(owner, rooms) {
    this.#key = owner === null ? "rooms" : `rooms.${owner}`;
    this.#rooms = rooms;
  }

  /** `[{name, lastRead, visitedAt}]`; `lastRead` is a seq or null. */
  load() {
    const stored = read(this.#key, []);
    if (!Array.isArray(stored)) return [];
    return stored
      .filter((room) => room !== null && typeof room === "object" && canonicalRoom(String(room.name)) === room.name)
      .map(({ name, lastRead, visitedAt }) => ({
        name,
        lastRead: Number.isSafeInteger(lastRead) ? lastRead : null,
        visitedAt: Number(visitedAt) || 0,
      }));
  }

  joined(name) {
    this.#left.delete(name);
  }

  left(name) {
    this.#left.add(name);
  }

  save() {
    this.#timer ??= setTimeout(() => this.saveNow(), DELAY_MS);
  }

  /** Keeps rooms that only another tab knows, unless this tab has left them. */
  saveNow() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const mine = this.#rooms().map(({ name, lastRead, visitedAt }) => ({ name, lastRead, visitedAt }));
    const names = new Set(mine.map(({ name }) => name));
    const others = this.load().filter(({ name }) => !names.has(name) && !this.#left.has(name));
    write(this.#key, [...others, ...mine]);
  }
}
