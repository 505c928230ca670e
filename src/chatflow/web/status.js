// The connection, in words a person can act on.

import { byId, setText } from "./dom.js";

/** A connection that comes back sooner than this needs no bar across the page. */
const CALM_MS = 700;

export class Status {
  #connection = byId("connection");
  #words = byId("connection-words");
  #spoken = byId("connection-spoken");
  #notice = byId("notice");
  #noticeWords = byId("notice-words");
  #button = byId("retry-now");
  #state = { kind: "idle" };
  #ticking = null;
  #troubledSince = null;

  constructor({ retry }) {
    this.#button.addEventListener("click", retry);
  }

  draw(state) {
    if (state === this.#state) return;
    this.#state = state;
    if (state.kind === "connected" || state.kind === "idle") this.#troubledSince = null;
    else this.#troubledSince ??= Date.now();
    clearInterval(this.#ticking);
    this.#ticking = this.#troubledSince === null ? null : setInterval(() => this.#tick(), 250);
    this.#tick();
  }

  #tick() {
    const { kind } = this.#state;
    const { short, long, spoken } = wordsFor(this.#state);
    setText(this.#spoken, spoken);
    this.#connection.dataset.state = kind === "waiting" ? "reconnecting" : kind;
    setText(this.#words, short);
    const calm = this.#troubledSince === null || (kind !== "refused" && Date.now() - this.#troubledSince < CALM_MS);
    this.#notice.hidden = calm || long === null;
    if (long !== null) setText(this.#noticeWords, long);
    this.#button.disabled = kind === "connecting";
  }
}

const KEPT = "Your messages wait here and follow.";

/** `short` for the bar, `long` for the notice (null: none), `spoken` for screen readers: without a running clock. */
function wordsFor({ kind, reason, retryAt, attempt }) {
  if (kind === "connected") return { short: "Connected", long: null, spoken: "Connected" };
  if (kind === "offline") {
    const long = "You are offline. Your messages wait here until the network is back.";
    return { short: "Offline", long, spoken: "Offline" };
  }
  if (kind === "refused") {
    return { short: "Not connected", long: `${reason} Change your name, or try again.`, spoken: "Not connected" };
  }
  if (kind === "waiting") {
    const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
    return { short: `Reconnecting in ${seconds} s`, long: `${reason} ${KEPT}`, spoken: "Reconnecting" };
  }
  if ((attempt ?? 0) === 0) return { short: "Connecting…", long: null, spoken: "" };
  return { short: "Reconnecting…", long: `Trying to reach the server. ${KEPT}`, spoken: "Reconnecting" };
}
