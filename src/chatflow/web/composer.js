// Where messages are written: Enter sends, Shift+Enter breaks the line, each room keeps its draft.

import { byId, setText } from "./dom.js";
import { icon } from "./icons.js";
import { loadDraft, saveDraft } from "./storage.js";
import { codePoints } from "./text.js";

/** The counter shows itself this many characters before the limit. */
const COUNTER_FROM = 100;

export class Composer {
  #form = byId("composer-form");
  #text = byId("composer-text");
  #counter = byId("counter");
  #button = byId("send");
  #limit;
  #send;
  #room = null;
  #saving = null;

  /** `send(text)` returns false when the message cannot be taken now; the text then stays. */
  constructor({ limit, send }) {
    this.#limit = limit;
    this.#send = send;
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

  focus() {
    this.#text.focus({ preventScroll: true });
  }

  /** Write for this room from now on; null hides the composer. */
  show(room) {
    this.#keep();
    this.#room = room;
    this.#form.hidden = room === null;
    if (room === null) return;
    this.#text.value = loadDraft(room.name);
    this.#text.placeholder = `Message #${room.name}`;
    setText(byId("composer-label"), `Message to ${room.name}`);
    this.#fit();
    this.#weigh();
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
    if (this.#room === null || !this.#sendable(text) || !this.#send(text)) return;
    this.#text.value = "";
    this.#keep();
    this.#fit();
    this.#weigh();
    this.focus();
  }

  #sendable(text) {
    return text !== "" && codePoints(text) <= this.#limit;
  }

  #keep() {
    clearTimeout(this.#saving);
    if (this.#room !== null) saveDraft(this.#room.name, this.#text.value);
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
