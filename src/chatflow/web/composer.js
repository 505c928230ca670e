// Where messages are written: Enter sends, Shift+Enter breaks the line, each room keeps its draft.

import { byId, setText } from "./dom.js";
import { icon } from "./icons.js";
import { codePoints } from "./text.js";

/** The counter appears this many characters before the limit. */
const COUNTER_FROM = 100;

export class Composer {
  #form = byId("composer-form");
  #text = byId("composer-text");
  #counter = byId("counter");
  #button = byId("send");
  #limit;
  #send;
  #room = null;
  #drafts;
  #changed;
  #saving = null;
  // This room's draft as last read from the storage: only a difference is written, so that a tab
  // where nobody typed never overwrites another tab's draft.
  #known = "";
  // Drafts that became messages but are not stored as messages yet, by room.
  #taken = new Map();

  /**
   * `send(text)` returns null when the message cannot be taken now, and the text stays; otherwise a promise that
   * settles once the message no longer needs its draft. `changed()` runs after a draft was saved, or could not be.
   */
  constructor({ limit, send, drafts, changed }) {
    this.#limit = limit;
    this.#send = send;
    this.#drafts = drafts;
    this.#changed = changed;
    this.#button.append(icon("send"));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener("keydown", (event) => this.#key(event));
    this.#text.addEventListener("input", () => this.#typed());
    addEventListener("pagehide", () => this.#keep());
    addEventListener("resize", () => this.#fit());
  }

  get text() {
    return this.#text.value.trim();
  }

  clear() {
    this.#set("");
    this.#keep();
  }

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  /** Switch to a room; null hides the composer. */
  show(room) {
    this.#keep();
    this.#room = room;
    this.#form.hidden = room === null;
    if (room === null) return;
    const draft = this.#drafts.load(room.name);
    this.#known = draft === this.#taken.get(room.name) ? "" : draft;
    this.#text.value = this.#known;
    this.#text.placeholder = `Message #${room.name}`;
    setText(byId("composer-label"), `Message to ${room.name}`);
    this.#fit();
    this.#weigh();
  }

  /** Another tab wrote this room's draft. */
  reload(name) {
    if (this.#room?.name !== name || this.#text.value !== this.#known) return;
    this.#known = this.#drafts.load(name);
    this.#set(this.#known);
  }

  /** Put a message back for editing, before the text that is already here. */
  edit(text) {
    this.#set(this.#text.value === "" ? text : `${text}\n${this.#text.value}`);
    this.#keep();
    this.focus();
  }

  #key(event) {
    // While an input method is composing, Enter belongs to it (229: browsers that end the composition first).
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.#submit();
  }

  #typed() {
    this.#fit();
    this.#weigh();
    clearTimeout(this.#saving);
    this.#saving = setTimeout(() => this.#keep(), 300);
  }

  #submit() {
    const text = wellFormed(this.#text.value.trim());
    if (this.#room === null || !this.#sendable(text)) return;
    this.#keep();
    const name = this.#room.name;
    const taken = this.#send(text);
    if (taken === null) return;
    const draft = this.#text.value;
    this.#set("");
    this.#known = "";
    this.#taken.set(name, draft);
    taken.then(() => this.#forget(name, draft)); // Not earlier: if the browser dies in between, only the draft is left.
    this.focus();
  }

  /** Drop the draft that became a message, unless the text has changed since. */
  #forget(name, draft) {
    this.#taken.delete(name);
    const now = this.#room?.name === name ? this.#text.value : "";
    if (this.#drafts.load(name) === draft || now !== "") this.#drafts.save(name, now);
    if (this.#room?.name === name) this.#known = now;
    this.#changed();
  }

  #set(text) {
    this.#text.value = text;
    this.#fit();
    this.#weigh();
  }

  #sendable(text) {
    return text !== "" && codePoints(text) <= this.#limit;
  }

  #keep() {
    clearTimeout(this.#saving);
    if (this.#room === null || this.#text.value === this.#known) return;
    this.#known = this.#text.value;
    this.#drafts.save(this.#room.name, this.#known);
    this.#changed();
  }

  #weigh() {
    const text = this.#text.value.trim();
    const left = this.#limit - codePoints(text);
    this.#counter.hidden = left > COUNTER_FROM;
    this.#counter.classList.toggle("over", left < 0);
    setText(this.#counter, left < 0 ? `${-left} too many` : `${left} left`);
    this.#button.disabled = !this.#sendable(text);
  }

  #fit() {
    this.#text.style.height = "auto";
    if (!this.#form.hidden) this.#text.style.height = `${this.#text.scrollHeight}px`;
  }
}

/** Half an emoji (a lone surrogate) cannot travel as UTF-8: it becomes the replacement character. */
function wellFormed(text) {
  return text.toWellFormed?.() ?? text;
}
