// Line icons, drawn for this page on a 24 x 24 grid.

const SHAPES = {
  menu: ["M4 7h16", "M4 12h16", "M4 17h10"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  plus: ["M12 5v14", "M5 12h14"],
  link: [
    "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 1 0-5.7-5.7l-1 1",
    "M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 1 0 5.7 5.7l1-1",
  ],
  leave: ["M14 5h-7a2 2 0 0 0-2 2v10a2 2 0 0 0 2 2h7", "M11 12h9", "M17 8.5l3.5 3.5-3.5 3.5"],
  send: ["M12 19V5.5", "M6 11.5l6-6 6 6"],
  check: ["M5 12.5l4.5 4.5L19 7.5"],
  clock: ["M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16", "M12 8v4.5l3 2"],
  checks: ["M2 12.5l4.5 4.5L15.5 7.5", "M11.5 15.5l1.5 1.5L22 7.5"],
  alert: ["M12 7v6", "M12 16.5v.5"],
  down: ["M12 5v13.5", "M6 12.5l6 6 6-6"],
  sun: [
    "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8",
    "M12 2.5v2",
    "M12 19.5v2",
    "M2.5 12h2",
    "M19.5 12h2",
    "M5.3 5.3l1.4 1.4",
    "M17.3 17.3l1.4 1.4",
    "M5.3 18.7l1.4-1.4",
    "M17.3 6.7l1.4-1.4",
  ],
  moon: ["M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10Z"],
  auto: ["M12 4a8 8 0 1 0 0 16Z", "M12 4a8 8 0 0 1 0 16"],
};

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("glyph", name);
  for (const shape of SHAPES[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    svg.append(path);
  }
  return svg;
}
