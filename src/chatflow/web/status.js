// The connection, in words a person can act on.

import { byId, setText } from "./dom.js";
import { counted } from "./text.js";

/** A connection that comes back sooner shows no notice. */
const CALM_MS = 700;

export class Status {
  #connection = byId("connection");
  #words = byId("connection-words");
  #spoken = byId("connection-spoken");
  #notice = byId("notice");
  #noticeWords = byId("notice-words");
  #retry = byId("retry-now");
  #signIn = byId("sign-in");
  #state = { kind: "idle" };
  #waiting = null;
  #ticking = null;
  #troubledSince = null;

  constructor({ retry, signIn }) {
    this.#retry.addEventListener("click", retry);
    this.#signIn.addEventListener("click", signIn);
  }

  /** `waiting` is `Outboxes.waiting` with `isDraftKept`, and `endsAt`: of a sign-in that ends soon, in ms; or null. */
  draw(state, waiting) {
    this.#state = state;
    this.#waiting = waiting;
    const calm = state.kind === "connected" || state.kind === "idle";
    if (calm && isSafe(waiting)) this.#troubledSince = null;
    else this.#troubledSince ??= Date.now();
    if (this.#troubledSince === null) clearInterval(this.#ticking);
    this.#ticking = this.#troubledSince === null ? null : (this.#ticking ?? setInterval(() => this.#tick(), 250));
    this.#tick();
  }

  #tick() {
    const { kind } = this.#state;
    const { short, long, spoken } = wordsFor(this.#state, this.#waiting);
    setText(this.#spoken, spoken);
    this.#connection.dataset.state = kind === "waiting" ? "reconnecting" : kind;
    setText(this.#words, short);
    const { isStalled, endsAt } = this.#waiting;
    const calm = this.#troubledSince === null || (!isFinal(kind) && Date.now() - this.#troubledSince < CALM_MS);
    this.#notice.hidden = calm || long === null;
    if (long !== null) setText(this.#noticeWords, long);
    this.#retry.disabled = kind === "connecting";
    this.#retry.hidden = kind === "signedOut" || (kind === "connected" && !isStalled);
    this.#signIn.hidden = kind !== "signedOut" && !(kind === "connected" && endsAt !== null);
  }
}

function isFinal(kind) {
  return kind === "refused" || kind === "signedOut";
}

function isSafe({ writing, unkept, isStalled, isDraftKept, endsAt }) {
  return writing + unkept === 0 && !isStalled && isDraftKept && endsAt === null;
}

/** `short` for the bar, `long` for the notice (null: none), `spoken` for screen readers, without the countdown. */
function wordsFor({ kind, reason, retryAt, attempt }, waiting) {
  const kept = keptWords(waiting);
  if (kind === "connected") return { short: "Connected", long: connectedWords(waiting, kept), spoken: "Connected" };
  if (kind === "signedOut") return { short: "Signed out", long: `${reason} Sign in again to go on. ${kept}`, spoken: "Signed out" };
  if (kind === "offline") return { short: "Offline", long: `You are offline. ${kept}`, spoken: "Offline" };
  if (kind === "refused") {
    const long = `${reason} Change your name, or try again. ${kept}`;
    return { short: "Not connected", long, spoken: "Not connected" };
  }
  if (kind === "waiting") {
    const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
    return { short: `Reconnecting in ${seconds} s`, long: `${reason} ${kept}`, spoken: "Reconnecting" };
  }
  if ((attempt ?? 0) === 0) return { short: "Connecting…", long: isSafe(waiting) ? null : kept, spoken: "" };
  return { short: "Reconnecting…", long: `Trying to reach the server. ${kept}`, spoken: "Reconnecting" };
}

function connectedWords(waiting, kept) {
  if (isSafe(waiting)) return null;
  return isSafe({ ...waiting, endsAt: null }) ? endWords(waiting.endsAt) : kept;
}

/** By the minute, since screen readers repeat each change. */
function endWords(endsAt) {
  const minutes = Math.ceil((endsAt - Date.now()) / 60_000);
  const left = minutes > 1 ? `in ${minutes} minutes` : "in less than a minute";
  return `Your sign-in ends ${left}. Sign in again to stay connected.`;
}

/** What happens to unsent text, and what the person must do to keep it; never promises more than is true. */
function keptWords({ count, writing, unkept, problem, isStalled, isDraftKept }) {
  const draft = isDraftKept ? "" : " Your unfinished message is lost when you close this tab.";
  if (unkept > 0) {
    const [are, they] = unkept === 1 ? ["is", "it is"] : ["are", "they are"];
    return `${problem} ${counted(unkept, "unsent message")} ${are} only in this tab: keep it open until ${they} sent.`;
  }
  if (writing > 0) return `Saving ${counted(writing, "message")}…${draft}`;
  if (problem !== null) return `${problem} What you write is kept only while this tab is open.`;
  if (count === 0) return `Messages that you write now wait here and are sent later.${draft}`;
  if (isStalled) {
    const wait = count === 1 ? "waits" : "wait";
    return `Another tab is sending; it does not answer. ${counted(count, "message")} ${wait} for it.${draft}`;
  }
  const [wait, are] = count === 1 ? ["waits", "is"] : ["wait", "are"];
  const words = `${counted(count, "message")} ${wait} here, even if you close this page`;
  return `${words}, and ${are} sent once it is open and connected.${draft}`;
}
