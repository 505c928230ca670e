// A short word at the bottom of the page that goes away by itself.

import { byId, setText } from "./dom.js";

const SHOWN_MS = 5_000;

let timer = null;

export function toast(words) {
  const box = byId("toast");
  setText(box, words);
  box.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (box.hidden = true), SHOWN_MS);
}
