// From a room's window to the rows of its timeline: pure of layout, so that a redraw is a comparison of keys and signs.

import { clockTime, dayName, fullTime, sameDay } from "./dates.js";
import { el, setText } from "./dom.js";
import { icon } from "./icons.js";
import { initial, tint } from "./people.js";

/** Messages of one person this close together share one heading. */
const GROUP_MS = 5 * 60_000;

const STATES = {
  pending: [null, "Sending…"],
  acknowledged: ["check", "Safe on the server"],
  stored: ["checks", "Stored in the room"],
};

/**
 * The rows of a room: day lines, the line of the new messages, messages in order of seq, then what is on its way.
 *
 * `me` is `{userId, username}`; `act` has `retry(id)` and `discard(id)`.
 */
export function rowsOf(room, me, act) {
  const rows = [];
  let previous = null;
  for (const item of room.items) {
    previous = place(rows, room, previous, { ...item, state: "stored", own: item.userId === me.userId }, act);
  }
  if (!room.follow) return rows; // What is on its way belongs below messages that are not in the window.
  for (const entry of room.outbox.entries) {
    const message = { ...entry, ...me, seq: null, type: "TEXT", own: true };
    previous = place(rows, room, previous, message, act);
  }
  return rows;
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
  const { id, seq, state, reason, first, own } = message;
  return {
    key: id,
    sign: `${state}|${seq}|${first}|${reason ?? ""}|${message.at}`,
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

function updateMessage(row, { id, seq, state, reason, first, date, at, username }, act, own) {
  row.classList.toggle("first", first);
  row.dataset.state = state;
  if (seq === null) delete row.dataset.seq;
  else row.dataset.seq = String(seq);
  const time = row.querySelector(".time");
  setText(time, clockTime(date));
  time.dateTime = at;
  time.title = fullTime(date);
  row.querySelector(".text").title = first ? "" : fullTime(date);
  setText(row.querySelector(".name"), username);
  if (own) row.querySelector("footer").replaceChildren(...stateParts(id, state, reason, date, act));
}

function stateParts(id, state, reason, date, act) {
  if (state === "failed") return failedParts(id, reason, act);
  const [glyph, words] = STATES[state];
  const time = el("time", { title: fullTime(date), datetime: date.toISOString() }, clockTime(date));
  const mark = el("span", { class: "state", title: words, "aria-label": words, role: "img" });
  if (glyph !== null) mark.append(icon(glyph));
  return [time, mark];
}

function failedParts(id, reason, act) {
  return [
    el("span", { class: "reason", "data-testid": "message-reason" }, `Not sent: ${reason}`),
    el("button", { type: "button", "data-testid": "retry", onclick: () => act.retry(id) }, "Retry"),
    el("button", { type: "button", "data-testid": "discard", onclick: () => act.discard(id) }, "Discard"),
  ];
}
