// Signing in with a token: the first card, the dialog that asks for a new one, and the one that tells who is signed in.

import { clockTime, dayName, sameDay } from "./dates.js";
import { el } from "./dom.js";
import { field } from "./field.js";
import { counted, tokenOf } from "./text.js";

const HINT = "You get it from whoever runs this chat, or from the service that sent you here.";

/**
 * Show the card, which also takes a token that comes in the address later; `signIn(token)` settles with null when the person is in, else with why not. `room` may be null, and
 * `problem` says why a token that was tried already was refused.
 */
export function showSignIn({ room, problem, signIn }) {
  const form = tokenForm({
    submit: "Sign in",
    signIn: async (token) => {
      const words = await signIn(token);
      if (words === null) page.remove();
      return words;
    },
  });
  const page = el(
    "main",
    { class: "welcome", "data-testid": "sign-in-page" },
    el(
      "div",
      { class: "card" },
      el("img", { src: "favicon.svg", alt: "", width: 44, height: 44 }),
      el("h1", {}, room === null ? "Sign in" : `Sign in to join #${room}`),
      el("p", { class: "lead" }, `This chat asks who you are. Paste your access token. ${HINT}`),
      form.element,
      el("p", { class: "fine" }, "The token stays in this browser until it expires or you sign out."),
    ),
  );
  document.body.append(page);
  form.show(problem);
  form.focus();
  addEventListener("hashchange", () => page.isConnected && form.submit(globalThis.takeArrivedToken()));
}

/** Tell that a token is being looked at, until the promise settles; what it settles with. */
export async function showSigningIn(answer) {
  const page = el(
    "main",
    { class: "welcome" },
    el("div", { class: "card" }, el("h1", { role: "status" }, "Signing in…")),
  );
  document.body.append(page);
  await answer;
  page.remove();
  return answer;
}

/** Ask for another token. Returns a function that closes the dialog; `closed()` runs when it was closed. */
export function askAgain({ title, lead, signIn, closed }) {
  const form = tokenForm({
    submit: "Sign in",
    cancel: ["Later", () => dialog.close()],
    signIn: async (token) => {
      const words = await signIn(token);
      if (words === null) dialog.close();
      return words;
    },
  });
  const dialog = openDialog("sign-in-dialog", title, el("p", { class: "lead" }, lead), form.element);
  dialog.addEventListener("close", closed);
  form.focus();
  return () => dialog.close();
}

/** Who is signed in, until when, and what to do about it. */
export function showAccount({ username, expiresAt, waiting, renew, signOut }) {
  const button = (testid, words, onclick, kind = "quiet") =>
    el("button", { type: "button", class: kind, "data-testid": testid, onclick }, words);
  const kept = `${counted(waiting, "unsent message")} of yours will stay in this browser until you sign in again.`;
  const dialog = openDialog(
    "account-dialog",
    `You are ${username}`,
    el("p", { class: "lead" }, expiresAt === null ? "Your sign-in does not expire." : `Signed in until ${timeOf(expiresAt)}.`),
    ...(waiting > 0 ? [el("p", { class: "note" }, kept)] : []),
    el(
      "div",
      { class: "actions" },
      button("sign-out", "Sign out", () => leaveTo(signOut)),
      button("new-token", "New token", () => leaveTo(renew)),
      button("account-close", "Close", () => dialog.close(), "primary"),
    ),
  );
  const leaveTo = (next) => {
    dialog.close();
    next();
  };
}

function timeOf(expiresAt) {
  const date = new Date(expiresAt);
  return sameDay(date, new Date()) ? clockTime(date) : `${clockTime(date)}, ${dayName(date)}`;
}

function openDialog(testid, title, ...parts) {
  const heading = `${testid}-title`;
  const dialog = el(
    "dialog",
    { class: "card", "aria-labelledby": heading, "data-testid": testid, onclose: () => dialog.remove() },
    el("div", { class: "parts" }, el("h2", { id: heading }, title), ...parts),
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** One field and its buttons; `{element, focus(), show(words), submit(token)}`. */
function tokenForm({ submit, cancel, signIn }) {
  // A password field: browsers neither spell-check what is in it, nor offer it again, nor show it to bystanders.
  const token = field({
    label: "Access token",
    testid: "token-input",
    problemId: "token-problem",
    type: "password",
    autocomplete: "off",
    enterkeyhint: "go",
  });
  const button = el("button", { type: "submit", class: "primary", "data-testid": "sign-in-button" }, submit);
  const trySignIn = async (event) => {
    event.preventDefault();
    const text = tokenOf(token.input.value);
    if (text === "") token.show("Paste the token here first.");
    else {
      button.disabled = true;
      token.show(await signIn(text));
      button.disabled = false;
    }
    token.input.focus();
  };
  const quiet = cancel && el("button", { type: "button", class: "quiet", onclick: cancel[1] }, cancel[0]);
  const actions = quiet ? el("div", { class: "actions" }, quiet, button) : button;
  const element = el("form", { novalidate: true, onsubmit: trySignIn }, token.box, actions);
  const send = (text) => {
    if (text === null) return;
    token.input.value = text;
    element.requestSubmit();
  };
  return { element, focus: () => token.input.focus(), show: token.show, submit: send };
}
