// All unsent messages of one person: kept in IndexedDB, seen by every tab of this browser, sent by one of them.
//
// An entry enters the storage before it is sent and leaves it after the ack. What the storage refuses is kept in
// memory, sent by this tab, and offered to the storage again; `kept` tells which it is: null being written, true kept,
// false only in this tab.

import { MAX_OUTBOX_TOTAL, STORAGE_PATIENCE_MS, SYNC_MS } from "./bounds.js";
import { readAll, reasonOf, write } from "./database.js";
import { Outbox } from "./outbox.js";
import { Tabs } from "./tabs.js";

export class Outboxes {
  #identity;
  #send;
  #changed;
  #boxes = new Map();
  #tabs;
  #unsaved = new Set();
  #work = Promise.resolve();
  // Ids that changed while the storage is being read: what was read of them is out of date.
  #touched = null;
  /** Why the storage refuses, for a person; null: it does not. */
  problem = null;

  /**
   * `identity()` gives `{userId, username}`, whose userId never changes; `send(frame)` returns false when there is no
   * connection; `changed(room)` asks for a redraw, also of a room that nobody here has joined yet.
   */
  constructor({ identity, send, changed }) {
    this.#identity = identity;
    this.#send = send;
    this.#changed = changed;
    this.#tabs = new Tabs(identity().userId, {
      heard: (message) => this.#hear(message),
      prepare: () => this.sync(),
      chosen: () => this.#pump({ resent: true }),
    });
    setInterval(() => this.#tabs.isSender && this.sync(), SYNC_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.sync());
  }

  of(room) {
    let box = this.#boxes.get(room);
    if (box === undefined) {
      const changed = () => this.#changed(room);
      box = new Outbox(room, { send: this.#send, keeper: this, changed });
      this.#boxes.set(room, box);
    }
    return box;
  }

  /** The outbox that a server's answer belongs to. */
  holding({ ref, id }) {
    return [...this.#boxes.values()].find((box) => box.has(ref) || box.has(id));
  }

  get isFull() {
    let count = 0;
    for (const box of this.#boxes.values()) count += box.entries.length;
    return count >= MAX_OUTBOX_TOTAL;
  }

  /** How many messages wait, and how many of them are still being written, or only in this tab. */
  get waiting() {
    const waiting = { count: 0, writing: 0, unkept: 0, problem: this.problem };
    for (const { entries } of this.#boxes.values()) {
      for (const { state, kept } of entries) {
        if (state === "acknowledged") continue;
        waiting.count += 1;
        if (kept === null) waiting.writing += 1;
        else if (!kept) waiting.unkept += 1;
      }
    }
    return waiting;
  }

  /** There is a connection: this tab may become the one that sends. */
  connected() {
    this.#tabs.compete();
  }

  disconnected() {
    this.#tabs.yield();
  }

  /** Take in entries that were kept elsewhere; true once the storage has them all. */
  async adopt(entries) {
    for (const entry of entries) if (!this.of(entry.room).has(entry.id)) this.#unsaved.add(this.of(entry.room).adopt(entry));
    await this.sync();
    return this.#unsaved.size === 0;
  }

  // --- what an outbox asks of its keeper

  maySend({ kept }) {
    return kept === false || (kept === true && this.#tabs.isSender);
  }

  /** Settled when the entry is kept, or when that failed or takes too long; `entry.kept` tells. Never rejects. */
  async keep(entry) {
    this.#unsaved.add(entry);
    const saved = this.#inOrder(() => this.#save());
    const late = new DOMException("slow", "TimeoutError");
    await Promise.race([saved, new Promise((resolve) => setTimeout(resolve, STORAGE_PATIENCE_MS))]);
    if (entry.kept === null) this.#refused([entry], late);
  }

  /** These are acknowledged (`told`: `{acked, seq}`) or given up: the other tabs hear it, the storage forgets them. */
  drop(entries, told = {}) {
    this.#touch(entries);
    for (const { id, room } of entries) this.#tabs.tell({ gone: id, room, ...told });
    return this.#inOrder(async () => {
      for (const entry of entries) this.#unsaved.delete(entry);
      const places = entries.map(({ place }) => place).filter((place) => place !== null);
      if (places.length === 0) return;
      await this.#attempt(({ outbox }) => {
        for (const place of places) outbox.delete(place);
      });
    });
  }

  update(entry) {
    this.#touch([entry]);
    return this.#inOrder(async () => {
      if (entry.place === null) return;
      await this.#attempt(({ outbox }) => {
        outbox.put(this.#record(entry));
      });
      this.#tabs.tell({ kept: [this.#record(entry)] });
    });
  }

  /** Behind everything that waits. */
  moveLast(entry) {
    this.#touch([entry]);
    return this.#inOrder(async () => {
      const places = await this.#attempt((stores) => {
        if (entry.place !== null) stores.outbox.delete(entry.place);
        return this.#add(stores, [entry]);
      });
      if (places !== undefined) this.#saved([entry], places);
    });
  }

  // --- the storage

  /** Take in what the storage has, and offer it what it lacks. Never rejects. */
  sync() {
    return this.#inOrder(async () => {
      await this.#save();
      const before = this.#kept();
      this.#touched = new Set();
      try {
        this.#merge(await this.#records(), before);
        if (this.#unsaved.size === 0) this.problem = null;
      } catch (error) {
        this.problem = reasonOf(error);
      } finally {
        this.#touched = null;
        this.#changed(null);
      }
    });
  }

  #merge(records, before) {
    const found = new Set(records.map(({ id }) => id));
    const lost = before.filter(({ id }) => !found.has(id) && !this.#touched.has(id));
    for (const record of records) if (!this.#touched.has(record.id)) this.of(record.room).take(record);
    for (const entry of lost) this.#lost(entry);
    this.#pump({ resent: false });
  }

  /** The storage was emptied, or another tab saw to it while this one was frozen: sending it again is safe. */
  #lost(entry) {
    if (entry.state === "failed") this.of(entry.room).vanished(entry.id, {});
    if (entry.state !== "pending") return;
    Object.assign(entry, { place: null, kept: false });
    this.#unsaved.add(entry);
  }

  #records() {
    return readAll("outbox", "user", this.#identity().userId);
  }

  #kept() {
    return [...this.#boxes.values()].flatMap(({ entries }) => entries.filter((entry) => entry.kept === true));
  }

  /** Write whatever the storage does not have yet, in its order. */
  async #save() {
    const entries = [...this.#unsaved];
    if (entries.length === 0) return;
    try {
      const places = await write(["outbox", "identity"], (stores) => this.#add(stores, entries), { blind: true });
      this.problem = null;
      this.#saved(entries, places);
    } catch (error) {
      if (error.name === "ConstraintError") await this.#recognise(entries);
      else this.#refused(entries, error);
    }
  }

  /** Some of these are there already. */
  async #recognise(entries) {
    try {
      const places = new Map((await this.#records()).map(({ id, place }) => [id, place]));
      const there = entries.filter(({ id }) => places.has(id));
      this.#saved(there, there.map(({ id }) => places.get(id)));
      if (there.length > 0) await this.#save();
    } catch (error) {
      this.#refused(entries, error);
    }
  }

  #add({ outbox, identity }, entries) {
    const requests = entries.map((entry) => outbox.add(this.#record(entry, { isNew: true })));
    identity?.put(this.#identity(), "last");
    return () => requests.map((request) => request.result);
  }

  #saved(entries, places) {
    entries.forEach((entry, at) => {
      this.#unsaved.delete(entry);
      entry.place = places[at];
      entry.kept = true;
    });
    for (const room of new Set(entries.map(({ room }) => room))) this.of(room).placed();
    const waiting = entries.filter(({ state }) => state !== "acknowledged");
    this.#tabs.tell({ kept: waiting.map((entry) => this.#record(entry)) });
  }

  #refused(entries, error) {
    this.problem = reasonOf(error);
    for (const entry of entries) entry.kept = false;
    for (const room of new Set(entries.map(({ room }) => room))) this.of(room).placed();
  }

  async #attempt(work) {
    try {
      return await write(["outbox"], work);
    } catch (error) {
      this.problem = reasonOf(error); // An entry too many in the storage is sent again, and stored once.
      return undefined;
    }
  }

  #touch(entries) {
    for (const { id } of entries) this.#touched?.add(id);
  }

  #record({ place, id, room, text, at, state, reason, final }, { isNew = false } = {}) {
    const record = { userId: this.#identity().userId, id, room, text, at, state, reason, final };
    return isNew ? record : { place, ...record };
  }

  // --- the other tabs

  #hear({ kept = [], gone, room, acked, seq }) {
    this.#touch(gone === undefined ? kept : [{ id: gone }]);
    this.#inOrder(() => {
      for (const record of kept) this.of(record.room).take(record);
      if (gone !== undefined) this.of(room).vanished(gone, { acked, seq });
      this.#pump({ resent: false });
    });
  }

  #pump({ resent }) {
    for (const box of this.#boxes.values()) box.pump({ resent });
  }

  /** Everything that touches the storage happens one after the other, so that no answer overtakes another. */
  #inOrder(step) {
    const done = this.#work.then(step);
    this.#work = done.catch(() => undefined);
    return done;
  }
}
