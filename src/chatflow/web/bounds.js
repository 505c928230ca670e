// Every limit of the page's memory and patience, in one place.

/** Rooms in the sidebar, all joined on the one connection. */
export const MAX_ROOMS = 20;
/** Messages kept and rendered per room; beyond it the far end is dropped and can be paged back. */
export const WINDOW = 1000;
/** Messages kept of a room that is not on screen. */
export const HIDDEN_WINDOW = 200;
/** Messages per page of history. */
export const PAGE = 50;
/** Most rows the server gives in one page. */
export const MAX_PAGE = 1000;
/** Cursors remembered per room. */
export const MAX_CURSORS = 400;
/** Messages that may wait to be sent, per room. */
export const MAX_OUTBOX = 200;
/** Milliseconds until a silent send is tried again with the same id. */
export const ACK_TIMEOUT_MS = 15_000;
/** Tries over a working connection before a message is marked as failed. */
export const MAX_TRIES = 8;
/** Milliseconds until a connection that never said welcome is given up. */
export const WELCOME_TIMEOUT_MS = 10_000;
/** Milliseconds of silence after which a connection is probed. */
export const IDLE_MS = 30_000;
/** Milliseconds that a probe of a doubtful connection may take. */
export const PROBE_TIMEOUT_MS = 5_000;
/** First and longest delay of the reconnect backoff, in milliseconds. */
export const BACKOFF_FIRST_MS = 500;
export const BACKOFF_LAST_MS = 30_000;

/** Exponential backoff with jitter: between half and all of the step, so that a crowd does not return at once. */
export function backoffMs(attempt, random = Math.random) {
  const step = Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** attempt);
  return step * (0.5 + random() / 2);
}
