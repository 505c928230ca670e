// Runs before anything else: takes a token out of the address (`#token=…`, or `#token=…&room=lobby`), so that it stays
// neither on the screen nor in the history, and no link that is copied holds it. A classic script, not a module.
(() => {
  let token = null;
  const look = () => {
    if (!location.hash.startsWith("#token=")) return;
    const fields = new URLSearchParams(location.hash.slice(1));
    token = fields.get("token");
    const room = fields.get("room");
    const place = room === null ? location.pathname + location.search : `#/${encodeURIComponent(room)}`;
    history.replaceState(null, "", place);
  };
  look();
  addEventListener("hashchange", look);
  /** The token that came, once; null if none did. */
  globalThis.takeArrivedToken = () => {
    const taken = token;
    token = null;
    return taken;
  };
})();
