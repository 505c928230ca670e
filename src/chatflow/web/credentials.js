// Who this page speaks as: a user id and a name, and the token that proves them, where the server asks for one.

import { accountOf, authorization, loadAccount, saveAccount, timeOf } from "./account.js";
import { EXPIRY_NOTICE_MS, RENEWAL_TIMEOUT_MS } from "./bounds.js";
import { saveIdentity } from "./storage.js";
import { sentence } from "./text.js";

const REF = "refresh";
/** Browsers run longer timers at once. */
const LONGEST_TIMER_MS = 86_400_000;

export class Credentials {
  #who;
  #send;
  #changed;
  #asking = null;
  #noticeAt = Infinity;
  #timer = null;

  /**
   * `who` is `{userId, username}`, or an account of account.js; `send(frame)` returns false without a connection;
   * `changed()` runs when the sign-in is about to end.
   */
  constructor(who, { send, changed }) {
    this.#who = who;
    this.#send = send;
    this.#changed = changed;
  }

  get identity() {
    const { userId, username } = this.#who;
    return { userId, username };
  }

  get hasToken() {
    return this.#who.token !== undefined;
  }

  get token() {
    return this.#who.token;
  }

  /** ms since the epoch; null: never, or there is no token. */
  get expiresAt() {
    return this.#who.expiresAt ?? null;
  }

  /** `expiresAt`, from when it is time to tell the person; null before. */
  get endsAt() {
    return Date.now() < this.#noticeAt ? null : this.expiresAt;
  }

  /** What hello says. */
  get hello() {
    return this.hasToken ? { token: this.#who.token } : this.identity;
  }

  /** What a REST request says. */
  get headers() {
    return authorization(this.#who.token);
  }

  /** Speak as somebody from now on, and remember that. */
  become(who) {
    this.#know(who);
    if (this.hasToken) saveAccount(who);
    else saveIdentity(who);
  }

  /** The server says whose the token is; false if that is another person, whom this page does not speak for. */
  welcomed(welcome) {
    if (!this.hasToken) return true;
    if (welcome.userId !== this.#who.userId) return false;
    this.#know(accountOf(this.#who.token, welcome));
    if (loadAccount()?.token === this.#who.token) saveAccount(this.#who); // Another tab may have a newer one.
    return true;
  }

  /** Put a newer token in the place of the present one, on the open connection; null, or why not in words. */
  renew(token) {
    this.#answer("Another token came meanwhile.");
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#answer("The server does not answer. Try again."), RENEWAL_TIMEOUT_MS);
      this.#asking = { token, resolve, timer };
      if (!this.#send({ op: "refresh", ref: REF, token })) this.lost();
    });
  }

  /** Whether a frame of the server answered `renew`. */
  answered(frame) {
    if (frame.ref !== REF || this.#asking === null) return false;
    if (frame.op === "error") {
      this.#answer(sentence(frame.message ?? "The server does not accept this token"));
      return true;
    }
    this.become({ ...this.#who, token: this.#asking.token, expiresAt: timeOf(frame.expiresAt) });
    this.#answer(null);
    return true;
  }

  /** The connection is gone. */
  lost() {
    this.#answer("The connection to the server was lost. Try again.");
  }

  #know(who) {
    const isNew = who.token !== this.#who.token || this.#noticeAt === Infinity;
    this.#who = who;
    if (!isNew) return;
    const { expiresAt } = this;
    const leftMs = expiresAt - Date.now();
    this.#noticeAt = expiresAt === null ? Infinity : expiresAt - Math.min(EXPIRY_NOTICE_MS, leftMs / 5);
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#timer);
    if (this.#noticeAt === Infinity) return;
    const wait = () => (this.endsAt === null ? this.#watch() : this.#changed());
    this.#timer = setTimeout(wait, Math.min(Math.max(0, this.#noticeAt - Date.now()), LONGEST_TIMER_MS));
  }

  #answer(words) {
    const asked = this.#asking;
    this.#asking = null;
    clearTimeout(asked?.timer);
    asked?.resolve(words);
  }
}
