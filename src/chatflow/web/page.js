// Wires the page together once it is known who is here: the rooms, the address, and redraws.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { byId, setText } from "./dom.js";
import { Drafts } from "./drafts.js";
import { icon } from "./icons.js";
import { migrateDrafts } from "./migration.js";
import { noPlace, noRoom, roomsFull, wrongRoom } from "./nowhere.js";
import { Reentry } from "./reentry.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { canonicalRoom, counted, roomOfHash } from "./text.js";
import { Timeline } from "./timeline.js";
import { toast } from "./toast.js";
import { showRename } from "./welcome.js";

export class Page {
  #limits;
  #chat;
  #sidebar;
  #timeline;
  #composer;
  #drafts;
  #status;
  #reentry;
  #shown = null;
  #scheduled = false;

  /** `config` is config.json; `who`: see `Credentials`. */
  constructor(config, who) {
    document.body.prepend(byId("chat-page").content.cloneNode(true));
    this.#limits = config.limits;
    this.#chat = new Chat({
      url: config.gatewayUrl,
      who,
      changed: (room) => this.#changed(room),
      notify: (words) => toast(words),
      found: (entries) => this.#found(entries),
      misled: () => this.#reentry.misled(),
    });
    this.#reentry = new Reentry({ url: config.gatewayUrl, chat: this.#chat });
    this.#drafts = new Drafts(who.userId, (room) => this.#composer.reload(room));
    migrateDrafts(this.#drafts);
    this.#timeline = new Timeline({ me: () => this.#chat.identity, edit: (entry) => this.#edit(entry) });
    this.#composer = new Composer({
      limit: config.limits.message,
      send: (text) => this.#send(text),
      drafts: this.#drafts,
      changed: () => this.#changed(null),
    });
    this.#status = new Status({ retry: () => this.#chat.retryNow(), signIn: () => this.#reentry.ask() });
    this.#sidebar = new Sidebar({ join: (room) => this.#join(room), me: () => this.#showMe() });
    this.#prepareBar();
    addEventListener("beforeunload", (event) => this.#isSafe || event.preventDefault());
    addEventListener("hashchange", () => this.#route());
  }

  enter(who) {
    this.#chat.enter(who);
    this.#route();
  }

  /** Whether the tab can close now without losing anything. */
  get #isSafe() {
    const { writing, unkept } = this.#chat.waiting;
    return writing + unkept === 0 && this.#drafts.isKept;
  }

  // --- the address

  /** Join; why that failed, in words, or null. */
  #join(room) {
    if (!this.#chat.canOpen(room)) return `${roomsFull} Open one that you no longer need and leave it first.`;
    this.#go(room);
    return null;
  }

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
      this.#showNothing(raw === "" ? noRoom(this.#sidebar) : wrongRoom(raw, this.#sidebar));
    } else {
      if (name !== raw) history.replaceState(null, "", `#/${name}`);
      if (this.#chat.canOpen(name)) this.#showRoom(name);
      else this.#showNothing(noPlace(name, this.#sidebar));
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

  #showNothing(parts) {
    this.#chat.close();
    this.#shown = null;
    setText(byId("room-title"), "");
    this.#toggleRoomParts(false);
    byId("void").replaceChildren(...parts);
    this.#composer.show(null);
    this.#timeline.show(null);
    this.#draw();
  }

  #toggleRoomParts(inRoom) {
    for (const id of ["copy-link", "leave-room", "skip"]) byId(id).hidden = !inRoom;
  }

  // --- actions

  #send(text) {
    const room = this.#shown;
    if (this.#chat.isFull(room)) {
      toast("Too many messages are waiting to be sent. Your text stays here; send it once some of them are through.");
      return null;
    }
    const seen = this.#timeline.toLatest();
    const kept = room.send(text);
    seen.then(() => this.#timeline.request());
    return kept;
  }

  /** After a crash, a waiting message's draft may still be there, because browsers write localStorage late. */
  #found(entries) {
    for (const { room, text } of entries) {
      if (this.#drafts.load(room).trim() !== text) continue;
      this.#drafts.save(room, "");
      this.#composer.reload(room);
    }
  }

  #edit({ id, text }) {
    this.#composer.edit(text);
    this.#shown.outbox.discard(id);
  }

  /** A token says who somebody is; without one, a name can be changed. */
  #showMe() {
    if (this.#chat.token !== undefined) this.#reentry.showAccount();
    else this.#rename();
  }

  #rename() {
    const { userId, username } = this.#chat.identity;
    showRename({ limits: this.#limits, username, rename: (chosen) => this.#chat.enter({ userId, username: chosen }) });
  }

  #prepareBar() {
    byId("copy-link").append(icon("link"));
    byId("copy-link").addEventListener("click", () => copyLink());
    byId("leave-room").append(icon("leave"));
    byId("leave-room").addEventListener("click", () => this.#leave());
    byId("skip").addEventListener("click", () => this.#composer.focus());
  }

  #leave() {
    const waiting = this.#shown.outbox.entries.filter(({ state }) => state !== "acknowledged").length;
    const losses = waiting > 0 ? [`${counted(waiting, "unsent message")}`] : [];
    if (this.#composer.text !== "") losses.push("your unfinished message");
    const question = `This discards ${losses.join(" and ")}. Leave anyway?`;
    if (losses.length > 0 && !confirm(question)) return;
    this.#composer.clear();
    this.#chat.leave(this.#shown.name);
    const next = this.#chat.lastVisited;
    location.hash = next === null ? "#/" : `#/${next.name}`;
    if (next === null) this.#route();
  }

  // --- drawing

  #changed(room) {
    if (this.#shown !== null && (room === null || room === this.#shown)) this.#timeline.request();
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const { rooms, current, identity, token, state, unread } = this.#chat;
    this.#sidebar.draw({ rooms, current, identity, isSignedIn: token !== undefined });
    this.#status.draw(state, { ...this.#chat.waiting, isDraftKept: this.#drafts.isKept, endsAt: this.#chat.endsAt });
    this.#reentry.draw(state);
    const place = this.#shown === null ? "chatflow" : `#${this.#shown.name} · chatflow`;
    const title = unread > 0 ? `(${unread}) ${place}` : place;
    if (document.title !== title) document.title = title;
  }
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast("Link copied. It opens this room.");
  } catch {
    toast("This browser blocks copying. The link is in the address bar.");
  }
}
