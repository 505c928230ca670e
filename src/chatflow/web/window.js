// A bounded, gapless stretch of one room's messages.
//
// Invariant: `items` is ascending by seq, without doubles and without holes. A message enters only at the ends: below
// the first, or right after `tail`. What arrives early waits until the hole before it is filled.

import { WINDOW } from "./bounds.js";

export class MessageWindow {
  /** The messages, oldest first. */
  items = [];
  /** The seq up to which the window reaches: of its last item, or of the last one skipped. */
  tail = 0;
  /** Whether the window follows the room's head; false after paging back further than its length. */
  follow = true;
  // Ascending, since messages arrive in the order of seq.
  #waiting = new Map();

  get first() {
    return this.items[0]?.seq ?? null;
  }

  /** Whether nothing is missing between the window and `head`. */
  reaches(head) {
    return !this.follow || this.tail >= head;
  }

  /** Hold a message until the ones before it arrive; at the limit the oldest is dropped, and read again later. */
  wait(message) {
    this.#waiting.set(message.seq, message);
    if (this.#waiting.size > WINDOW) this.#waiting.delete(this.#waiting.keys().next().value);
  }

  /** Append held messages that now fit; returns them. */
  drain() {
    const fitting = [];
    for (const [seq, message] of this.#waiting) {
      if (seq > this.tail + 1) break;
      this.#waiting.delete(seq);
      if (seq <= this.tail) continue;
      fitting.push(message);
      this.append([message], seq);
    }
    return fitting;
  }

  /** The first hole below `head`: `{low, high}`, empty when low > high. Call after drain(). */
  hole(head) {
    const next = this.#waiting.keys().next();
    return { low: this.tail + 1, high: next.done ? head : next.value - 1 };
  }

  /** `messages` are all between the present tail and the new `tail`. */
  append(messages, tail) {
    this.items.push(...messages);
    this.tail = tail;
  }

  prepend(messages) {
    this.items.unshift(...messages);
  }

  keepNewest(count) {
    this.items.splice(0, Math.max(0, this.items.length - count));
  }

  /** Stop following the head. */
  keepOldest(count) {
    this.items.length = Math.min(this.items.length, count);
    this.tail = this.items.at(-1).seq;
    this.follow = false;
    this.#waiting.clear();
  }

  /** Drop everything and start after `seq`. */
  restartAfter(seq) {
    this.items = [];
    this.tail = seq;
    this.follow = true;
  }

  clear() {
    this.restartAfter(0);
    this.#waiting.clear();
  }
}
