// What the page shows instead of a room: none is picked, the name is invalid, or there is no space for another.

import { MAX_ROOMS } from "./bounds.js";
import { el } from "./dom.js";
import { icon } from "./icons.js";
import { suggestRoom } from "./text.js";
import { ROOM_RULE } from "./welcome.js";

export const roomsFull = `You are in ${MAX_ROOMS} rooms, which is the limit.`;

export function noRoom(sidebar) {
  return [
    el("h2", {}, "Pick a room"),
    el("p", {}, "Join one by name. A new room begins with your first message."),
    el("button", { type: "button", class: "primary", onclick: () => sidebar.focus() }, "Join a room"),
  ];
}

export function noPlace(name, sidebar) {
  return [
    el("h2", {}, "No space for another room"),
    el(
      "p",
      {},
      `${roomsFull} To join #${name}, open a room that you no longer need, leave it with `,
      leaveGlyph(),
      " at the top right, and come back here.",
    ),
    el("button", { type: "button", class: "primary only-narrow", onclick: () => sidebar.focusDrawer() }, "Show my rooms"),
  ];
}

function leaveGlyph() {
  return el("span", { class: "in-text", role: "img", "aria-label": "the button “Leave this room”" }, icon("leave"));
}

export function wrongRoom(raw, sidebar) {
  const suggestion = suggestRoom(raw);
  const shown = raw.length > 80 ? `${raw.slice(0, 80)}…` : raw;
  return [
    el("h2", {}, "That is not a room"),
    el("p", {}, `“${shown}” cannot be a room name. Names have ${ROOM_RULE}`),
    suggestion === null
      ? el("button", { type: "button", class: "primary", onclick: () => sidebar.focus() }, "Join another room")
      : el("a", { class: "primary", href: `#/${suggestion}`, "data-testid": "suggested-room" }, `Go to #${suggestion}`),
  ];
}
