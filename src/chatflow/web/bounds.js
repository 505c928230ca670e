// Every limit of the page's memory and patience, in one place.

/** Rooms in the sidebar, all joined on the one connection: as many as a gateway allows. */
export const MAX_ROOMS = 500;
/** Joins per frame: with the longest names and numbers, 11 KB of a frame's 16 KiB. */
export const JOINS_PER_FRAME = 50;
/** Milliseconds until unanswered joins are repeated. */
export const JOIN_TIMEOUT_MS = 15_000;
/** Rooms off screen that keep messages in memory; the others only count unread ones. */
export const MAX_LOADED_ROOMS = 20;
/** Messages kept and rendered per room; beyond that, the far end is dropped and can be paged back in. */
export const WINDOW = 1000;
/** Messages kept of a room that is not on screen. */
export const HIDDEN_WINDOW = 200;
/** Messages per page of history. */
export const PAGE = 50;
/** The most rows that the server returns in one page. */
export const MAX_PAGE = 1000;
/** Cursors remembered per room. */
export const MAX_CURSORS = 400;
/** Messages that may wait to be sent, per room and over all rooms. */
export const MAX_OUTBOX = 200;
export const MAX_OUTBOX_TOTAL = 2_000;
/** Own messages per room that are remembered as shown, so that a late word from another tab does not bring them back. */
export const MAX_SETTLED = 200;
/** Milliseconds after which a silent storage counts as failed. */
export const STORAGE_PATIENCE_MS = 2_000;
/** Milliseconds between the sending tab's checks for what closed tabs left in the storage. */
export const SYNC_MS = 60_000;
/** Milliseconds that the sending tab may take to answer another one whose messages wait for it. */
export const SENDER_PATIENCE_MS = 5_000;
/** Milliseconds until an unanswered send is repeated with the same id. */
export const ACK_TIMEOUT_MS = 15_000;
/** Milliseconds until a connection without a welcome is given up. */
export const WELCOME_TIMEOUT_MS = 10_000;
/** Milliseconds that the server may take to look at a newer token. */
export const RENEWAL_TIMEOUT_MS = 10_000;
/** Milliseconds before the end of a sign-in from which the page tells of it; at most a fifth of what is left at first. */
export const EXPIRY_NOTICE_MS = 300_000;
/** Milliseconds of silence after which a connection is probed. */
export const IDLE_MS = 30_000;
/** Milliseconds that a probe may take. */
export const PROBE_TIMEOUT_MS = 5_000;
/** First and longest delay of the reconnect backoff, in milliseconds. */
export const BACKOFF_FIRST_MS = 500;
export const BACKOFF_LAST_MS = 30_000;

/** Exponential backoff with jitter: between half and all of the step, so that a crowd does not reconnect at once. */
export function backoffMs(attempt, random = Math.random) {
  const step = Math.min(BACKOFF_LAST_MS, BACKOFF_FIRST_MS * 2 ** attempt);
  return step * (0.5 + random() / 2);
}
