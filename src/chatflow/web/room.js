// One room as this page knows it: a window of its messages, its read state, and its unsent messages.

import { HIDDEN_WINDOW, PAGE, WINDOW, backoffMs } from "./bounds.js";
import { History, HistoryError } from "./history.js";
import { Unread } from "./unread.js";
import { MessageWindow } from "./window.js";

/** Messages shown above the first unread one when a room is opened. */
const CONTEXT = 20;

export class Room {
  #me;
  #changed;
  #history;
  #window = new MessageWindow();
  #unread;
  #known = false;
  #lowest = 1;
  #reading = false;
  #epoch = 0;
  #repairing = false;
  #failures = 0;
  #timer = null;

  /**
   * `me()` gives the present user id; `changed(room)` asks for a redraw and for saving; `outbox` has the unsent messages.
   */
  constructor({ name, lastRead = null, visitedAt = 0 }, { me, changed, outbox }) {
    this.name = name;
    this.visitedAt = visitedAt;
    /** The highest seq known to exist. */
    this.head = 0;
    /** Whether the reader is at the bottom, as the view reports. */
    this.pinned = true;
    /** Whether history was read at all: a room that was never opened only counts messages. */
    this.loaded = false;
    this.loading = false;
    this.joined = false;
    /** Why history cannot be read, and why the server refuses the join; null when nothing is wrong. */
    this.problem = null;
    this.refusal = null;
    this.#me = me;
    this.#changed = () => changed(this);
    this.#history = new History(name);
    this.#unread = new Unread(lastRead);
    this.outbox = outbox;
  }

  get items() {
    return this.#window.items;
  }

  get follow() {
    return this.#window.follow;
  }

  get hasOlder() {
    return this.#window.first !== null && this.#window.first > this.#lowest;
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
    return this.#known ? this.head : undefined;
  }

  // --- from the connection

  join({ head, recovered }) {
    this.joined = true;
    this.refusal = null;
    if (!this.#known) this.#learn(head);
    else if (head < this.head) this.#startOver(head);
    else if (!recovered) this.#skipTo(head);
    this.#repair();
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
    if (message.seq <= this.head) return; // Replayed: already counted, and shown or within reach of paging.
    const before = this.head;
    this.head = message.seq;
    if (this.#reading) this.#unread.readUpTo(this.head);
    else this.#unread.advance(before, this.head, message.userId === this.#me() ? 1 : 0);
    if (this.follow && (this.loaded || this.loading)) {
      this.#window.wait(message);
      if (this.loaded && !this.#drain()) this.#repair();
    } else {
      this.#settleOwn([message]);
    }
    this.#changed();
  }

  /** `seq` is known only for repeated messages, which may have been shown or skipped long ago. */
  acknowledge(id, seq) {
    this.outbox.acknowledged(id, seq);
    this.outbox.settleUpTo(this.follow ? this.#window.tail : this.head);
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
    if (this.loaded) await this.#repair();
    else await this.#load();
  }

  /** The room is off screen: keep little. */
  hide() {
    this.#reading = false;
    this.pinned = true;
    this.#unread.settle();
    if (this.follow) this.#window.keepNewest(HIDDEN_WINDOW);
    else this.unload();
  }

  /** Whether the reader is at the bottom of the visible page. */
  setReading(reading) {
    this.#reading = reading && this.follow;
    if (this.#reading && this.#known && this.#unread.readUpTo(this.head)) this.#changed();
  }

  /** Settles when the message is stored, or when storing it failed. */
  async send(text) {
    this.#unread.markAfter = null;
    await this.outbox.add(text);
  }

  /** One page above the window. */
  async older() {
    if (this.loading || !this.hasOlder) return;
    await this.#read(async (still) => {
      const { first } = this.#window;
      const page = await this.#history.range(Math.max(1, first - PAGE), first - 1, this.head);
      if (!still() || this.#window.first !== first) return;
      if (page.length === 0) this.#lowest = first; // Nothing is there: do not ask again.
      this.#window.prepend(page);
      this.#settle(page);
      if (this.items.length > WINDOW) this.#detach();
    });
  }

  /** One page below a window that does not reach the head. */
  async newer() {
    if (this.loading || this.follow) return;
    await this.#read(async (still) => {
      const { tail } = this.#window;
      const high = Math.min(tail + PAGE, this.head);
      const page = await this.#history.range(tail + 1, high, this.head);
      if (!still() || this.#window.tail !== tail) return;
      this.#window.append(page, high);
      this.#settle(page);
      this.#window.keepNewest(WINDOW - PAGE);
      this.#window.follow = this.head - high <= PAGE;
    });
    await this.#repair();
  }

  /** Move the window to the head, dropping what is between. */
  async toLatest() {
    this.pinned = true;
    if (this.follow) return;
    this.unload();
    await this.#load();
  }

  /** Read again after a failure. */
  async retry() {
    if (!this.loaded) await this.#load();
    else if (this.#window.reaches(this.head)) await this.older();
    else await this.#repair();
  }

  // --- inside: what exists

  #learn(head) {
    this.#known = true;
    this.head = Math.max(this.head, head);
    this.#unread.begin(this.head);
  }

  /** The server's room is shorter than ours, so this is another database: drop everything. */
  #startOver(head) {
    const wasOpen = this.loaded || this.loading;
    this.unload();
    this.#history = new History(this.name);
    this.#unread.forget();
    this.head = 0;
    this.#lowest = 1;
    this.#learn(head);
    if (wasOpen) this.#load();
  }

  /** We missed more than the server replays. */
  #skipTo(head) {
    if (!this.#reading) this.#unread.advance(this.head, head, 0);
    this.head = head;
    if (!this.loaded || !this.follow) this.outbox.forgetAcknowledged();
  }

  // --- inside: the window

  #settle(messages) {
    this.#settleOwn(messages);
    this.outbox.settleUpTo(this.#window.tail);
  }

  /** Ids belong to their sender: another sender's message with the same id is another message. */
  #settleOwn(messages) {
    for (const { id, userId } of messages) if (userId === this.#me()) this.outbox.settle(id);
  }

  /** True when the window then reaches the head. */
  #drain() {
    this.#settle(this.#window.drain());
    if (this.items.length > WINDOW && this.pinned) this.#window.keepNewest(WINDOW);
    else if (this.items.length > WINDOW) this.#detach();
    return this.#window.reaches(this.head);
  }

  /** The reader is far above the head: keep what they read, and stop following. */
  #detach() {
    this.#window.keepOldest(WINDOW);
    this.#reading = false;
    this.outbox.forgetAcknowledged();
  }

