// What of one room has been read: up to where, how much is left, and where the line of the new messages stands.

export class Unread {
  /** Messages of others that nobody has read yet. */
  count = 0;
  /** The line stands after this seq; null: there is none. It stays while one reads on, until reset. */
  markAfter = null;
  /** The last seq read; null in a room that was never visited. */
  lastRead;

  constructor(lastRead) {
    this.lastRead = lastRead;
  }

  /** The head is known for the first time. A room never visited has nothing unread. */
  begin(head) {
    if (this.lastRead === null || this.lastRead > head) this.lastRead = head;
    this.count = head - this.lastRead;
    this.markAfter = this.count > 0 ? this.lastRead : null;
  }

  /** Another database: what was read in the old one says nothing. */
  forget() {
    this.lastRead = null;
    this.count = 0;
    this.markAfter = null;
  }

  /** The room went on from `before` to `head`, `own` of it by the reader's own hand. */
  advance(before, head, own) {
    const fresh = head - before - own;
    if (this.count === 0 && fresh > 0) this.markAfter = before;
    this.count += fresh;
  }

  /** True when that changed anything. */
  readUpTo(head) {
    if (this.count === 0 && this.lastRead === head) return false;
    this.count = 0;
    this.lastRead = head;
    return true;
  }

  /** Take the line away, unless something is still unread below it. */
  settle() {
    if (this.count === 0) this.markAfter = null;
  }
}
