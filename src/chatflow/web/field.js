// A labelled input with its complaint.

import { el } from "./dom.js";

/** `{input, show(words), box}`; `show` tells a problem, or null for none, and returns whether there is none. */
export function field({ label, testid, problemId, ...properties }) {
  const problem = el("p", { class: "problem", role: "alert", id: problemId, "data-testid": problemId });
  const input = el("input", {
    id: testid,
    "data-testid": testid,
    autocapitalize: "none",
    spellcheck: "false",
    "aria-describedby": problemId,
    ...properties,
  });
  const show = (words) => {
    problem.textContent = words ?? "";
    input.setAttribute("aria-invalid", String(words !== null));
    return words === null;
  };
  input.addEventListener("input", () => problem.textContent !== "" && show(null));
  return { input, show, box: el("div", { class: "labelled" }, el("label", { for: testid }, label), input, problem) };
}