  /** Drop the messages; opening the room reads them again. */
  unload() {
    clearTimeout(this.#timer);
    this.#epoch += 1;
    this.#window.clear();
    this.loaded = false;
    this.loading = false;
    this.problem = null;
    this.outbox.forgetAcknowledged();
  }

  // --- inside: reading

  async #load() {
    if (this.loading) return;
    await this.#read(async (still) => {
      const count = Math.min(HIDDEN_WINDOW, Math.max(PAGE, this.unread + CONTEXT));
      const page = await this.#history.latest(count, this.head);
      if (!still()) return;
      const last = page.at(-1)?.seq ?? 0;
      if (!this.#known) this.#learn(last);
      this.head = Math.max(this.head, last);
      this.loaded = true;
      this.#window.append(page, last);
      this.#settle(page);
    });
    await this.#repair();
  }

  /** Read what is between the window and the head, until nothing is. */
  async #repair() {
    if (this.#repairing || !this.loaded || !this.follow) return;
    this.#repairing = true;
    const epoch = this.#epoch;
    try {
      while (epoch === this.#epoch && !this.#drain()) await this.#closeGap(epoch);
      this.#recovered();
    } catch (error) {
      this.#failed(error, () => this.#repair());
    } finally {
      this.#repairing = false;
      this.#changed();
    }
    if (epoch !== this.#epoch) await this.#repair();
  }

  async #closeGap(epoch) {
    if (this.head - this.#window.tail > WINDOW) {
      if (!this.pinned && this.items.length > 0) {
        this.#detach();
        return;
      }
      this.#window.restartAfter(this.head - WINDOW);
      this.outbox.forgetAcknowledged();
      this.#settle(this.#window.drain());
    }
    const { low, high } = this.#window.hole(this.head);
    if (low > high) return;
    const found = await this.#history.range(low, high, this.head);
    if (epoch !== this.#epoch || !this.follow || this.#window.tail !== low - 1) return;
    this.#window.append(found, high);
    this.#settle(found);
  }

  async #read(work) {
    const epoch = this.#epoch;
    this.loading = true;
    this.problem = null;
    this.#changed();
    try {
      await work(() => epoch === this.#epoch);
      if (epoch === this.#epoch) this.#recovered();
    } catch (error) {
      if (epoch === this.#epoch) this.#failed(error, () => this.retry());
    } finally {
      if (epoch === this.#epoch) this.loading = false;
      this.#changed();
    }
  }

  #recovered() {
    this.#failures = 0;
    this.problem = null;
    clearTimeout(this.#timer);
  }

  /** Show the problem, and retry after the server's `Retry-After` or a growing delay. */
  #failed(error, again) {
    if (!(error instanceof HistoryError)) throw error;
    this.problem = error.message;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(again, Math.max(error.retryAfterMs, backoffMs(this.#failures)));
    this.#failures += 1;
  }
}
