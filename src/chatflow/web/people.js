// A person's colour: the same everywhere, readable in both themes (the style sheet sets lightness and chroma).

const GOLDEN_ANGLE = 137.508;

/** A hue in degrees; ids that follow each other are far apart. */
export function hueOf(userId) {
  return Math.round((userId % 100_003) * GOLDEN_ANGLE) % 360;
}

/** Colour an element and all in it as this person's; through the CSSOM, since the page allows no style attributes. */
export function tint(element, userId) {
  element.style.setProperty("--hue", String(hueOf(userId)));
  return element;
}

export function initial(username) {
  return [...username][0]?.toUpperCase() ?? "?";
}
