// The rooms of one person over one connection: who is joined, and which frame belongs to which room.

import { MAX_ROOMS, backoffMs } from "./bounds.js";
import { Connection } from "./connection.js";
import { Room } from "./room.js";
import * as storage from "./storage.js";
import { uuid7 } from "./text.js";

export class Chat {
  #identity;
  #changed;
  #connection;
  #rooms = new Map();
  #left = new Set();
  #current = null;
  #saving = null;

  /**
   * `changed(room)` asks for a redraw of one room, `changed(null)` of the list and the connection;
   * `notify(words)` tells what belongs to no message.
   */
  constructor({ url, identity, changed, notify }) {
    this.#identity = identity;
    this.#changed = changed;
    this.#connection = new Connection(url, {
      onState: (state) => this.#onState(state),
      onFrame: (frame) => this.#onFrame(frame, notify),
      // Leaving a room that nobody is in costs the server nothing, and is always answered.
      question: () => ({ op: "leave", ref: "alive", room: uuid7() }),
    });
    for (const stored of storage.loadRooms()) this.#add(stored);
    addEventListener("pagehide", () => this.#saveNow());
  }

  get identity() {
    return this.#identity;
  }

  get state() {
    return this.#connection.state;
  }

  get current() {
    return this.#current;
  }

  /** In the order in which they were added, newest first. */
  get rooms() {
    return [...this.#rooms.values()].reverse();
  }

  get unread() {
    return this.rooms.reduce((sum, room) => sum + room.unread, 0);
  }

  /** The room to return to when the address names none; null on a first visit. */
  get lastVisited() {
    return this.rooms.reduce((last, room) => (last === null || room.visitedAt > last.visitedAt ? room : last), null);
  }

  /** Enter, or enter again under another name. */
  enter(username) {
    this.#identity = { ...this.#identity, username };
    storage.saveIdentity(this.#identity);
    this.#connection.start({ ...this.#identity });
  }

  retryNow() {
    this.#connection.retryNow();
  }

  /** Bring a room on screen, joining it first when it is new. `name` is canonical. */
  open(name) {
    if (this.#current?.name === name) return;
    this.close();
    const room = this.#rooms.get(name) ?? this.#joinNew(name);
    this.#current = room;
    room.open();
    this.#save();
    this.#changed(null);
  }

  /** Leave the screen empty. */
  close() {
    this.#current?.hide();
    this.#current = null;
  }

  /** Forget a room: no messages, no place in the sidebar. */
  leave(name) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    if (this.#current === room) this.close();
    room.dispose();
    this.#rooms.delete(name);
    this.#left.add(name);
    storage.saveDraft(name, "");
    storage.saveOutbox(name, []);
    this.#connection.send({ op: "leave", ref: `leave ${name}`, room: name });
    this.#save();
    this.#changed(null);
  }

  #joinNew(name) {
    while (this.#rooms.size >= MAX_ROOMS) {
      const oldest = this.rooms.reduce((least, room) => (room.visitedAt < least.visitedAt ? room : least));
      this.leave(oldest.name);
    }
    const room = this.#add({ name });
    this.#left.delete(name);
    this.#connection.send(joinFrame(room));
    return room;
  }

  #add(stored) {
    const room = new Room(stored, {
      me: () => this.#identity.userId,
      send: (frame) => this.#connection.send(frame),
      changed: (changed) => this.#roomChanged(changed),
      outbox: storage.loadOutbox(stored.name),
      saveOutbox: (entries) => storage.saveOutbox(stored.name, entries),
    });
    this.#rooms.set(room.name, room);
    return room;
  }

  #roomChanged(room) {
    if (this.#rooms.get(room.name) !== room) return;
    this.#save();
    this.#changed(room);
  }

  #onState(state) {
    for (const room of this.#rooms.values()) room.disconnect();
    if (state.kind === "connected" && this.#rooms.size > 0) this.#connection.send(this.#inOrder().map(joinFrame));
    this.#changed(null);
  }

  /** The room on screen first. */
  #inOrder() {
    return this.rooms.sort((one, other) => (other === this.#current) - (one === this.#current));
  }

  #onFrame(frame, notify) {
    const room = this.#rooms.get(frame.room);
    if (frame.op === "message") room?.receive(frame);
    else if (frame.op === "joined") room?.join(frame);
    else if (frame.op === "ack") this.#sender(frame)?.acknowledge(frame.id ?? frame.ref, frame.seq);
    else if (frame.op === "error") this.#onError(frame, notify);
  }

  #onError(frame, notify) {
    const reason = frame.message || "The server refused it.";
    const sender = this.#sender(frame);
    const joining = this.#rooms.get(String(frame.ref ?? "").replace(/^join /, ""));
    if (sender !== undefined) sender.outbox.refused(frame.ref, { reason, retryable: frame.retryable === true });
    else if (joining !== undefined && frame.retryable === true) this.#joinLater(joining);
    else if (joining !== undefined) joining.refuse(reason);
    else notify(reason);
  }

  #joinLater(room) {
    const due = () => this.#rooms.get(room.name) === room && !room.joined;
    setTimeout(() => due() && this.#connection.send(joinFrame(room)), backoffMs(2));
  }

  #sender({ ref, id }) {
    return this.rooms.find(({ outbox }) => outbox.has(ref) || outbox.has(id));
  }

  #save() {
    this.#saving ??= setTimeout(() => this.#saveNow(), 500);
  }

  #saveNow() {
    clearTimeout(this.#saving);
    this.#saving = null;
    const mine = [...this.#rooms.values()].map(({ name, lastRead, visitedAt }) => ({ name, lastRead, visitedAt }));
    storage.saveRooms(mine, this.#left);
  }
}

function joinFrame(room) {
  const since = room.since === undefined ? {} : { since: room.since };
  return { op: "join", ref: `join ${room.name}`, room: room.name, ...since };
}
