// The page's IndexedDB. A write counts once its transaction is complete: on disk, where the browser can promise that.
//
//   outbox    `{place, userId, id, room, text, at, state, reason, final}`; `place` is the database's own counter, so all
//             tabs share one order, whatever the clock does
//   identity  the person who wrote them

const NAME = "chatflow";
const VERSION = 1;

let opening = null;

function connect() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    let refused = false;
    request.onupgradeneeded = () => {
      const outbox = request.result.createObjectStore("outbox", { keyPath: "place", autoIncrement: true });
      outbox.createIndex("user", "userId");
      outbox.createIndex("message", ["userId", "id"], { unique: true });
      request.result.createObjectStore("identity");
    };
    request.onblocked = () => {
      refused = true;
      reject(new DOMException("another tab holds an older version open", "BlockedError"));
    };
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const database = request.result;
      if (refused) database.close();
      database.onversionchange = () => forget(database); // A newer page wants to upgrade: never block it.
      database.onclose = () => forget(database);
      resolve(database);
    };
  });
}

function forget(database) {
  database.close();
  opening = null;
}

async function opened() {
  opening ??= connect();
  try {
    return await opening;
  } catch (error) {
    opening = null;
    throw error;
  }
}

/**
 * Run `work(stores)` in one transaction; `stores` holds the object stores by name. `work` returns a function that
 * yields the result once the transaction is complete. `blind` means that no request of `work` leads to another: the
 * transaction is then committed at once, and completes even if the tab closes now.
 */
async function transact(mode, names, work, { blind = false } = {}) {
  const database = await opened();
  const transaction = begin(database, mode, names);
  return new Promise((resolve, reject) => {
    let result;
    transaction.oncomplete = () => resolve(result?.());
    transaction.onabort = () => reject(transaction.error ?? new DOMException("aborted", "AbortError"));
    try {
      result = work(Object.fromEntries(names.map((name) => [name, transaction.objectStore(name)])));
      if (blind) transaction.commit?.();
    } catch (error) {
      reject(error);
      transaction.abort(); // All or nothing.
    }
  });
}

function begin(database, mode, names) {
  try {
    return database.transaction(names, mode, { durability: "strict" });
  } catch (error) {
    if (error.name === "InvalidStateError") opening = null; // The browser closed it: the next call opens it again.
    throw error;
  }
}

export function readAll(store, index, key) {
  return transact("readonly", [store], (stores) => {
    const request = stores[store].index(index).getAll(key);
    return () => request.result;
  });
}

export function readOne(store, key) {
  return transact("readonly", [store], (stores) => {
    const request = stores[store].get(key);
    return () => request.result;
  });
}

export function write(names, work, options) {
  return transact("readwrite", names, work, options);
}

/** Why the last attempt failed, for people. */
export function reasonOf(error) {
  if (error?.name === "QuotaExceededError") return "The disk, or this site's share of it, is full.";
  if (error?.name === "BlockedError") return "Another tab of this page is from an older version: close it.";
  if (error?.name === "VersionError") return "A newer version of this page is open: reload this one.";
  if (error?.name === "TimeoutError") return "This browser's storage does not answer.";
  return "This browser does not let the page store anything.";
}
