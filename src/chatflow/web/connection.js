// One WebSocket to the gateway that reconnects by itself. It knows frames and states, not rooms.
//
// States (`connection.state.kind`):
//   idle        nobody asked for a connection
//   connecting  opening, or waiting for the welcome
//   connected   the welcome came: `welcome`
//   waiting     lost; `retryAt` (ms since the epoch) says when it is tried again, `reason` why it was lost
//   offline     the same, and the browser says that there is no network
//   refused     the server does not want this person; only a new start() tries again
//   signedOut   the token is not, or no longer, accepted; only a new start() tries again

import { IDLE_MS, PROBE_TIMEOUT_MS, WELCOME_TIMEOUT_MS, backoffMs } from "./bounds.js";
import { sentence } from "./text.js";

const REASONS = {
  1008: "The server turned this connection away.",
  1009: "A message was too large for the server.",
  1012: "The server is restarting.",
  1013: "The server is busy, or this connection was too slow.",
  4401: "The server did not hear who you are in time.",
};

/** The close code of a token that has ended. */
const TOKEN_ENDED = 4403;
/** A connection shorter than this does not count as recovered, so the backoff keeps growing. */
const STABLE_MS = 3_000;
/** The lowest attempt number after 1013: do not retry an overloaded server at once. */
const OVERLOADED_ATTEMPT = 2;

export class Connection {
  #url;
  #onState;
  #onFrame;
  #question;
  #hello = null;
  #socket = null;
  #timer = null;
  #probe = null;
  #attempt = 0;
  #welcomedAt = 0;
  #heardAt = 0;

  /**
   * `onState(state)` runs at each change; `onFrame(object)` for each object after the welcome, in order; `question()`
   * makes a cheap frame that the server answers, to tell a silent connection from a dead one (pages see no pings).
   */
  constructor(url, { onState, onFrame, question }) {
    this.#url = url;
    this.#onState = onState;
    this.#onFrame = onFrame;
    this.#question = question;
    this.state = { kind: "idle" };
    addEventListener("online", () => this.#wake());
    addEventListener("offline", () => this.#check());
    setInterval(() => Date.now() - this.#heardAt >= IDLE_MS && this.#check(), IDLE_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
  }

  /** Connect as what `hello()` says, `{userId, username}` or `{token}`, replacing a connection as somebody else. */
  start(hello) {
    this.#hello = hello;
    this.#attempt = 0;
    this.#open();
  }

  /** Retry now instead of at `retryAt`. */
  retryNow() {
    if (this.#hello !== null && this.state.kind !== "connected") this.#open();
  }

  /** Do not connect any more. */
  stop() {
    this.#hello = null;
    this.#drop();
    this.#become({ kind: "idle" });
  }

  /** Send one object or an array of objects; false when there is no connection and nothing was sent. */
  send(frame) {
    if (this.state.kind !== "connected" || this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  #check() {
    if (this.#probe !== null || !this.send(this.#question())) return;
    this.#probe = setTimeout(() => this.#lose({ code: 0, reason: "The connection went silent." }), PROBE_TIMEOUT_MS);
  }

  #wake() {
    if (this.state.kind === "waiting" || this.state.kind === "offline") this.#open();
    else this.#check();
  }

  #open() {
    this.#drop();
    this.#become({ kind: "connecting", attempt: this.#attempt });
    let socket;
    try {
      socket = new WebSocket(this.#url);
    } catch {
      this.#become({ kind: "refused", reason: "The address of the chat server is not valid." });
      return;
    }
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lose({ code: 0, reason: "The server did not answer." }), WELCOME_TIMEOUT_MS);
    socket.onopen = () => socket.send(JSON.stringify({ op: "hello", ...this.#hello() }));
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#closed(event);
  }

  #receive(data) {
    clearTimeout(this.#probe);
    this.#probe = null;
    this.#heardAt = Date.now();
    const socket = this.#socket;
    for (const frame of [JSON.parse(data)].flat()) {
      if (this.#socket !== socket) return; // A handler closed it: ignore the rest.
      if (this.state.kind === "connected") this.#onFrame(frame);
      else this.#greet(frame);
    }
  }

  #greet(frame) {
    if (frame.op === "welcome") {
      clearTimeout(this.#timer);
      this.#welcomedAt = Date.now();
      this.#become({ kind: "connected", welcome: frame });
    } else if (frame.op === "error") {
      this.#refuse(frame);
    }
  }

  /** A good token may be refused for now: too many sessions, or nobody can check it. */
  #refuse({ code, message, retryable }) {
    if (retryable !== true && !(code === "forbidden" && this.#hasToken)) this.#turnedAway(message);
    else this.#lose({ code: 1013, reason: code === "busy" ? REASONS[1013] : sentence(message ?? REASONS[1013]) });
  }

  get #hasToken() {
    return "token" in this.#hello();
  }

  #closed({ code, reason }) {
    if (code === TOKEN_ENDED) this.#turnedAway(reason);
    else this.#lose({ code, reason: REASONS[code] });
  }

  /** Trying again as the same person would not help. */
  #turnedAway(words) {
    this.#drop();
    const [kind, reason] = this.#hasToken
      ? ["signedOut", "The server does not accept your token"]
      : ["refused", "The server does not accept this name"];
    this.#become({ kind, reason: sentence(words || reason) });
  }

  #lose({ code, reason }) {
    if (this.state.kind === "connected" && Date.now() - this.#welcomedAt > STABLE_MS) this.#attempt = 0;
    if (code === 1013) this.#attempt = Math.max(this.#attempt, OVERLOADED_ATTEMPT);
    this.#drop();
    const delayMs = backoffMs(this.#attempt);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.#open(), delayMs);
    const words = reason ?? "The connection to the server was lost.";
    // "Offline" is only a hint: a server on this machine or network may still answer.
    const kind = navigator.onLine ? "waiting" : "offline";
    this.#become({ kind, code, reason: words, retryAt: Date.now() + delayMs });
  }

  #drop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#probe);
    this.#probe = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #become(state) {
    this.state = state;
    this.#onState(state);
  }
}
