// Keeps somebody signed in: asks for a new token when the present one has ended or is about to, and follows what other
// tabs of the browser do.

import { forgetAccount, saveAccount, watchAccount } from "./account.js";
import { identify } from "./identify.js";
import { askAgain, showAccount } from "./signin.js";
import { toast } from "./toast.js";

export class Reentry {
  #url;
  #chat;
  #close = null;
  #wasOut = false;

  constructor({ url, chat }) {
    this.#url = url;
    this.#chat = chat;
    if (chat.token === undefined) return;
    watchAccount((account) => this.#changedElsewhere(account));
    addEventListener("hashchange", () => this.#arrived());
  }

  /** Ask at once when the sign-in has ended. */
  draw({ kind, reason }) {
    const isOut = kind === "signedOut";
    if (isOut && !this.#wasOut) this.ask(reason);
    this.#wasOut = isOut;
  }

  /** Ask for a new token. */
  ask(reason = "") {
    if (this.#close !== null) return;
    const title = this.#chat.state.kind === "signedOut" ? "Sign in again" : "Stay signed in";
    const lead = `${reason} Paste a new access token to go on. What you have not sent yet is kept.`.trim();
    const closed = () => (this.#close = null);
    this.#close = askAgain({ title, lead, signIn: (token) => this.#signIn(token), closed });
  }

  showAccount() {
    const { identity, expiresAt, waiting } = this.#chat;
    showAccount({
      username: identity.username,
      expiresAt,
      waiting: waiting.count,
      renew: () => this.ask(),
      signOut: () => this.#signOut(),
    });
  }

  /** The server says that the token is somebody else's. */
  async misled() {
    const { account } = await identify(this.#url, this.#chat.token);
    if (account !== undefined) this.#becomeSomebodyElse(account);
  }

  /** Null, or why not in words. */
  async #signIn(token) {
    if (this.#chat.state.kind === "connected") return this.#chat.renew(token);
    const { account, problem } = await identify(this.#url, token);
    if (account === undefined) return problem;
    if (account.userId === this.#chat.identity.userId) this.#chat.enter(account);
    else this.#becomeSomebodyElse(account);
    return null;
  }

  /** Unsent messages and drafts stay stored under the name of who wrote them. */
  #becomeSomebodyElse(account) {
    saveAccount(account);
    location.reload();
  }

  #signOut() {
    forgetAccount();
    location.reload();
  }

  async #arrived() {
    const token = globalThis.takeArrivedToken();
    if (token === null) return;
    const problem = await this.#signIn(token);
    if (problem === null) this.#close?.();
    toast(problem ?? "You are signed in with the token from the address.");
  }

  async #changedElsewhere(account) {
    const { identity, token } = this.#chat;
    if (account === null || account.userId !== identity.userId) {
      location.reload();
      return;
    }
    if (account.token === token) return;
    if (this.#chat.state.kind !== "connected") this.#chat.enter(account);
    else if ((await this.#chat.renew(account.token)) !== null) return;
    this.#close?.();
  }
}
