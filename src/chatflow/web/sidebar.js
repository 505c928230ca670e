// The joined rooms, the form to join another, and the person's name. A drawer on narrow screens.

import { byId, el, reconcile, setText } from "./dom.js";
import { icon } from "./icons.js";
import { initial, tint } from "./people.js";
import { RoomFilter } from "./roomfilter.js";
import { canonicalRoom, counted, roomNote } from "./text.js";
import { prepareTheme } from "./themes.js";
import { roomProblem } from "./welcome.js";

export class Sidebar {
  #app = byId("app");
  #sidebar = byId("sidebar");
  #list = byId("room-list");
  #input = byId("join-room");
  #problem = byId("join-problem");
  #note = byId("join-note");
  #narrow = matchMedia("(max-width: 760px)");
  #shown = new Map();
  #filter = new RoomFilter(() => this.#drawRooms());
  #rooms = [];
  #current = null;

  /** `join(room)` gets a canonical name and returns why it cannot be joined, or null; `me()` shows who somebody is. */
  constructor({ join, me }) {
    byId("join").append(icon("plus"));
    byId("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#join(join);
    });
    this.#input.addEventListener("input", () => {
      this.#complain(null);
      setText(this.#note, roomNote(this.#input.value));
      this.#filter.search(this.#input.value);
    });
    byId("me").addEventListener("click", me);
    this.#prepareDrawer();
    prepareTheme(byId("theme"));
  }

  focus() {
    this.#open(true);
    this.#input.focus();
  }

  close() {
    this.#open(false);
  }

  draw({ rooms, current, identity, isSignedIn }) {
    const moved = current !== this.#current;
    this.#rooms = rooms;
    this.#current = current;
    this.#drawRooms();
    if (moved) this.#list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    const elsewhere = rooms.some((room) => room !== current && room.unread > 0);
    byId("open-sidebar").classList.toggle("fresh", elsewhere);
    const me = byId("me");
    if (me.dataset.name === identity.username) return;
    me.dataset.name = identity.username;
    tint(me, identity.userId);
    const purpose = isSignedIn ? "Your sign-in" : "Change your name";
    me.title = purpose;
    me.setAttribute("aria-label", `You are ${identity.username}. ${purpose}`);
    me.replaceChildren(
      el("span", { class: "avatar", "aria-hidden": "true" }, initial(identity.username)),
      el("span", { class: "who", "data-testid": "my-name" }, identity.username),
    );
  }

  #drawRooms() {
    const rows = this.#filter.among(this.#rooms, this.#current).map((room) => roomRow(room, room === this.#current));
    reconcile(this.#list, rows, this.#shown);
  }

  #join(join) {
    const invalid = roomProblem(this.#input.value);
    const problem = invalid ?? join(canonicalRoom(this.#input.value));
    this.#complain(problem);
    if (invalid === null) this.#filter.search(""); // Even when there is no space: the list shows which rooms to leave.
    if (problem !== null) return;
    this.#clear();
    this.close();
  }

  #clear() {
    this.#input.value = "";
    setText(this.#note, "");
  }

  #complain(problem) {
    setText(this.#problem, problem ?? "");
    this.#input.setAttribute("aria-invalid", String(problem !== null));
  }

  #prepareDrawer() {
    byId("open-sidebar").append(icon("menu"));
    byId("close-sidebar").append(icon("close"));
    byId("open-sidebar").addEventListener("click", () => this.focusDrawer());
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    this.#list.addEventListener("click", (event) => event.target.closest("a") && this.#went());
    this.#narrow.addEventListener("change", () => this.#open(false));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.#open(false);
  }

  /** A room was picked: show the whole list again. */
  #went() {
    this.#clear();
    this.#complain(null);
    this.#filter.search("");
    this.close();
  }

  focusDrawer() {
    this.#open(true);
    byId("close-sidebar").focus();
  }

  #open(open) {
    const drawn = this.#app.classList.contains("drawer-open");
    this.#app.classList.toggle("drawer-open", open && this.#narrow.matches);
    this.#sidebar.inert = this.#narrow.matches && !open;
    byId("main").inert = this.#narrow.matches && open;
    if (drawn && !open) byId("open-sidebar").focus({ preventScroll: true });
  }
}

function roomRow({ name, unread }, current) {
  const shown = unread > 99 ? "99+" : String(unread);
  return {
    key: name,
    sign: `${unread}|${current}`,
    make: () =>
      el(
        "li",
        {},
        el(
          "a",
          { href: `#/${name}`, "data-testid": "room-link", "data-room": name, title: name },
          el("span", { class: "hash", "aria-hidden": "true" }, "#"),
          el("span", { class: "room-name" }, name),
          el("span", { class: "badge", "data-testid": "unread-count" }),
        ),
      ),
    update: (row) => {
      const link = row.firstChild;
      if (current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      link.setAttribute("aria-label", unread > 0 ? `${name}, ${counted(unread, "new message")}` : name);
      link.classList.toggle("unread", unread > 0);
      setText(link.lastChild, unread > 0 ? shown : "");
    },
  };
}
