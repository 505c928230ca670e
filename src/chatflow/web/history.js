// The stored messages of one room, read by REST. Hides the opaque cursors behind ranges of seq.

import { MAX_CURSORS, MAX_PAGE } from "./bounds.js";

/** The most requests per range: 100 pages of 1,000 rows. */
const MAX_REQUESTS = 100;

/** A read that failed; `retryAfterMs` is the server's `Retry-After`, or 0. */
export class HistoryError extends Error {
  constructor(message, status, retryAfterMs) {
    super(message);
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

export class History {
  #room;
  #headers;
  // Ascending by seq; `cursor` leads to the messages below `seq`. Old pages never change, so cursors stay valid.
  #boundaries = [];

  /** `headers()` says who asks. */
  constructor(room, headers) {
    this.#room = room;
    this.#headers = headers;
  }

  /** The newest `count` messages, oldest first, from a store that has committed at least up to `minSeq`. */
  async latest(count, minSeq) {
    const { messages } = await this.#page({ limit: Math.min(count, MAX_PAGE), minSeq });
    return messages.reverse();
  }

  /**
   * Every stored message with low <= seq <= high, oldest first, where `head` is the highest seq known to exist.
   *
   * Walks down from the nearest known cursor above `high`, or from the head.
   */
  async range(low, high, head) {
    let found = [];
    let top = this.#boundaries.find((boundary) => boundary.seq > high) ?? null;
    for (let request = 0; request < MAX_REQUESTS; request += 1) {
      const above = top === null ? Math.max(head, high) + 1 : top.seq;
      const limit = Math.min(MAX_PAGE, Math.max(1, above - low));
      const place = top === null ? { minSeq: Math.max(head, high) } : { cursor: top.cursor };
      const { messages, boundary } = await this.#page({ limit, ...place });
      found = messages.filter(({ seq }) => seq >= low && seq <= high).reverse().concat(found);
      if (boundary === null || boundary.seq <= low) return found;
      top = boundary;
    }
    throw new HistoryError("These messages are too far back to be read in one go.", 0, 0);
  }

  async #page({ limit, cursor, minSeq }) {
    const query = new URLSearchParams({ roomId: this.#room, limit: String(limit) });
    if (cursor !== undefined) query.set("cursor", cursor);
    else if (minSeq > 0) query.set("minSeq", String(minSeq));
    const body = await this.#get(`api/messages/room?${query}`, cursor !== undefined);
    const messages = body.messages.map(fromRow);
    const boundary =
      body.nextCursor && messages.length > 0 ? { seq: messages.at(-1).seq, cursor: body.nextCursor } : null;
    if (boundary !== null) this.#remember(boundary);
    return { messages, boundary };
  }

  async #get(url, byCursor) {
    let response;
    try {
      response = await fetch(url, { cache: "no-store", headers: { Accept: "application/json", ...this.#headers() } });
    } catch {
      throw new HistoryError("The server could not be reached.", 0, 0);
    }
    if (response.ok) return parsed(response);
    if (response.status === 400 && byCursor) this.#boundaries = []; // Another server's cursor: start from the head.
    const retryAfterMs = 1000 * (Number(response.headers.get("Retry-After")) || 0);
    throw new HistoryError(wordsFor(response.status), response.status, retryAfterMs);
  }

  #remember(boundary) {
    const at = this.#boundaries.findIndex(({ seq }) => seq >= boundary.seq);
    if (at === -1) this.#boundaries.push(boundary);
    else this.#boundaries.splice(at, this.#boundaries[at].seq === boundary.seq ? 1 : 0, boundary);
    // Thin out rather than truncate: every range stays near some cursor.
    if (this.#boundaries.length > MAX_CURSORS) this.#boundaries = this.#boundaries.filter((_, index) => index % 2);
  }
}

function wordsFor(status) {
  if (status === 503 || status === 504 || status === 409) return "The server is busy.";
  if (status === 401) return "The server does not accept your token, or it has expired.";
  if (status === 403) return "Your token does not allow reading this room.";
  return `The server could not answer (${status}).`;
}

async function parsed(response) {
  try {
    return await response.json();
  } catch {
    throw new HistoryError("The server's answer was cut off.", response.status, 0);
  }
}

function fromRow(row) {
  return {
    seq: row.seq,
    id: row.messageId,
    userId: Number(row.userId),
    username: row.username,
    type: row.messageType,
    text: row.message,
    at: row.serverTimestamp,
  };
}
