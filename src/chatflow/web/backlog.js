// The part of one room's history that this page holds: reads it, pages both ways, closes gaps, and retries.

import { HIDDEN_WINDOW, PAGE, WINDOW, backoffMs } from "./bounds.js";
import { History, HistoryError } from "./history.js";
import { MessageWindow } from "./window.js";

/** Messages shown above the first unread one when a room is opened. */
const CONTEXT = 20;

export class Backlog {
  #name;
  #room;
  #history;
  #window = new MessageWindow();
  #lowest = 1;
  #epoch = 0;
  #repairing = false;
  #failures = 0;
  #timer = null;

  /**
   * `room` is told what happens here:
   * `reached(last)`: the newest page ends with this seq; `settled(messages)`: they are in the window now;
   * `skipped()`: what follows the window may be out of reach; `detached()`: the window no longer follows the head;
   * `changed()`: redraw and save. It is asked for `unread()`, a count, and
   * `headers()`, of a REST request.
   */
  constructor(name, room) {
    /** The highest seq known to exist. */
    this.head = 0;
    /** Whether the reader is at the bottom, as the view reports. */
    this.pinned = true;
    /** Whether history was read at all: a room that was never opened only counts messages. */
    this.loaded = false;
    this.loading = false;
    /** Why history cannot be read; null when nothing is wrong. */
    this.problem = null;
    this.#name = name;
    this.#room = room;
    this.#history = new History(name, room.headers);
  }

  get items() {
    return this.#window.items;
  }

  get follow() {
    return this.#window.follow;
  }

  get tail() {
    return this.#window.tail;
  }

  get hasOlder() {
    return this.#window.first !== null && this.#window.first > this.#lowest;
  }

  // --- what the room asks for

  /** Read the newest page, or what is missing below the head. */
  async open() {
    if (this.loaded) await this.repair();
    else await this.#load();
  }

  /** The room is off screen: keep little. */
  hide() {
    this.pinned = true;
    if (this.follow) this.#window.keepNewest(HIDDEN_WINDOW);
    else this.unload();
  }

  /** Take the message at the head; false if nothing of the window is near it. */
  receive(message) {
    if (!this.follow || !(this.loaded || this.loading)) return false;
    this.#window.wait(message);
    if (this.loaded && !this.#drain()) this.repair();
    return true;
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
      this.#room.settled(page);
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
      this.#room.settled(page);
      this.#window.keepNewest(WINDOW - PAGE);
      this.#window.follow = this.head - high <= PAGE;
    });
    await this.repair();
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
    else await this.repair();
  }

  /** Drop the messages; opening the room reads them again. */
  unload() {
    clearTimeout(this.#timer);
    this.#epoch += 1;
    this.#window.clear();
    this.loaded = false;
    this.loading = false;
    this.problem = null;
    this.#room.skipped();
  }

  /** Another database: nothing held or known is true any more. */
  forget() {
    this.unload();
    this.#history = new History(this.#name, this.#room.headers);
    this.#lowest = 1;
    this.head = 0;
  }

  /** Read what is between the window and the head, until nothing is. */
  async repair() {
    if (this.#repairing || !this.loaded || !this.follow) return;
    this.#repairing = true;
    const epoch = this.#epoch;
    try {
      while (epoch === this.#epoch && !this.#drain()) await this.#closeGap(epoch);
      this.#recovered();
    } catch (error) {
      this.#failed(error, () => this.repair());
    } finally {
      this.#repairing = false;
      this.#room.changed();
    }
    if (epoch !== this.#epoch) await this.repair();
  }

  // --- inside: the window

  /** True when the window then reaches the head. */
  #drain() {
    this.#room.settled(this.#window.drain());
    if (this.items.length > WINDOW && this.pinned) this.#window.keepNewest(WINDOW);
    else if (this.items.length > WINDOW) this.#detach();
    return this.#window.reaches(this.head);
  }

  /** The reader is far above the head: keep what they read, and stop following. */
  #detach() {
    this.#window.keepOldest(WINDOW);
    this.#room.detached();
  }

  // --- inside: reading

  async #load() {
    if (this.loading) return;
    await this.#read(async (still) => {
      const count = Math.min(HIDDEN_WINDOW, Math.max(PAGE, this.#room.unread() + CONTEXT));
      const page = await this.#history.latest(count, this.head);
      if (!still()) return;
      const last = page.at(-1)?.seq ?? 0;
      this.#room.reached(last);
      this.loaded = true;
      this.#window.append(page, last);
      this.#room.settled(page);
    });
    await this.repair();
  }

  async #closeGap(epoch) {
    if (this.head - this.#window.tail > WINDOW) {
      if (!this.pinned && this.items.length > 0) {
        this.#detach();
        return;
      }
      this.#window.restartAfter(this.head - WINDOW);
      this.#room.skipped();
      this.#room.settled(this.#window.drain());
    }
    const { low, high } = this.#window.hole(this.head);
    if (low > high) return;
    const found = await this.#history.range(low, high, this.head);
    if (epoch !== this.#epoch || !this.follow || this.#window.tail !== low - 1) return;
    this.#window.append(found, high);
    this.#room.settled(found);
  }

  async #read(work) {
    const epoch = this.#epoch;
    this.loading = true;
    this.problem = null;
    this.#room.changed();
    try {
      await work(() => epoch === this.#epoch);
      if (epoch === this.#epoch) this.#recovered();
    } catch (error) {
      if (epoch === this.#epoch) this.#failed(error, () => this.retry());
    } finally {
      if (epoch === this.#epoch) this.loading = false;
      this.#room.changed();
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
