// The rooms of one person over one connection: who is joined, and which frame belongs to which room.

import { MAX_LOADED_ROOMS, MAX_ROOMS } from "./bounds.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { Joiner } from "./joiner.js";
import { oldOutbox } from "./migration.js";
import { Outboxes } from "./outboxes.js";
import { Room } from "./room.js";
import { RoomList } from "./roomlist.js";
import { watchIdentity } from "./storage.js";
import { uuid7 } from "./text.js";

const NO_LONGER = "Your token does not allow reading this room any more.";

export class Chat {
  #credentials;
  #changed;
  #misled;
  #connection;
  #joiner;
  #outboxes;
  #rooms = new Map();
  #list;
  #current = null;

  /**
   * `changed(room)` asks for a redraw of one room, `changed(null)` of the list and the connection;
   * `notify(words)` shows what belongs to no message; `found(entries)` reports what was waiting when the page opened;
   * `misled()` runs when the token turns out to be another person's. `who`: see `Credentials`.
   */
  constructor({ url, who, changed, notify, found, misled }) {
    this.#credentials = new Credentials(who, {
      send: (frame) => this.#connection.send(frame),
      changed: () => changed(null),
    });
    this.#changed = changed;
    this.#misled = misled;
    this.#connection = new Connection(url, {
      onState: (state) => this.#onState(state),
      onFrame: (frame) => this.#onFrame(frame, notify),
      // The server always answers a leave, and leaving an unjoined room costs it nothing.
      question: () => ({ op: "leave", ref: "alive", room: uuid7() }),
    });
    this.#joiner = new Joiner((frames) => this.#connection.send(frames));
    this.#outboxes = new Outboxes({
      identity: () => this.identity,
      send: (frame) => this.#connection.send(frame),
      changed: (room) => this.#waitingChanged(room),
    });
    this.#list = new RoomList(this.token === undefined ? null : who.userId, () => [...this.#rooms.values()]);
    for (const stored of this.#list.load()) this.#add(stored);
    watchIdentity((other) => this.#renamed(other));
    addEventListener("pagehide", () => this.#hide());
    addEventListener("pageshow", (event) => event.persisted && this.#show());
    this.#load(found);
  }

  get identity() {
    return this.#credentials.identity;
  }

  get token() {
    return this.#credentials.token;
  }

  /** ms since the epoch; null: the sign-in does not end. */
  get expiresAt() {
    return this.#credentials.expiresAt;
  }

  get state() {
    return this.#connection.state;
  }

  get current() {
    return this.#current;
  }

  /** Newest first. */
  get rooms() {
    return [...this.#rooms.values()].reverse();
  }

  get unread() {
    return this.rooms.reduce((sum, room) => sum + room.unread, 0);
  }

  /** See `Outboxes.waiting`. */
  get waiting() {
    return this.#outboxes.waiting;
  }

  /** Whether this room, or all rooms together, can hold no more unsent messages. */
  isFull(room) {
    return room.outbox.isFull || this.#outboxes.isFull;
  }

  /** Whether there is space for this room; rooms joined in other tabs count too. */
  canOpen(name) {
    if (this.#rooms.has(name)) return true;
    const known = new Set([...this.#rooms.keys(), ...this.#list.load().map((room) => room.name)]);
    return known.has(name) || known.size < MAX_ROOMS;
  }

  /** The room to return to when the address names none; null on a first visit. */
  get lastVisited() {
    return this.rooms.reduce((last, room) => (last === null || room.visitedAt > last.visitedAt ? room : last), null);
  }

  /** The same, from when it is time to tell the person; null before. */
  get endsAt() {
    return this.#credentials.endsAt;
  }

  /** Enter, or enter again: under another name, or with another token. The user id stays. */
  enter(who) {
    this.#credentials.become(who);
    this.#connection.start(() => this.#credentials.hello);
  }

  /** Go on with a newer token, without losing the connection; null, or why the server refused it in words. */
  async renew(token) {
    const words = await this.#credentials.renew(token);
    if (words === null) this.#tryAgain();
    return words;
  }

  retryNow() {
    if (this.waiting.isStalled) this.#outboxes.takeOver();
    this.#connection.retryNow();
  }

  /** Show a room, joining it first if it is new. `name` is canonical, and `canOpen` returned true. */
  open(name) {
    if (this.#current?.name === name) return;
    this.close();
    const room = this.#rooms.get(name) ?? this.#joinNew(name);
    this.#current = room;
    this.#joiner.hurry(room);
    room.open();
    this.#list.save();
    this.#changed(null);
  }

  /** Show no room. */
  close() {
    this.#current?.hide();
    this.#current = null;
    const loaded = this.rooms.filter((room) => room.loaded).sort((one, other) => other.visitedAt - one.visitedAt);
    for (const room of loaded.slice(MAX_LOADED_ROOMS)) room.unload();
  }

  /** Leave a room, and drop its messages and its place in the sidebar. */
  leave(name) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    if (this.#current === room) this.close();
    room.dispose();
    this.#rooms.delete(name);
    this.#list.left(name);
    this.#joiner.answered(room);
    this.#connection.send({ op: "leave", ref: `leave ${name}`, room: name });
    this.#list.saveNow();
    this.#changed(null);
  }

  #joinNew(name) {
    const room = this.#add({ name });
    this.#list.joined(name);
    this.#joiner.joinNow(room);
    this.#list.saveNow(); // Other tabs count this room.
    return room;
  }

  async #load(found) {
    const { entries, forget } = oldOutbox();
    if (await this.#outboxes.adopt(entries)) forget();
    found(this.#outboxes.entries);
  }

  /** Another tab changed the name; another person's tab does not concern us. */
  #renamed({ userId, username }) {
    const mine = this.identity;
    if (userId !== mine.userId || typeof username !== "string" || username === mine.username) return;
    if (this.token === undefined) this.enter({ userId, username });
  }

  /** The page is going away, perhaps into the back-forward cache: another tab may send now. */
  #hide() {
    this.#list.saveNow();
    this.#outboxes.disconnected();
  }

  async #show() {
    await this.#outboxes.sync();
    if (this.state.kind === "connected") this.#outboxes.connected();
    this.#connection.retryNow();
  }

  #add(stored) {
    const room = new Room(stored, {
      me: () => this.identity.userId,
      headers: () => this.#credentials.headers,
      changed: (changed) => this.#roomChanged(changed),
      outbox: this.#outboxes.of(stored.name),
    });
    this.#rooms.set(room.name, room);
    return room;
  }

  #roomChanged(room) {
    if (this.#rooms.get(room.name) !== room) return;
    this.#list.save();
    this.#changed(room);
  }

  /** A waiting message may belong to a room that only another tab joined: join it here too, to send the message. */
  #waitingChanged(name) {
    const room = this.#rooms.get(name);
    if (room !== undefined) {
      this.#roomChanged(room);
      return;
    }
    if (name !== null && this.#outboxes.of(name).entries.length > 0) this.#joinNew(name);
    this.#changed(null);
  }

  #onState(state) {
    if (state.kind === "connected" && !this.#credentials.welcomed(state.welcome)) {
      this.#connection.stop();
      this.#misled();
      return;
    }
    this.#credentials.lost();
    for (const room of this.#rooms.values()) room.disconnect();
    this.#outboxes.disconnected();
    this.#joiner.stop();
    if (state.kind === "connected") {
      this.#outboxes.connected();
      this.#joiner.start(this.#inOrder());
    }
    this.#changed(null);
  }

  /** The room on screen first. */
  #inOrder() {
    return this.rooms.sort((one, other) => (other === this.#current) - (one === this.#current));
  }

  /** A newer token may allow what the one before did not. */
  #tryAgain() {
    for (const room of this.rooms.filter(({ refusal }) => refusal !== null)) this.#joiner.joinNow(room);
    if (this.#current?.problem) this.#current.retry();
    this.#changed(null);
  }

  #onFrame(frame, notify) {
    if (this.#credentials.answered(frame)) return;
    const room = this.#rooms.get(frame.room);
    if (frame.op === "message") room?.receive(frame);
    else if (frame.op === "joined") this.#onJoined(room, frame);
    else if (frame.op === "left" && frame.ref === undefined) room?.refuse(NO_LONGER);
    else if (frame.op === "ack") this.#onAck(frame);
    else if (frame.op === "error") this.#onError(frame, notify);
  }

  #onJoined(room, frame) {
    if (room === undefined) return;
    room.join(frame);
    this.#joiner.answered(room);
  }

  #onAck(frame) {
    const outbox = this.#outboxes.holding(frame);
    const room = outbox && this.#rooms.get(outbox.room);
    room?.acknowledge(frame.id ?? frame.ref, frame.seq);
  }

  #onError(frame, notify) {
    const reason = frame.message || "The server refused it.";
    const retryable = frame.retryable === true;
    const outbox = this.#outboxes.holding(frame);
    const joining = this.#rooms.get(String(frame.ref ?? "").replace(/^join /, ""));
    if (outbox !== undefined) outbox.refused(frame.ref, { code: frame.code, reason, retryable });
    else if (joining === undefined) notify(reason);
    else if (retryable) this.#joiner.refused(joining);
    else this.#onShutOut(joining, reason);
  }

  #onShutOut(room, reason) {
    room.refuse(reason);
    this.#joiner.answered(room);
  }
}
