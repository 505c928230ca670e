// A person's colour: the same everywhere, readable in both themes (the style sheet sets lightness and chroma).

const GOLDEN_ANGLE = 137.508;

/** A hue in degrees; consecutive ids get distant hues. */
export function hueOf(userId) {
  return Math.round((userId % 100_003) * GOLDEN_ANGLE) % 360;
}

/** Give an element and its content this person's colour, through the CSSOM: the page allows no style attributes. */
export function tint(element, userId) {
  element.style.setProperty("--hue", String(hueOf(userId)));
  return element;
}

export function initial(username) {
  return [...username][0]?.toUpperCase() ?? "?";
}
