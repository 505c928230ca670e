// Finds out who is here, then opens the page for them.

import { loadAccount } from "./account.js";
import { el } from "./dom.js";
import { identify } from "./identify.js";
import { Page } from "./page.js";
import { showSignIn, showSigningIn } from "./signin.js";
import { loadIdentity, storedIdentity } from "./storage.js";
import { canonicalRoom, roomOfHash } from "./text.js";
import { toast } from "./toast.js";
import { showWelcome } from "./welcome.js";

async function loadConfig() {
  const response = await fetch("config.json", { cache: "no-store" });
  if (!response.ok) throw new Error(`config.json: ${response.status}`);
  return response.json();
}

async function start() {
  let config;
  try {
    config = await loadConfig();
  } catch {
    showUnreachable();
    return;
  }
  const open = (who) => new Page(config, who).enter(who);
  if (config.auth === "jwt") await signIn(config, open);
  else await pickName(config, open);
}

/** The server takes everybody at their word. */
async function pickName({ limits }, open) {
  const identity = await loadIdentity(limits);
  // A first visit in another tab may have created an identity meanwhile: both are one person.
  const enter = (username) => open({ ...(storedIdentity() ?? identity), username });
  if (globalThis.takeArrivedToken() !== null) toast("This chat asks for no token: the one in the address was not used.");
  if (identity.username !== null) {
    enter(identity.username);
    return;
  }
  const entered = ({ username, room }) => {
    history.replaceState(null, "", `#/${room}`);
    enter(username);
  };
  showWelcome({ limits, room: roomOfHash(location.hash), enter: entered });
}

/** The server wants proof: a token that just arrived in the address, the one of the last visit, or one that is pasted. */
async function signIn({ gatewayUrl }, open) {
  const [arrived, known] = [globalThis.takeArrivedToken(), loadAccount()];
  const { account, problem } = arrived === null ? { account: known } : await showSigningIn(identify(gatewayUrl, arrived));
  if (account ?? known) {
    open(account ?? known);
    if (problem !== undefined) toast(`You are still signed in as before. ${problem}`);
    return;
  }
  const tryToken = async (token) => {
    const answer = await identify(gatewayUrl, token);
    if (answer.account !== undefined) open(answer.account);
    return answer.problem ?? null;
  };
  showSignIn({ room: canonicalRoom(roomOfHash(location.hash)), problem: problem ?? null, signIn: tryToken });
}

function showUnreachable() {
  const again = el("button", { type: "button", class: "primary" }, "Try again");
  const page = el(
    "main",
    { class: "welcome", "data-testid": "unreachable" },
    el(
      "div",
      { class: "card" },
      el("h1", {}, "The chat cannot be reached"),
      el("p", { class: "lead" }, "The page has loaded, but its server does not answer. It may be restarting."),
      again,
    ),
  );
  const retry = () => {
    page.remove();
    removeEventListener("online", retry);
    start();
  };
  again.addEventListener("click", retry);
  addEventListener("online", retry);
  document.body.append(page);
}

start();
