// Puts the page together: settings, identity, the address, and who redraws when.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, el, setText } from "./dom.js";
import { icon } from "./icons.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { loadIdentity } from "./storage.js";
import { canonicalRoom, counted, roomOfHash, suggestRoom } from "./text.js";
import { Timeline } from "./timeline.js";
import { ROOM_RULE, showRename, showWelcome } from "./welcome.js";

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
  const identity = loadIdentity(config.limits);
  const enter = (username) => new Page(config, identity).enter(username);
  if (identity.username !== null) {
    enter(identity.username);
    return;
  }
  const entered = ({ username, room }) => {
    history.replaceState(null, "", `#/${room}`);
    enter(username);
  };
  showWelcome({ limits: config.limits, room: roomOfHash(location.hash), enter: entered });
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
      el("p", { class: "lead" }, "The page is here, but its server does not answer. It may be restarting."),
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

class Page {
  #limits;
  #chat;
  #sidebar;
  #timeline;
  #composer;
  #status;
  #shown = null;
  #scheduled = false;

  constructor(config, identity) {
    document.body.prepend(byId("chat-page").content.cloneNode(true));
    this.#limits = config.limits;
    this.#chat = new Chat({
      url: config.gatewayUrl,
      identity,
      changed: (room) => this.#changed(room),
      notify: (words) => toast(words),
    });
    this.#timeline = new Timeline({ me: () => this.#chat.identity });
    this.#composer = new Composer({ limit: config.limits.message, send: (text) => this.#send(text) });
    this.#status = new Status({ retry: () => this.#chat.retryNow() });
    this.#sidebar = new Sidebar({ join: (room) => this.#go(room), rename: () => this.#rename() });
    this.#prepareBar();
    addEventListener("hashchange", () => this.#route());
  }

  enter(username) {
    this.#chat.enter(username);
    this.#route();
  }

  // --- the address

  #go(room) {
    if (location.hash === `#/${room}`) this.#composer.focus();
    else location.hash = `#/${room}`;
  }

  #route() {
    const raw = roomOfHash(location.hash);
    const name = canonicalRoom(raw);
    if (raw === "" && this.#chat.lastVisited !== null) {
      history.replaceState(null, "", `#/${this.#chat.lastVisited.name}`);
      this.#route();
    } else if (name === null) {
      this.#showNothing(raw);
    } else {
      if (name !== raw) history.replaceState(null, "", `#/${name}`);
      this.#showRoom(name);
    }
  }

  #showRoom(name) {
    this.#chat.open(name);
    this.#shown = this.#chat.current;
    setText(byId("room-title"), name);
    this.#toggleRoomParts(true);
    this.#composer.show(this.#shown);
    this.#timeline.show(this.#shown);
    if (matchMedia("(hover: hover)").matches) this.#composer.focus(); // Not on touch: it would raise the keyboard.
    this.#draw();
  }

  #showNothing(raw) {
    this.#chat.close();
    this.#shown = null;
    setText(byId("room-title"), "");
    this.#toggleRoomParts(false);
    byId("void").replaceChildren(...(raw === "" ? noRoom(this.#sidebar) : wrongRoom(raw, this.#sidebar)));
    this.#composer.show(null);
    this.#timeline.show(null);
    this.#draw();
  }

  #toggleRoomParts(inRoom) {
    for (const id of ["copy-link", "leave-room", "skip"]) byId(id).hidden = !inRoom;
  }

  // --- what the person does

  #send(text) {
    const room = this.#shown;
    if (room.outbox.isFull) {
      toast("Too many messages are waiting to be sent. Please wait until the connection is back.");
      return false;
    }
    const seen = this.#timeline.toLatest();
    room.send(text);
    seen.then(() => this.#timeline.request());
    return true;
  }

  #rename() {
    const { username } = this.#chat.identity;
    showRename({ limits: this.#limits, username, rename: (chosen) => this.#chat.enter(chosen) });
  }

  #prepareBar() {
    byId("copy-link").append(icon("link"));
    byId("copy-link").addEventListener("click", () => copyLink());
    byId("leave-room").append(icon("leave"));
    byId("leave-room").addEventListener("click", () => this.#leave());
    byId("skip").addEventListener("click", () => this.#composer.focus());
  }

  #leave() {
    const waiting = this.#shown.outbox.entries.filter(({ state }) => state === "pending").length;
    const question = `${counted(waiting, "message")} of yours would be dropped unsent. Leave all the same?`;
    if (waiting > 0 && !confirm(question)) return;
    this.#chat.leave(this.#shown.name);
    const next = this.#chat.lastVisited;
    location.hash = next === null ? "#/" : `#/${next.name}`;
    if (next === null) this.#route();
  }

  // --- drawing

  #changed(room) {
    if (room !== null && room === this.#shown) this.#timeline.request();
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const { rooms, current, identity, state, unread } = this.#chat;
    this.#sidebar.draw({ rooms, current, identity });
    this.#status.draw(state);
    const place = this.#shown === null ? "chatflow" : `#${this.#shown.name} · chatflow`;
    const title = unread > 0 ? `(${unread}) ${place}` : place;
    if (document.title !== title) document.title = title;
  }
}

function noRoom(sidebar) {
  return [
    el("h2", {}, "Pick a room"),
    el("p", {}, "Join one by its name. A room that does not exist yet begins with your first message."),
    el("button", { type: "button", class: "primary", onclick: () => sidebar.focus() }, "Join a room"),
  ];
}

function wrongRoom(raw, sidebar) {
  const suggestion = suggestRoom(raw);
  const shown = raw.length > 80 ? `${raw.slice(0, 80)}…` : raw;
  return [
    el("h2", {}, "That is not a room"),
    el("p", {}, `“${shown}” cannot be a room’s name. Names have ${ROOM_RULE}`),
    suggestion === null
      ? el("button", { type: "button", class: "primary", onclick: () => sidebar.focus() }, "Join another room")
      : el("a", { class: "primary", href: `#/${suggestion}`, "data-testid": "suggested-room" }, `Go to #${suggestion}`),
  ];
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast("Link copied. Whoever opens it lands in this room.");
  } catch {
    toast("This browser does not let the page copy. The address bar has the link.");
  }
}

let toastTimer = null;

function toast(words) {
  const box = byId("toast");
  setText(box, words);
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.hidden = true), 5000);
}

start();
