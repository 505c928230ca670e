// The read state of one room: how far, how much is left, and where the new-messages line is.

export class Unread {
  /** Unread messages of others. */
  count = 0;
  /** The new-messages line follows this seq; null: no line. It stays while the person reads on, until reset. */
  markAfter = null;
  /** The last seq read; null in a room that was never visited. */
  lastRead;

  constructor(lastRead) {
    this.lastRead = lastRead;
  }

  /** The head is known for the first time. A room that was never visited has nothing unread. */
  begin(head) {
    if (this.lastRead === null || this.lastRead > head) this.lastRead = head;
    this.count = head - this.lastRead;
    this.markAfter = this.count > 0 ? this.lastRead : null;
  }

  /** Another database: read marks of the old one mean nothing. */
  forget() {
    this.lastRead = null;
    this.count = 0;
    this.markAfter = null;
  }

  /** The room grew from `before` to `head`, `own` of these messages by the reader. */
  advance(before, head, own) {
    const fresh = head - before - own;
    if (this.count === 0 && fresh > 0) this.markAfter = before;
    this.count += fresh;
  }

  /** True if that changed anything. */
  readUpTo(head) {
    if (this.count === 0 && this.lastRead === head) return false;
    this.count = 0;
    this.lastRead = head;
    return true;
  }

  /** Remove the line, unless something below it is still unread. */
  settle() {
    if (this.count === 0) this.markAfter = null;
  }
}
