// One person's outbox in the storage: a record per entry, in writing order.

import { readAll, write } from "./database.js";

export class Records {
  #identity;

  /** `identity()` gives `{userId, username}`; it is stored beside the entries, which are lost without it. */
  constructor(identity) {
    this.#identity = identity;
  }

  /** `[record]`, ascending by place. */
  all() {
    return readAll("outbox", "user", this.#identity().userId);
  }

  /** The places of these new entries, once they are on disk. */
  add(entries) {
    const work = ({ outbox, identity }) => {
      identity.put(this.#identity(), "last");
      return this.#addTo(outbox, entries);
    };
    return write(["outbox", "identity"], work, { blind: true });
  }

  put(entry) {
    return write(["outbox"], ({ outbox }) => {
      outbox.put({ place: entry.place, ...this.#record(entry) });
    });
  }

  /** Move an entry behind all others; its new place. */
  async moveLast(entry) {
    const [place] = await write(["outbox"], ({ outbox }) => {
      if (entry.place !== null) outbox.delete(entry.place);
      return this.#addTo(outbox, [entry]);
    });
    return place;
  }

  delete(places) {
    return write(["outbox"], ({ outbox }) => {
      for (const place of places) outbox.delete(place);
    });
  }

  /** What other tabs learn of a stored entry. */
  of(entry) {
    return { place: entry.place, ...this.#record(entry) };
  }

  #addTo(outbox, entries) {
    const requests = entries.map((entry) => outbox.add(this.#record(entry)));
    return () => requests.map(({ result }) => result);
  }

  #record({ id, room, text, at, state, reason, final }) {
    return { userId: this.#identity().userId, id, room, text, at, state, reason, final };
  }
}
