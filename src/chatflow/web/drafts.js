// One person's drafts, a text per room, in localStorage, which stores a text at once even while the page closes. What it
// refuses stays in memory, and `isKept` says so.

import { KEY } from "./storage.js";

export class Drafts {
  #prefix;
  #unkept = new Map();

  /** `changed(room)` runs when another tab wrote or sent this room's draft. */
  constructor(userId, changed) {
    this.#prefix = `${KEY}drafts.${userId}.`;
    addEventListener("storage", ({ key }) => {
      if (key?.startsWith(this.#prefix)) changed(key.slice(this.#prefix.length));
    });
  }

  get isKept() {
    return this.#unkept.size === 0;
  }

  load(room) {
    if (this.#unkept.has(room)) return this.#unkept.get(room);
    try {
      return localStorage.getItem(this.#prefix + room) ?? "";
    } catch {
      return "";
    }
  }

  save(room, text) {
    try {
      if (text === "") localStorage.removeItem(this.#prefix + room);
      else localStorage.setItem(this.#prefix + room, text);
      this.#unkept.delete(room);
    } catch {
      if (text === "") this.#unkept.delete(room);
      else this.#unkept.set(room, text);
    }
  }
}
