// One person's tabs in this browser: what they tell each other, and which one sends.
//
// The sender holds a Web Lock, and only while it is connected; when it closes, crashes or loses its connection, the
// browser gives the lock to a tab that waits for it. Where there are no locks (no secure context) every tab sends:
// the ids are the same, so the server stores each message once.
//
// A tab that hangs keeps the lock. A tab whose messages wait therefore asks the sender for a sign of life, and may take
// the lock away from one that gives none. When the sender wakes up it may send again what the thief has sent: that is
// stored once too, and in order, since each tab sends a message only after the ack of the one before.

import { SENDER_PATIENCE_MS } from "./bounds.js";

export class Tabs {
  #name;
  #channel = null;
  #wish = null;
  #release = null;
  #heard;
  #prepare;
  #chosen;
  #isAwaited;
  #judged;
  #asking = null;
  #answered = false;
  /** Whether this tab sends. */
  isSender = false;
  /** Whether another tab sends, and gave no sign of life when this one asked. */
  isSenderSilent = false;

  /**
   * `heard(message)` runs for each message of another tab; `prepare()`, then `chosen()`, before this tab sends;
   * `isAwaited()` tells whether anything still waits for the sender; `judged()` runs after `isSenderSilent` was set.
   */
  constructor(userId, { heard, prepare, chosen, isAwaited, judged }) {
    this.#name = `chatflow.outbox.${userId}`;
    this.#heard = heard;
    this.#prepare = prepare;
    this.#chosen = chosen;
    this.#isAwaited = isAwaited;
    this.#judged = judged;
    if (globalThis.BroadcastChannel === undefined) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = (event) => this.#receive(event.data);
  }

  tell(message) {
    this.#channel?.postMessage(message);
  }

  /** Ask to be the sender; safe to repeat. */
  compete() {
    if (this.#wish !== null) return;
    const wish = new AbortController();
    this.#wish = wish;
    if (navigator.locks === undefined) this.#become(wish);
    else this.#request(wish, { signal: wish.signal });
  }

  /** Become the sender now, whoever is. */
  steal() {
    this.yield();
    this.#wish = new AbortController();
    this.#request(this.#wish, { steal: true });
  }

  /** Something waits for the sender, unless this tab is it: ask for a sign of life until nothing waits. */
  watch() {
    if (this.#asking !== null || this.isSender || this.#wish === null || this.#channel === null) return;
    this.#answered = false;
    this.tell({ alive: "?" });
    this.#asking = setTimeout(() => this.#judgeSilence(), SENDER_PATIENCE_MS);
  }

  /** Let another tab send. */
  yield() {
    this.#wish?.abort();
    this.#wish = null;
    this.isSender = false;
    this.isSenderSilent = false;
    this.#release?.();
    this.#release = null;
  }

  async #request(wish, options) {
    try {
      await navigator.locks.request(this.#name, options, () => this.#hold(wish));
    } catch (error) {
      if (this.#wish !== wish) return;
      if (error.name === "AbortError") this.#robbed();
      else this.#become(wish); // Locks exist, but not for this page.
    }
  }

  /** Another tab took the lock away: wait for it again. */
  #robbed() {
    this.yield();
    this.compete();
  }

  #receive(message) {
    if (message.alive === "?") this.isSender && this.tell({ alive: "yes" });
    else if (message.alive === "yes") this.#answer();
    else this.#heard(message);
  }

  #answer() {
    this.#answered = true;
    this.#judge(false);
  }

  #judgeSilence() {
    this.#asking = null;
    const isAwaited = this.#wish !== null && !this.isSender && this.#isAwaited();
    this.#judge(isAwaited && !this.#answered);
    if (isAwaited) this.watch();
  }

  #judge(isSilent) {
    if (this.isSenderSilent === isSilent) return;
    this.isSenderSilent = isSilent;
    this.#judged();
  }

  #hold(wish) {
    if (wish.signal.aborted) return undefined;
    const held = new Promise((resolve) => (this.#release = resolve));
    this.#become(wish);
    return held;
  }

  async #become(wish) {
    await this.#prepare();
    if (this.#wish !== wish) return;
    this.isSender = true;
    this.#judge(false);
    this.#chosen();
  }
}
