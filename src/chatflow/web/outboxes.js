// All unsent messages of one person: kept in IndexedDB, seen by every tab of this browser, sent by one of them.
//
// An entry enters the storage before it is sent and leaves it after the ack. What the storage refuses stays in
// memory, is sent by this tab, and is offered to the storage again. `kept`: null while being written, true when stored,
// false when only this tab has it.

import { MAX_OUTBOX_TOTAL, STORAGE_PATIENCE_MS, SYNC_MS } from "./bounds.js";
import { reasonOf } from "./database.js";
import { Outbox } from "./outbox.js";
import { Records } from "./records.js";
import { Tabs } from "./tabs.js";

export class Outboxes {
  #records;
  #send;
  #changed;
  #boxes = new Map();
  #tabs;
  #unsaved = new Set();
  #work = Promise.resolve();
  #isStuck = false;
  // Ids that changed during a read of the storage: what was read about them is out of date.
  #touched = null;
  /** Why the storage refuses, for people; null when it works. */
  problem = null;

  /**
   * `identity()` gives `{userId, username}`, whose userId never changes; `send(frame)` returns false when there is no
   * connection; `changed(room)` asks for a redraw, even of a room that this tab has not joined yet.
   */
  constructor({ identity, send, changed }) {
    this.#records = new Records(identity);
    this.#send = send;
    this.#changed = changed;
    this.#tabs = new Tabs(identity().userId, {
      heard: (message) => this.#hear(message),
      prepare: () => this.sync(),
      chosen: () => this.#pump({ resent: true }),
      isAwaited: () => this.entries.some(({ state, kept }) => state === "pending" && kept === true),
      judged: () => this.#changed(null),
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

  /** The outbox that an answer belongs to. */
  holding({ ref, id }) {
    return [...this.#boxes.values()].find((box) => box.has(ref) || box.has(id));
  }

  get entries() {
    return [...this.#boxes.values()].flatMap(({ entries }) => entries);
  }

  get isFull() {
    return this.entries.length >= MAX_OUTBOX_TOTAL;
  }

  /**
   * How many messages wait, how many of them are still being written, how many exist only in this tab, and whether the
   * tab that sends them hangs (`isStalled`).
   */
  get waiting() {
    const { isSenderSilent: isStalled } = this.#tabs;
    const waiting = { count: 0, writing: 0, unkept: 0, problem: this.problem, isStalled };
    for (const { state, kept } of this.entries) {
      if (state === "acknowledged") continue;
      waiting.count += 1;
      if (kept === null) waiting.writing += 1;
      else if (!kept) waiting.unkept += 1;
    }
    return waiting;
  }

  /** There is a connection: this tab may become the sender. */
  connected() {
    this.#tabs.compete();
  }

  disconnected() {
    this.#tabs.yield();
  }

  /** Send from this tab, although another one says that it sends. */
  takeOver() {
    this.#tabs.steal();
  }

  /** Take in an earlier version's entries; true once the storage has them all. */
  async adopt(entries) {
    for (const entry of entries) {
      const box = this.of(entry.room);
      if (!box.has(entry.id)) this.#unsaved.add(box.adopt(entry));
    }
    await this.sync();
    return this.#unsaved.size === 0;
  }

  /** Read what the storage has, and write what it lacks. Never rejects. */
  sync() {
    return this.#inOrder(async () => {
      await this.#save();
      this.#touched = new Set();
      try {
        await this.#read();
        if (this.#unsaved.size === 0) this.problem = null;
      } catch (error) {
        this.problem = reasonOf(error);
      } finally {
        this.#touched = null;
        this.#changed(null);
      }
    });
  }

  // --- for the outboxes

  maySend({ kept }) {
    if (kept !== true) return kept === false;
    if (!this.#tabs.isSender) this.#tabs.watch();
    return this.#tabs.isSender;
  }

  /** Settles when the entry is stored, or when that failed or took too long; see `entry.kept`. Never rejects. */
  async keep(entry) {
    this.#unsaved.add(entry);
    const saved = this.#inOrder(() => this.#save());
    const patienceMs = this.#isStuck ? 0 : STORAGE_PATIENCE_MS;
    await Promise.race([saved, new Promise((resolve) => setTimeout(resolve, patienceMs))]);
    if (entry.kept !== null) return;
    this.#isStuck = true;
    this.#refused([entry], new DOMException("slow", "TimeoutError"));
  }

  /** These are acknowledged (`told`: `{acked, seq}`) or given up: tell other tabs, delete them from the storage. */
  drop(entries, told = {}) {
    this.#touch(entries);
    for (const entry of entries) {
      entry.isDropped = true;
      this.#tabs.tell({ gone: entry.id, room: entry.room, ...told });
    }
    return this.#attempt(async () => {
      for (const entry of entries) this.#unsaved.delete(entry);
      const places = entries.map(({ place }) => place).filter((place) => place !== null);
      if (places.length > 0) await this.#records.delete(places);
    });
  }

  update(entry) {
    this.#touch([entry]);
    return this.#attempt(async () => {
      if (entry.place === null) return;
      await this.#records.put(entry);
      this.#tellKept([entry]);
    });
  }

  /** Move behind everything that waits. */
  moveLast(entry) {
    this.#touch([entry]);
    return this.#attempt(async () => this.#saved([entry], [await this.#records.moveLast(entry)]));
  }

  // --- the storage

  async #read() {
    const before = this.entries.filter(({ kept }) => kept === true);
    const records = await this.#records.all();
    const found = new Set(records.map(({ id }) => id));
    const lost = before.filter(({ id }) => !found.has(id) && !this.#touched.has(id));
    for (const record of records) if (!this.#touched.has(record.id)) this.of(record.room).take(record);
    for (const entry of lost) this.#lost(entry);
    this.#pump({ resent: false });
  }

  /** The storage was cleared, or another tab handled this entry while this tab was frozen: sending it again is safe. */
  #lost(entry) {
    if (entry.state === "failed") this.of(entry.room).vanished(entry.id, {});
    if (entry.state !== "pending") return;
    Object.assign(entry, { place: null, kept: false });
    this.#unsaved.add(entry);
  }

  /** Write whatever the storage lacks, in order. */
  async #save() {
    const entries = [...this.#unsaved];
    if (entries.length === 0) return;
    try {
      const places = await this.#records.add(entries);
      this.problem = null;
      this.#saved(entries, places);
    } catch (error) {
      if (error.name === "ConstraintError") await this.#recognise(entries);
      else this.#refused(entries, error);
    } finally {
      this.#isStuck = false;
    }
  }

  /** Some of these are already stored. */
  async #recognise(entries) {
    try {
      const places = new Map((await this.#records.all()).map(({ id, place }) => [id, place]));
      const there = entries.filter(({ id }) => places.has(id));
      this.#saved(there, there.map(({ id }) => places.get(id)));
      if (there.length > 0) await this.#save();
    } catch (error) {
      this.#refused(entries, error);
    }
  }

  #saved(entries, places) {
    entries.forEach((entry, at) => {
      this.#unsaved.delete(entry);
      entry.place = places[at];
      entry.kept = true;
    });
    this.#placed(entries);
    this.#tellKept(entries);
  }

  #refused(entries, error) {
    this.problem = reasonOf(error);
    for (const entry of entries) entry.kept = false;
    this.#placed(entries);
  }

  #placed(entries) {
    for (const room of new Set(entries.map((entry) => entry.room))) this.of(room).placed();
  }

  /** A failed change leaves an extra entry in the storage: it is sent again, and the server stores it once. */
  #attempt(step) {
    return this.#inOrder(async () => {
      try {
        await step();
      } catch (error) {
        this.problem = reasonOf(error);
      }
    });
  }

  /** Run storage operations one at a time, so that no answer overtakes another. */
  #inOrder(step) {
    const done = this.#work.then(step);
    this.#work = done.catch(() => undefined);
    return done;
  }

  // --- the other tabs

  #tellKept(entries) {
    const kept = entries.filter(({ isDropped }) => !isDropped).map((entry) => this.#records.of(entry));
    if (kept.length > 0) this.#tabs.tell({ kept });
  }

  #hear({ kept = [], gone, room, acked, seq }) {
    this.#touch(gone === undefined ? kept : [{ id: gone }]);
    this.#inOrder(() => {
      for (const record of kept) this.of(record.room).take(record);
      if (gone !== undefined) this.of(room).vanished(gone, { acked, seq });
      this.#pump({ resent: false });
    });
  }

  #touch(entries) {
    for (const { id } of entries) this.#touched?.add(id);
  }

  #pump({ resent }) {
    for (const box of this.#boxes.values()) box.pump({ resent });
  }
}
