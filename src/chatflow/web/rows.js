// From a room's window to the rows of its timeline: pure of layout, so that a redraw is a comparison of keys and signs.

import { clockTime, dayName, fullTime, sameDay } from "./dates.js";
import { el, setText } from "./dom.js";
import { icon } from "./icons.js";
import { initial, tint } from "./people.js";

/** Messages of one person this close together share one heading. */
const GROUP_MS = 5 * 60_000;

const STATES = {
  writing: [null, "Saving…"],
  sending: [null, "Sending…"],
  waiting: ["clock", "Waits here until it is sent"],
  unkept: ["clock", "Waits in this tab: keep it open"],
  acknowledged: ["check", "Safe on the server"],
  stored: ["checks", "Stored in the room"],
};

/**
 * The rows of a room: day separators, the new-messages line, messages in order of seq, then unsent ones.
 *
 * `me` is `{userId, username}`; `act` has `retry(id)`, `discard(id)` and `edit(entry)`.
 */
export function rowsOf(room, me, act) {
  const rows = [];
  let previous = null;
  for (const item of room.items) {
    previous = place(rows, room, previous, { ...item, state: "stored", progress: "stored", own: item.userId === me.userId }, act);
  }
  if (!room.follow) return rows; // Unsent messages belong below messages that are not in the window.
  for (const entry of room.outbox.entries) {
    const progress = entry.state === "pending" ? progressOf(entry, room.joined) : entry.state;
    const message = { ...entry, ...me, seq: null, type: "TEXT", own: true, progress };
    previous = place(rows, room, previous, message, act);
  }
  return rows;
}

function progressOf({ kept }, joined) {
  if (kept === null) return "writing";
  if (joined) return "sending";
  return kept ? "waiting" : "unkept";
}

function place(rows, room, previous, message, act) {
  const date = new Date(message.at);
  const newDay = previous === null || !sameDay(previous.date, date);
  const unread = startsUnread(room, previous, message);
  if (newDay) rows.push(dayRow(message.id, date));
  if (unread) rows.push(unreadRow(message.id));
  const system = message.type !== "TEXT";
  const first =
    newDay || unread || system || previous.system || previous.userId !== message.userId ||
    previous.username !== message.username || date - previous.date > GROUP_MS;
  const current = { ...message, date, first, system };
  rows.push(system ? systemRow(current) : messageRow(current, act));
  return current;
}

function startsUnread({ markAfter }, previous, { seq }) {
  if (markAfter === null || seq === null || seq <= markAfter) return false;
  return previous === null ? seq === markAfter + 1 : previous.seq <= markAfter;
}

function dayRow(id, date) {
  const name = dayName(date);
  return {
    key: `day ${id}`,
    sign: name,
    make: () => el("div", { class: "day", role: "separator" }, el("span")),
    update: (row) => setText(row.firstChild, name),
  };
}

function unreadRow(id) {
  const properties = { class: "unread-line", role: "separator", "data-testid": "unread-marker" };
  return { key: `unread ${id}`, sign: "", make: () => el("div", properties, el("span", {}, "New messages")) };
}

function systemRow({ id, seq, username, type, text, date }) {
  const words = `${username} ${type === "JOIN" ? "joined" : "left"}`;
  return {
    key: id,
    sign: "",
    make: () =>
      el(
        "div",
        {
          class: "system",
          title: fullTime(date),
          "data-testid": "message",
          "data-seq": seq,
          "data-id": id,
          "data-state": "stored",
        },
        el("span", {}, words),
        el("span", { class: "text", dir: "auto" }, text),
      ),
  };
}

function messageRow(message, act) {
  const { id, seq, state, progress, reason, first, own } = message;
  return {
    key: id,
    sign: `${state}|${progress}|${seq}|${first}|${reason ?? ""}|${message.at}`,
    make: () => makeMessage(message),
    update: (row) => updateMessage(row, message, act, own),
  };
}

function makeMessage({ id, userId, username, text, own }) {
  const row = el(
    "article",
    { class: own ? "message own" : "message", "data-testid": "message", "data-id": id },
    el("div", { class: "avatar", "aria-hidden": "true" }, initial(username)),
    el(
      "div",
      { class: "content" },
      el(
        "header",
        {},
        el("span", { class: "name", "data-testid": "message-name" }, username),
        el("time", { class: "time" }),
      ),
      el("p", { class: "text", dir: "auto", "data-testid": "message-text" }, text),
      el("footer", {}),
    ),
  );
  return tint(row, userId);
}

function updateMessage(row, message, act, own) {
  const { seq, state, first, date, at, username } = message;
  row.classList.toggle("first", first);
  row.dataset.state = state;
  row.dataset.progress = message.progress;
  if (seq === null) delete row.dataset.seq;
  else row.dataset.seq = String(seq);
  const time = row.querySelector(".time");
  setText(time, clockTime(date));
  time.dateTime = at;
  time.title = fullTime(date);
  row.querySelector(".text").title = first ? "" : fullTime(date);
  setText(row.querySelector(".name"), username);
  if (own) row.querySelector("footer").replaceChildren(...stateParts(message, act));
}

function stateParts(message, act) {
  const { state, progress, reason, date } = message;
  if (state === "failed") return failedParts(message, act);
  const [glyph, known] = STATES[progress];
  const words = progress === "sending" && reason ? `Trying again. ${reason}` : known;
  const time = el("time", { title: fullTime(date), datetime: date.toISOString() }, clockTime(date));
  const mark = el("span", { class: "state", title: words, "aria-label": words, role: "img" });
  if (glyph !== null) mark.append(icon(glyph));
  return [time, mark];
}

/** A message that the server will always refuse can only be edited. */
function failedParts({ id, text, reason, final }, act) {
  const button = (testid, words, onclick) => el("button", { type: "button", "data-testid": testid, onclick }, words);
  return [
    el("span", { class: "reason", "data-testid": "message-reason" }, `Not sent: ${reason}`),
    ...(final ? [] : [button("retry", "Retry", () => act.retry(id))]),
    button("edit", "Edit", () => act.edit({ id, text })),
    button("discard", "Discard", () => act.discard(id)),
  ];
}
