// One room as this page knows it: its membership, its read state, its unsent messages, and what it holds of its history.

import { Backlog } from "./backlog.js";
import { Unread } from "./unread.js";

export class Room {
  #me;
  #changed;
  #backlog;
  #unread;
  #known = false;
  #reading = false;

  /**
   * `me()` gives the present user id; `headers()` those of a REST request; `changed(room)` asks for a redraw and for
   * saving; `outbox` has the unsent messages.
   */
  constructor({ name, lastRead = null, visitedAt = 0 }, { me, headers, changed, outbox }) {
    this.name = name;
    this.visitedAt = visitedAt;
    this.joined = false;
    /** Why the server refuses the join; null when nothing is wrong. */
    this.refusal = null;
    this.outbox = outbox;
    this.#me = me;
    this.#changed = () => changed(this);
    this.#unread = new Unread(lastRead);
    this.#backlog = new Backlog(name, {
      unread: () => this.unread,
      headers,
      changed: this.#changed,
      skipped: () => outbox.forgetAcknowledged(),
      detached: () => {
        this.#reading = false;
        outbox.forgetAcknowledged();
      },
      reached: (last) => {
        if (!this.#known) this.#learn(last);
        this.#backlog.head = Math.max(this.#backlog.head, last);
      },
      settled: (messages) => {
        this.#settleOwn(messages);
        outbox.settleUpTo(this.#backlog.tail);
      },
    });
  }

  get items() {
    return this.#backlog.items;
  }

  get follow() {
    return this.#backlog.follow;
  }

  get hasOlder() {
    return this.#backlog.hasOlder;
  }

  get loaded() {
    return this.#backlog.loaded;
  }

  get loading() {
    return this.#backlog.loading;
  }

  get problem() {
    return this.#backlog.problem;
  }

  get unread() {
    return this.#unread.count;
  }

  get markAfter() {
    return this.#unread.markAfter;
  }

  get lastRead() {
    return this.#unread.lastRead;
  }

  /** The seq to join with, after which everything is missing; undefined when nothing is known yet. */
  get since() {
    return this.#known ? this.#backlog.head : undefined;
  }

  // --- from the connection

  join({ head, recovered }) {
    this.joined = true;
    this.refusal = null;
    if (!this.#known) this.#learn(head);
    else if (head < this.#backlog.head) this.#startOver(head);
    else if (!recovered) this.#skipTo(head);
    this.#backlog.repair();
    this.outbox.resume();
    this.#changed();
  }

  disconnect() {
    this.joined = false;
    this.outbox.suspend();
  }

  /** The person left the room: stop its timers and reads. */
  dispose() {
    this.outbox.discardAll();
    this.unload();
  }

  receive(message) {
    const before = this.#backlog.head;
    if (message.seq <= before) return; // Replayed: already counted, and shown or within reach of paging.
    this.#backlog.head = message.seq;
    if (this.#reading) this.#unread.readUpTo(message.seq);
    else this.#unread.advance(before, message.seq, message.userId === this.#me() ? 1 : 0);
    if (!this.#backlog.receive(message)) this.#settleOwn([message]);
    this.#changed();
  }

  /** `seq` is known only for repeated messages, which may have been shown or skipped long ago. */
  acknowledge(id, seq) {
    this.outbox.acknowledged(id, seq);
    this.outbox.settleUpTo(this.follow ? this.#backlog.tail : this.#backlog.head);
  }

  /** A refused join does not refuse sends: send what waits, and let each get its own answer. */
  refuse(reason) {
    this.refusal = reason;
    this.outbox.resume();
    this.#changed();
  }

  // --- from the reader

  /** The room is now on screen. */
  async open() {
    this.visitedAt = Date.now();
    await this.#backlog.open();
  }

  /** The room is off screen: keep little. */
  hide() {
    this.#reading = false;
    this.#unread.settle();
    this.#backlog.hide();
  }

  /** Whether the view is at its bottom. */
  set pinned(pinned) {
    this.#backlog.pinned = pinned;
  }

  /** Whether the reader is at the bottom of the visible page. */
  setReading(reading) {
    this.#reading = reading && this.follow;
    if (this.#reading && this.#known && this.#unread.readUpTo(this.#backlog.head)) this.#changed();
  }

  /** Settles when the message is stored, or when storing it failed. */
  async send(text) {
    this.#unread.markAfter = null;
    await this.outbox.add(text);
  }

  async older() {
    await this.#backlog.older();
  }

  async newer() {
    await this.#backlog.newer();
  }

  async toLatest() {
    await this.#backlog.toLatest();
  }

  async retry() {
    await this.#backlog.retry();
  }

  /** Drop the messages; opening the room reads them again. */
  unload() {
    this.#backlog.unload();
  }

  // --- inside

  #learn(head) {
    this.#known = true;
    this.#backlog.head = Math.max(this.#backlog.head, head);
    this.#unread.begin(this.#backlog.head);
  }

  /** The server's room is shorter than ours, so this is another database: drop everything. */
  #startOver(head) {
    const wasOpen = this.loaded || this.loading;
    this.#backlog.forget();
    this.#unread.forget();
    this.#learn(head);
    if (wasOpen) this.#backlog.open();
  }

  /** We missed more than the server replays. */
  #skipTo(head) {
    if (!this.#reading) this.#unread.advance(this.#backlog.head, head, 0);
    this.#backlog.head = head;
    if (!this.loaded || !this.follow) this.outbox.forgetAcknowledged();
  }

  /** Ids belong to their sender: another sender's message with the same id is another message. */
  #settleOwn(messages) {
    for (const { id, userId } of messages) if (userId === this.#me()) this.outbox.settle(id);
  }
}
