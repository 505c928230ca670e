// One room's unsent and unseen messages.
//
// One message is in flight at a time and the next one waits for its ack: whatever is refused, lost or retried,
// the server gets this room's messages in the order they were written. Every try of a message carries the same id,
// so the server stores it once.
//
// States: pending (no ack yet), acknowledged (durable, not seen in the room yet), failed (given up; retry or discard).
// A message leaves when the room shows it: settle().

import { ACK_TIMEOUT_MS, MAX_OUTBOX, MAX_TRIES, backoffMs } from "./bounds.js";
import { uuid7 } from "./text.js";

export class Outbox {
  #send;
  #save;
  #changed;
  #entries;
  #open = false;
  #inFlight = null;
  #timer = null;

  /**
   * `send({id, text, again})` returns false when there is no connection; `save(entries)` keeps what is not
   * acknowledged; `changed()` asks for a redraw. `entries` are what was saved last.
   */
  constructor(entries, { send, save, changed }) {
    this.#send = send;
    this.#save = save;
    this.#changed = changed;
    this.#entries = entries.map((entry) => ({ ...entry, tries: 0, resent: true }));
  }

  /** In the order they will be sent. */
  get entries() {
    return this.#entries;
  }

  get isFull() {
    return this.#entries.length >= MAX_OUTBOX;
  }

  has(id) {
    return this.#entries.some((entry) => entry.id === id);
  }

  add(text) {
    const at = new Date().toISOString();
    this.#entries.push({ id: uuid7(), text, at, state: "pending", reason: null, tries: 0, resent: false });
    this.#pump();
    this.#store();
  }

  /** The room is joined: send what is pending, oldest first. */
  resume() {
    this.#open = true;
    for (const entry of this.#entries) entry.tries = 0;
    this.#pump();
  }

  /** The connection is gone: what was in flight is unknown and will be sent again. */
  suspend() {
    this.#open = false;
    this.#land();
  }

  /** The server has it; `seq` is its place when the server told. */
  acknowledged(id, seq) {
    const entry = this.#find(id);
    if (entry === undefined) return;
    entry.state = "acknowledged";
    entry.seq = seq;
    entry.reason = null;
    this.#next(id);
  }

  refused(id, { reason, retryable }) {
    const entry = this.#find(id);
    if (entry === undefined || entry.state !== "pending") return;
    if (retryable && entry.tries < MAX_TRIES) {
      this.#again(entry, backoffMs(entry.tries - 1));
      return;
    }
    entry.state = "failed";
    entry.reason = reason;
    this.#next(id);
  }

  /** The room has shown this message, or it lies where nobody looks: nothing is left to do for it. */
  settle(id) {
    const at = this.#entries.findIndex((entry) => entry.id === id);
    if (at === -1) return;
    this.#entries.splice(at, 1);
    this.#next(id);
  }

  /** Send a failed message again, with the same id, after what is waiting already. */
  retry(id) {
    const entry = this.#find(id);
    if (entry?.state !== "failed") return;
    this.#entries = this.#entries.filter((other) => other !== entry);
    this.#entries.push({ ...entry, state: "pending", reason: null, tries: 0, resent: true });
    this.#pump();
    this.#store();
  }

  /** The window has passed `seq`: what lies there is shown, or was skipped. */
  settleUpTo(seq) {
    for (const entry of this.#entries.filter((other) => other.seq <= seq)) this.settle(entry.id);
  }

  /** The room skipped a stretch of messages unread: what was acknowledged may lie in it and will never be shown. */
  forgetAcknowledged() {
    this.#entries = this.#entries.filter(({ state }) => state !== "acknowledged");
    this.#changed();
  }

  discard(id) {
    if (this.#find(id)?.state === "failed") this.settle(id);
  }

  #find(id) {
    return this.#entries.find((entry) => entry.id === id);
  }

  #next(id) {
    if (this.#inFlight === id) this.#land();
    this.#pump();
    this.#store();
  }

  #land() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#inFlight = null;
  }

  #again(entry, delayMs) {
    clearTimeout(this.#timer);
    this.#inFlight = entry.id; // It keeps its place: nothing overtakes a message that is about to be retried.
    this.#timer = setTimeout(() => {
      this.#land();
      this.#pump();
    }, delayMs);
  }

  #pump() {
    if (!this.#open || this.#inFlight !== null) return;
    const entry = this.#entries.find(({ state }) => state === "pending");
    if (entry === undefined || !this.#send({ id: entry.id, text: entry.text, again: entry.resent })) return;
    entry.tries += 1;
    entry.resent = true;
    this.#inFlight = entry.id;
    this.#timer = setTimeout(() => this.#silence(entry.id), ACK_TIMEOUT_MS);
  }

  #silence(id) {
    const reason = "The server did not confirm it. Retrying is safe: it cannot arrive twice.";
    this.#inFlight = null;
    this.refused(id, { reason, retryable: true });
  }

  #store() {
    this.#save(
      this.#entries
        .filter(({ state }) => state !== "acknowledged")
        .map(({ id, text, at, state, reason }) => ({ id, text, at, state, reason })),
    );
    this.#changed();
  }
}
