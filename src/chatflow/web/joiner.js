// Joins the rooms of one connection: few per frame, since the gateway bounds what a frame holds, and one frame at a
// time, so that a gateway under load sets the pace.

import { JOINS_PER_FRAME, JOIN_TIMEOUT_MS, backoffMs } from "./bounds.js";

export class Joiner {
  #send;
  #waiting = [];
  #asked = new Set();
  #timer = null;
  #retry = null;
  #again = new Set();

  /** `send(frames)` returns false when there is no connection. */
  constructor(send) {
    this.#send = send;
  }

  /** A new connection: join these rooms in this order. */
  start(rooms) {
    this.stop();
    this.#waiting = rooms;
    this.#next();
  }

  stop() {
    clearTimeout(this.#timer);
    clearTimeout(this.#retry);
    this.#retry = null;
    this.#waiting = [];
    this.#asked.clear();
    this.#again.clear();
  }

  /** Join a new room at once: somebody is waiting to see it. */
  joinNow(room) {
    this.#waiting = this.#waiting.filter((other) => other !== room);
    this.#again.delete(room);
    this.#send([joinFrame(room)]);
  }

  /** The room is on screen: move it to the front of the queue. */
  hurry(room) {
    if (this.#waiting.includes(room)) this.#waiting = [room, ...this.#waiting.filter((other) => other !== room)];
  }

  /** The server answered for this room, or the person left it. */
  answered(room) {
    this.#waiting = this.#waiting.filter((other) => other !== room);
    this.#again.delete(room);
    if (this.#asked.delete(room) && this.#asked.size === 0) this.#next();
  }

  /** The server refused for now: join again later. */
  refused(room) {
    this.answered(room);
    this.#again.add(room);
    this.#retry ??= setTimeout(() => this.#askAgain(), backoffMs(2));
  }

  #askAgain() {
    this.#retry = null;
    this.#waiting.push(...this.#again);
    this.#again.clear();
    if (this.#asked.size === 0) this.#next();
  }

  #next() {
    clearTimeout(this.#timer);
    this.#asked.clear();
    const rooms = this.#waiting.splice(0, JOINS_PER_FRAME);
    if (rooms.length === 0 || !this.#send(rooms.map(joinFrame))) return;
    this.#asked = new Set(rooms);
    this.#timer = setTimeout(() => this.#silence(), JOIN_TIMEOUT_MS);
  }

  /** Repeat unanswered joins, behind the rest. */
  #silence() {
    this.#waiting.push(...this.#asked);
    this.#next();
  }
}

function joinFrame(room) {
  const since = room.since === undefined ? {} : { since: room.since };
  return { op: "join", ref: `join ${room.name}`, room: room.name, ...since };
}
