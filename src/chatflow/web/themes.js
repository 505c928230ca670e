// The button that cycles through the themes: the system's, light, dark.

import { icon } from "./icons.js";
import { loadTheme, saveTheme } from "./storage.js";

const THEMES = {
  auto: { next: "light", glyph: "auto", words: "Theme: system" },
  light: { next: "dark", glyph: "sun", words: "Theme: light" },
  dark: { next: "auto", glyph: "moon", words: "Theme: dark" },
};

export function prepareTheme(button) {
  let theme = THEMES[loadTheme()] ? loadTheme() : "auto";
  show(button, theme);
  button.addEventListener("click", () => {
    theme = THEMES[theme].next;
    saveTheme(theme === "auto" ? null : theme);
    show(button, theme);
  });
}

function show(button, theme) {
  const { glyph, words } = THEMES[theme];
  button.replaceChildren(icon(glyph));
  button.title = words;
  button.setAttribute("aria-label", words);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
