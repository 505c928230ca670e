// One room's unsent and unseen messages.
//
// One message is in flight at a time and the next one waits for its ack: whatever is refused, lost or repeated,
// the server gets this room's messages in the order they were written. Every try of a message carries the same id,
// so the server stores it once.
//
// States: pending (no ack yet), acknowledged (durable, not seen in the room yet), failed (the server will not take it;
// retry, edit or discard). Retryable errors and silence are never final: the message waits and is repeated.
// A message leaves when the room shows it: settle().

import { ACK_TIMEOUT_MS, MAX_OUTBOX, MAX_SETTLED, backoffMs } from "./bounds.js";
import { uuid7 } from "./text.js";

export class Outbox {
  #send;
  #keeper;
  #changed;
  #entries = [];
  // The last own messages that the room showed: another tab, or a read of the storage, may still tell of them.
  #settled = new Set();
  #open = false;
  #inFlight = null;
  #timer = null;

  /**
   * `send(frame)` returns false when there is no connection; `keeper` is the `Outboxes` that stores what is not
   * acknowledged; `changed()` asks for a redraw.
   */
  constructor(room, { send, keeper, changed }) {
    this.room = room;
    this.#send = send;
    this.#keeper = keeper;
    this.#changed = changed;
  }

  /** In sending order. */
  get entries() {
    return this.#entries;
  }

  get isFull() {
    return this.#entries.length >= MAX_OUTBOX;
  }

  has(id) {
    return this.#find(id) !== undefined;
  }

  /** Settles when the message is stored, or when storing it failed. */
  async add(text) {
    const entry = { ...blank({ id: uuid7(), room: this.room, text, at: new Date().toISOString() }), resent: false };
    this.#entries.push(entry);
    this.#changed();
    await this.#keeper.keep(entry);
  }

  /** Take in an entry from an earlier version; returns it in the present form. */
  adopt(record) {
    const entry = { ...blank(record), ...record };
    this.#entries.push(entry);
    this.#changed();
    return entry;
  }

  /** Take in an entry from the storage or another tab. */
  take(record) {
    if (this.#settled.has(record.id)) {
      this.#keeper.drop([{ ...record }], { acked: true });
      return;
    }
    const entry = this.#find(record.id);
    if (entry === undefined) this.#entries.push({ ...blank(record), ...record, kept: true });
    else if (entry.state !== "acknowledged") Object.assign(entry, record, { kept: true });
    this.placed();
  }

  /** Another tab saw it acknowledged, or discarded it. */
  vanished(id, { acked = false, seq }) {
    const entry = this.#find(id);
    if (entry === undefined || entry.state === "acknowledged") return;
    if (acked) this.#acknowledge(entry, seq);
    else this.#remove(entry);
  }

  /** Places have changed. */
  placed() {
    this.#entries.sort((one, other) => (one.place ?? Number.MAX_VALUE) - (other.place ?? Number.MAX_VALUE));
    this.pump();
    this.#changed();
  }

  /** The room is joined: send what is pending, oldest first. */
  resume() {
    this.#open = true;
    for (const entry of this.#entries) entry.tries = 0;
    this.pump();
  }

  /** The connection is gone: the fate of what was in flight is unknown, so it will be sent again. */
  suspend() {
    this.#open = false;
    this.#land();
  }

  /** The server has it; `seq` is its place, if the server said so. */
  acknowledged(id, seq) {
    const entry = this.#find(id);
    if (entry === undefined || entry.state === "acknowledged") return;
    this.#keeper.drop([entry], { acked: true, seq });
    this.#acknowledge(entry, seq);
  }

  refused(id, { code, reason, retryable }) {
    const entry = this.#find(id);
    if (entry?.state !== "pending") return;
    if (retryable) {
      entry.reason = reason;
      this.#again(entry, backoffMs(entry.tries - 1));
      this.#changed();
      return;
    }
    Object.assign(entry, { state: "failed", reason, final: code === "conflict" || code === "invalid_message" });
    this.#keeper.update(entry);
    this.#next(id);
  }

  /** The room has shown this message, or will never show it: forget it. */
  settle(id) {
    this.#remember(id);
    const entry = this.#find(id);
    if (entry === undefined) return;
    if (entry.state !== "acknowledged") this.#keeper.drop([entry], { acked: true });
    this.#remove(entry);
  }

  /** The window has passed `seq`: everything before it is shown or was skipped. */
  settleUpTo(seq) {
    for (const entry of this.#entries.filter((other) => other.seq <= seq)) this.settle(entry.id);
  }

  /** The room skipped messages: acknowledged ones may be among them and will never be shown. */
  forgetAcknowledged() {
    this.#entries = this.#entries.filter(({ state }) => state !== "acknowledged");
    this.#changed();
  }

  /** Send a failed message again, with the same id, behind what is already waiting. */
  retry(id) {
    const entry = this.#find(id);
    if (entry?.state !== "failed") return;
    this.#entries = [...this.#entries.filter((other) => other !== entry), entry];
    Object.assign(entry, { state: "pending", reason: null, tries: 0, resent: true });
    this.#changed();
    this.#keeper.moveLast(entry);
  }

  discard(id) {
    const entry = this.#find(id);
    if (entry?.state !== "failed") return;
    this.#keeper.drop([entry]);
    this.#remove(entry);
  }

  /** Discard everything that waits here. */
  discardAll() {
    this.#keeper.drop(this.#entries.filter(({ state }) => state !== "acknowledged"));
    this.#entries = [];
    this.suspend();
  }

  /** Send the oldest pending entry if nothing is in flight; `resent` means that another tab may have sent it before. */
  pump({ resent = false } = {}) {
    if (resent) for (const entry of this.#entries) entry.resent = true;
    if (!this.#open || this.#inFlight !== null) return;
    const entry = this.#entries.find(({ state }) => state === "pending");
    if (entry === undefined || !this.#keeper.maySend(entry) || !this.#send(this.#frame(entry))) return;
    entry.tries += 1;
    entry.resent = true;
    this.#inFlight = entry.id;
    this.#timer = setTimeout(() => this.#silence(entry.id), ACK_TIMEOUT_MS);
  }

  #frame({ id, text, resent }) {
    return { op: "send", ref: id, room: this.room, text, id, ...(resent ? { ack: "stored" } : {}) };
  }

  #find(id) {
    return this.#entries.find((entry) => entry.id === id);
  }

  #remember(id) {
    this.#settled.add(id);
    if (this.#settled.size > MAX_SETTLED) this.#settled.delete(this.#settled.values().next().value);
  }

  #acknowledge(entry, seq) {
    Object.assign(entry, { state: "acknowledged", seq, reason: null });
    this.#next(entry.id);
  }

  #remove(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
    this.#next(entry.id);
  }

  #next(id) {
    if (this.#inFlight === id) this.#land();
    this.pump();
    this.#changed();
  }

  #land() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#inFlight = null;
  }

  #again(entry, delayMs) {
    clearTimeout(this.#timer);
    this.#inFlight = entry.id; // It keeps its place: nothing may overtake a message that will be retried.
    this.#timer = setTimeout(() => {
      this.#land();
      this.pump();
    }, delayMs);
  }

  #silence(id) {
    this.#inFlight = null;
    this.refused(id, { reason: "The server has not confirmed it yet.", retryable: true });
  }
}

function blank({ id, room, text, at }) {
  const progress = { state: "pending", reason: null, final: false, place: null, kept: null, tries: 0, resent: true };
  return { id, room, text, at, ...progress };
}
