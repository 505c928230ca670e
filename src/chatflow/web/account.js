// Who is signed in, where the server asks for tokens: `{token, userId, username, expiresAt}`, in localStorage, so that
// all tabs of the browser share one sign-in. `expiresAt` is in ms since the epoch; null: never.

import { read, remove, watch, write } from "./storage.js";

const ITEM = "account";
// A browser that forbids localStorage: this tab alone is signed in, until it closes.
let unkept = null;

/** Null if nobody is. */
export function loadAccount() {
  return known(read(ITEM, null)) ?? unkept;
}

export function saveAccount(account) {
  unkept = account;
  write(ITEM, account);
}

export function forgetAccount() {
  unkept = null;
  remove(ITEM);
}

/** `changed(account)` runs when another tab signed in, or out (null). */
export function watchAccount(changed) {
  watch(ITEM, () => {
    unkept = null;
    changed(loadAccount());
  });
}

/** The header that proves who asks; none without a token. */
export function authorization(token) {
  return token === undefined ? {} : { Authorization: `Bearer ${token}` };
}

/** Who a welcome says that the token's bearer is. */
export function accountOf(token, { userId, username, expiresAt }) {
  return { token, userId, username, expiresAt: timeOf(expiresAt) };
}

/** ms since the epoch; null for never. */
export function timeOf(text) {
  return text === undefined ? null : Date.parse(text);
}

function known(stored) {
  const fits = typeof stored?.token === "string" && Number.isSafeInteger(stored.userId) && stored.userId > 0;
  return fits && typeof stored.username === "string" ? stored : null;
}
