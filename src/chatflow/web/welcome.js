// The first visit (a name and a room) and the change of a name later.

import { el, setText } from "./dom.js";
import { field } from "./field.js";
import { canonicalRoom, roomNote, suggestRoom, usernameProblem } from "./text.js";

export const ROOM_RULE = "1–64 characters: letters A–Z, digits, dot, dash and underscore.";

/** Why `raw` cannot be a room, with a suggestion; null when it can. */
export function roomProblem(raw) {
  if (raw.trim() === "") return "Which room? Any name will do; a new room begins with your first message.";
  if (canonicalRoom(raw) !== null) return null;
  const suggestion = suggestRoom(raw);
  return suggestion === null ? `Room names have ${ROOM_RULE}` : `Not a room name. How about “${suggestion}”?`;
}

function nameField(limits, value) {
  const name = field({
    label: "Your name",
    testid: "name-input",
    problemId: "name-problem",
    autocomplete: "nickname",
    maxlength: 40,
    placeholder: `${limits.usernameMin}–${limits.usernameMax} letters and digits`,
  });
  name.input.value = value ?? "";
  return name;
}

/** Show the first-visit card; `enter({username, room})` runs once, with valid values. */
export function showWelcome({ limits, room, enter }) {
  const name = nameField(limits, "");
  const where = field({
    label: "Room",
    testid: "room-input",
    problemId: "room-problem",
    autocomplete: "off",
    maxlength: 80,
  });
  where.input.value = room || "lobby";
  const note = el("p", { class: "note", role: "status", "data-testid": "room-note" }, roomNote(where.input.value));
  where.box.append(note);
  where.input.addEventListener("input", () => setText(note, roomNote(where.input.value)));
  const submit = (event) => {
    event.preventDefault();
    const [username, raw] = [name.input.value.trim(), where.input.value];
    const roomFits = where.show(roomProblem(raw));
    const nameFits = name.show(usernameProblem(username, limits));
    if (!nameFits) name.input.focus();
    else if (!roomFits) where.input.focus();
    else {
      page.remove();
      enter({ username, room: canonicalRoom(raw) });
    }
  };
  const invited = room !== "" && canonicalRoom(room) !== null;
  const page = el(
    "main",
    { class: "welcome", "data-testid": "welcome" },
    el(
      "form",
      { class: "card", novalidate: true, onsubmit: submit },
      el("img", { src: "favicon.svg", alt: "", width: 44, height: 44 }),
      el("h1", {}, invited ? `Join #${canonicalRoom(room)}` : "Come in and talk"),
      el(
        "p",
        { class: "lead" },
        invited
          ? "Somebody shared this room with you. Pick a name and you are in: no account, no password."
          : "Pick a name and a room: no account, no password. Share the room’s link to bring others in.",
      ),
      name.box,
      where.box,
      el("button", { type: "submit", class: "primary", "data-testid": "join-button" }, "Start chatting"),
      el("p", { class: "fine" }, "Once a message shows ✓ it is safe: never lost, never doubled, never out of order."),
    ),
  );
  document.body.append(page);
  name.input.focus();
}

/** Ask for another name; `rename(username)` runs only with a valid, different one. */
export function showRename({ limits, username, rename }) {
  const name = nameField(limits, username);
  const submit = (event) => {
    event.preventDefault();
    const chosen = name.input.value.trim();
    if (!name.show(usernameProblem(chosen, limits))) return;
    dialog.close();
    if (chosen !== username) rename(chosen);
  };
  const dialog = el(
    "dialog",
    {
      class: "card",
      "aria-labelledby": "rename-title",
      "data-testid": "rename-dialog",
      onclose: () => dialog.remove(),
    },
    el(
      "form",
      { novalidate: true, onsubmit: submit },
      el("h2", { id: "rename-title" }, "Change your name"),
      el("p", { class: "lead" }, "New messages carry the new name; older ones keep the old one."),
      name.box,
      el(
        "div",
        { class: "actions" },
        el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
        el("button", { type: "submit", class: "primary", "data-testid": "rename-save" }, "Save"),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  name.input.select();
}
