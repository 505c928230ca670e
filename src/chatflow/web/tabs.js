// One person's tabs in this browser: what they tell each other, and which one sends.
//
// The sender holds a Web Lock, and only while it is connected; when it closes, crashes or loses its connection, the
// browser gives the lock to a tab that waits for it. Where there are no locks (no secure context) every tab sends:
// the ids are the same, so the server stores each message once.

export class Tabs {
  #name;
  #channel = null;
  #wish = null;
  #release = null;
  #prepare;
  #chosen;
  /** Whether this tab sends. */
  isSender = false;

  /** `heard(message)` runs for each message of another tab; `prepare()`, then `chosen()`, before this tab sends. */
  constructor(userId, { heard, prepare, chosen }) {
    this.#name = `chatflow.outbox.${userId}`;
    this.#prepare = prepare;
    this.#chosen = chosen;
    if (globalThis.BroadcastChannel === undefined) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = (event) => heard(event.data);
  }

  tell(message) {
    this.#channel?.postMessage(message);
  }

  /** Ask to be the sender; safe to repeat. */
  async compete() {
    if (this.#wish !== null) return;
    const wish = new AbortController();
    this.#wish = wish;
    if (navigator.locks === undefined) {
      this.#become(wish);
      return;
    }
    try {
      await navigator.locks.request(this.#name, { signal: wish.signal }, () => this.#hold(wish));
    } catch (error) {
      if (error.name !== "AbortError") this.#become(wish); // Locks exist, but not for this page.
    }
  }

  /** Let another tab send. */
  yield() {
    this.#wish?.abort();
    this.#wish = null;
    this.isSender = false;
    this.#release?.();
    this.#release = null;
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
    this.#chosen();
  }
}
