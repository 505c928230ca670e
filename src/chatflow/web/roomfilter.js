// Which rooms the sidebar lists: those whose names contain the typed text, or those with unread messages.

import { byId, setText } from "./dom.js";
import { canonicalRoom, counted } from "./text.js";

/** Up to this many rooms, there is nothing to search. */
const FEW = 10;

export class RoomFilter {
  #bar = byId("room-filter");
  #count = byId("room-count");
  #button = byId("only-unread");
  #changed;
  #typed = "";
  #onlyUnread = false;

  /** `changed()` runs when the list changes. */
  constructor(changed) {
    this.#changed = changed;
    this.#button.addEventListener("click", () => {
      this.#onlyUnread = !this.#onlyUnread;
      changed();
    });
  }

  search(typed) {
    const wanted = (canonicalRoom(typed) ?? typed.trim()).toLowerCase();
    if (wanted === this.#typed) return;
    this.#typed = wanted;
    this.#changed();
  }

  /** The rooms to list, in order. The current one stays listed even when only unread ones are wanted. */
  among(rooms, current) {
    const unread = rooms.filter((room) => room.unread > 0);
    if (unread.length === 0) this.#onlyUnread = false;
    const pool = this.#onlyUnread ? rooms.filter((room) => room.unread > 0 || room === current) : rooms;
    const typed = rooms.length > FEW ? this.#typed : "";
    const found = pool.filter(({ name }) => name.toLowerCase().includes(typed));
    this.#draw(rooms.length, found.length, unread.length);
    return found;
  }

  #draw(all, found, unread) {
    this.#bar.hidden = all <= FEW;
    setText(this.#count, found < all ? `${found} of ${counted(all, "room")}` : counted(all, "room"));
    this.#button.hidden = unread === 0;
    this.#button.setAttribute("aria-pressed", String(this.#onlyUnread));
    setText(this.#button, `${unread.toLocaleString()} unread`);
  }
}
