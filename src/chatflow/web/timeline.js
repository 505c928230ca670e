// The room on screen. Whatever is added or dropped above or below, the text being read stays in place, unless the reader
// is at the bottom and follows.

import { byId, el, reconcile, setText } from "./dom.js";
import { icon } from "./icons.js";
import { rowsOf } from "./rows.js";
import { counted } from "./text.js";

/** Pixels from the end that still count as the bottom. */
const BOTTOM_PX = 48;
/** Pixels from an end at which the next page is requested. */
const NEAR_PX = 700;

export class Timeline {
  #scroller = byId("scroller");
  #messages = byId("messages");
  #top = byId("timeline-top");
  #jump = byId("jump");
  #void = byId("void");
  #shown = new Map();
  #room = null;
  #me;
  #edit;
  #placed = false;
  #scheduled = false;
  #pinned = true;

  /** `me()` gives the present identity; `edit(entry)` takes a message back into the composer. */
  constructor({ me, edit }) {
    this.#me = me;
    this.#edit = edit;
    this.#jump.append(icon("down"), el("span"));
    this.#jump.addEventListener("click", () => this.toLatest());
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const sizes = new ResizeObserver(() => this.#resized());
    sizes.observe(this.#scroller);
    sizes.observe(this.#messages);
    document.addEventListener("visibilitychange", () => this.#turned());
  }

  /** Show a room, or nothing. */
  show(room) {
    this.#room = room;
    this.#placed = false;
    this.#pinned = true;
    this.#shown.clear();
    this.#messages.replaceChildren();
    delete this.#top.dataset.kind;
    this.#scroller.setAttribute("aria-label", room === null ? "Messages" : `Messages in ${room.name}`);
    this.draw();
  }

  /** Redraw before the next frame; many calls cost one redraw. */
  request() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const run = () => this.#scheduled && this.draw();
    requestAnimationFrame(run);
    setTimeout(run, 250); // A hidden tab gets no animation frames, but must keep its unread count right.
  }

  async toLatest() {
    const room = this.#room;
    if (room === null) return;
    this.#pinned = true;
    await room.toLatest();
    if (this.#room !== room) return;
    this.#pinned = true;
    this.draw();
  }

  draw() {
    this.#scheduled = false;
    const room = this.#room;
    this.#drawVoid(room);
    if (room === null) return;
    this.#pinned &&= room.follow;
    const anchor = this.#pinned ? null : this.#anchor();
    const act = {
      retry: (id) => room.outbox.retry(id),
      discard: (id) => room.outbox.discard(id),
      edit: (entry) => this.#edit(entry),
    };
    this.#scroller.setAttribute("aria-busy", String(room.loading || !room.loaded));
    this.#drawTop(room);
    reconcile(this.#messages, rowsOf(room, this.#me(), act), this.#shown);
    this.#scroll(anchor);
    this.#report();
    this.#page();
  }

  // --- place

  #scroll(anchor) {
    if (!this.#placed && this.#room.loaded) {
      this.#placed = true;
      this.#revealUnread();
    } else if (this.#pinned && !document.hidden) {
      this.#toBottom();
    } else if (anchor !== null && anchor.element.isConnected) {
      this.#scroller.scrollTop += anchor.element.getBoundingClientRect().top - anchor.top;
    }
  }

  /** The first visible message and its position. */
  #anchor() {
    const edge = this.#scroller.getBoundingClientRect().top;
    let low = 0;
    let high = this.#messages.children.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#messages.children[middle].getBoundingClientRect().bottom > edge) high = middle;
      else low = middle + 1;
    }
    // Anchor on a message: a day separator may vanish when a page above brings that day's earlier messages.
    let element = this.#messages.children[low];
    while (element !== undefined && element !== null && element.dataset.id === undefined) {
      element = element.nextElementSibling;
    }
    return element ? { element, top: element.getBoundingClientRect().top } : null;
  }

  #toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  /** Show the end, but never past the first unread message. */
  #revealUnread() {
    this.#toBottom();
    const mark = this.#messages.querySelector(".unread-line");
    if (mark !== null) {
      const above = mark.getBoundingClientRect().top - this.#scroller.getBoundingClientRect().top - 24;
      if (above < 0) this.#scroller.scrollTop += above;
    }
    this.#pinned = this.#atBottom();
  }

  /** At the end of the room, not only of its loaded part. */
  #atBottom() {
    if (!this.#room.follow) return false;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - clientHeight - scrollTop <= BOTTOM_PX;
  }

  #scrolled() {
    if (this.#room === null || document.hidden) return;
    this.#pinned = this.#atBottom();
    this.#report();
    this.#page();
  }

  #resized() {
    if (this.#room !== null && this.#pinned && this.#placed && !document.hidden) this.#toBottom();
  }

  /** The tab was hidden or shown. */
  #turned() {
    if (this.#room === null) return;
    if (!document.hidden && this.#pinned) this.#placed = false; // Scroll again: to the first unread message.
    this.draw();
  }

  // --- read state

  /** Tell the room whether somebody is reading its end. */
  #report() {
    const room = this.#room;
    room.pinned = this.#pinned;
    room.setReading(this.#placed && this.#pinned && !document.hidden);
    this.#drawJump(room);
  }

  #page() {
    const room = this.#room;
    if (room.loading || room.problem !== null || !this.#placed) return;
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    if (room.hasOlder && scrollTop < NEAR_PX) room.older();
    else if (!room.follow && scrollHeight - clientHeight - scrollTop < NEAR_PX) room.newer();
  }

  // --- parts

  #drawJump(room) {
    const away = room.loaded && (!this.#pinned || !room.follow) && this.#messages.childElementCount > 0;
    this.#jump.hidden = !away;
    if (away) setText(this.#jump.lastChild, room.unread > 0 ? counted(room.unread, "new message") : "Jump to latest");
    this.#jump.classList.toggle("fresh", room.unread > 0);
  }

  #drawTop(room) {
    const kind = topKind(room);
    if (kind === "problem") this.#offerRetry(room);
    else if (this.#top.dataset.kind !== kind) this.#top.replaceChildren(...topParts(kind, room));
    this.#top.dataset.kind = kind;
  }

  #offerRetry(room) {
    const words = `Older messages cannot be loaded right now. ${room.problem} Retrying automatically.`;
    if (this.#top.dataset.kind === "problem" && this.#top.firstChild.textContent === words) return;
    const again = el("button", { type: "button", class: "quiet", onclick: () => room.retry() }, "Retry now");
    this.#top.replaceChildren(el("p", {}, words), again);
  }

  #drawVoid(room) {
    this.#scroller.hidden = room === null;
    this.#void.hidden = room !== null;
    if (room === null) this.#jump.hidden = true;
  }
}

function topKind(room) {
  if (room.refusal !== null) return "refused";
  if (room.problem !== null) return "problem";
  if (room.loading || !room.loaded) return "loading";
  if (room.hasOlder) return "more";
  return room.items.length + room.outbox.entries.length === 0 ? "empty" : "start";
}

function topParts(kind, room) {
  if (kind === "refused") return [el("h2", {}, "The server refuses to let you in"), el("p", {}, room.refusal)];
  if (kind === "loading") return [el("span", { class: "spinner", "aria-label": "Loading messages", role: "img" })];
  if (kind === "start") return [el("p", {}, `This is where #${room.name} begins.`)];
  if (kind === "empty") {
    return [
      el("h2", {}, `#${room.name} is quiet`),
      el("p", {}, "Nobody has written here yet. Say hello, or send somebody the room’s link."),
    ];
  }
  return [];
}
