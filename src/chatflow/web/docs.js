// Draws /openapi.json: every path with its parameters, a form to try it, and the types of the answers.

import { authorization, loadAccount } from "./account.js";

const SHOWN_CHARS = 20000;

/** An element with properties and children; text is always set as text. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Text in which `this` becomes code. */
function prose(text) {
  const parts = text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
  return el("p", {}, ...parts);
}

const nameOf = (ref) => ref.split("/").at(-1);

/** A schema in a few words, linking to the types it names. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = nameOf(schema.$ref);
    return el("a", { href: `#type-${name}` }, name);
  }
  if (schema.anyOf) {
    const span = el("span");
    schema.anyOf.forEach((option, i) => span.append(i ? " or " : "", typeOf(option)));
    return span;
  }
  if (schema.type === "array") return el("span", {}, "list of ", typeOf(schema.items));
  if (schema.type === "object" && schema.additionalProperties) {
    return el("span", {}, "object of ", typeOf(schema.additionalProperties));
  }
  return el("span", {}, schema.type ?? "any");
}

function limitsOf(schema) {
  const words = [];
  if (schema.minimum !== undefined && schema.maximum !== undefined) words.push(`${schema.minimum} to ${schema.maximum}`);
  if (schema.maxLength !== undefined) words.push(`at most ${schema.maxLength} characters`);
  if (schema.default !== undefined) words.push(`default ${schema.default}`);
  return words.join(", ");
}

function parameterField(operation, parameter) {
  const id = `${operation.operationId}-${parameter.name}`;
  const numeric = parameter.schema.type === "integer";
  const input = el("input", {
    id,
    name: parameter.name,
    type: "text",
    inputMode: numeric ? "numeric" : "text",
    placeholder: String(parameter.schema.default ?? parameter.schema.examples?.[0] ?? ""),
    autocomplete: "off",
    spellcheck: false,
    "data-testid": `param-${id}`,
  });
  const hint = [typeOf(parameter.schema).textContent, limitsOf(parameter.schema)].filter(Boolean).join(" · ");
  return el(
    "div",
    { className: "parameter" },
    el("label", { htmlFor: id }, parameter.name),
    input,
    el("small", {}, hint),
    prose(parameter.description ?? ""),
  );
}

function pretty(text, type) {
  let shown = text;
  if (type.includes("json")) {
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // Not JSON after all: show it as it is.
    }
  }
  return shown.length > SHOWN_CHARS ? `${shown.slice(0, SHOWN_CHARS)}\n… ${shown.length - SHOWN_CHARS} more characters` : shown;
}

/** The forms use the token of the chat page. */
function signInHint() {
  return el("p", {}, "This needs a token: ", el("a", { href: "./" }, "sign in on the chat page"), " first.");
}

async function ask(path, form, output) {
  const filled = [...new FormData(form)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(filled).toString();
  const address = query ? `${path}?${query}` : path;
  output.hidden = false;
  output.replaceChildren(el("p", {}, `GET ${address} …`));
  const started = performance.now();
  try {
    const response = await fetch(address, { headers: { Accept: "application/json", ...authorization(loadAccount()?.token) } });
    const text = await response.text();
    const took = `${Math.round(performance.now() - started)} ms`;
    const facts = [`${response.status} ${response.statusText}`, took];
    const tier = response.headers.get("X-Cache");
    if (tier) facts.push(`X-Cache: ${tier}`);
    output.replaceChildren(
      el("p", { className: response.ok ? "good" : "bad", "data-testid": "status" }, facts.join(" · ")),
      ...(response.status === 401 ? [signInHint()] : []),
      el("p", {}, el("code", {}, `GET ${address}`)),
      el("pre", { tabIndex: 0 }, pretty(text, response.headers.get("Content-Type") ?? "")),
    );
  } catch {
    output.replaceChildren(el("p", { className: "bad" }, "No answer: the server cannot be reached. Try again."));
  }
}

function tryForm(path, operation) {
  const output = el("div", { className: "output", hidden: true, "aria-live": "polite" });
  const form = el(
    "form",
    { noValidate: true },
    ...(operation.parameters ?? []).map((parameter) => parameterField(operation, parameter)),
    el("button", { type: "submit", "data-testid": `try-${operation.operationId}` }, "Try it"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    await ask(path, form, output);
    button.disabled = false;
  });
  return [form, output];
}

function answers(operation) {
  const list = el("ul", { className: "answers" });
  for (const [status, response] of Object.entries(operation.responses)) {
    const schema = response.content?.["application/json"]?.schema;
    const what = schema ? typeOf(schema) : (response.$ref ? el("a", { href: "#errors-title" }, "error") : "text");
    list.append(el("li", {}, el("strong", {}, status), " ", what));
  }
  return list;
}

function drawOperation(path, operation) {
  return el(
    "details",
    { id: `path-${operation.operationId}`, "data-testid": "operation" },
    el("summary", {}, el("span", { className: "method" }, "GET"), el("code", {}, path), el("span", {}, operation.summary)),
    el("div", { className: "body" }, answers(operation), ...tryForm(path, operation)),
  );
}

function drawType(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, type]) => {
    const optional = schema.required?.includes(field) ? null : el("small", {}, " optional");
    return el("tr", {}, el("th", { scope: "row" }, el("code", {}, field), optional), el("td", {}, typeOf(type)));
  });
  return el(
    "details",
    { id: `type-${name}` },
    el("summary", {}, el("code", {}, name)),
    el("div", { className: "body" }, prose(schema.description ?? ""), el("table", {}, el("tbody", {}, ...rows))),
  );
}

function draw(spec) {
  document.getElementById("title").textContent = `${spec.info.title} API ${spec.info.version}`;
  document.getElementById("description").textContent = spec.info.description ?? "";
  const operations = Object.entries(spec.paths).map(([path, item]) => drawOperation(path, item.get));
  document.getElementById("operations").replaceChildren(...operations);
  const errors = Object.entries(spec.components.responses).flatMap(([status, response]) => [
    el("dt", {}, status),
    el("dd", {}, prose(response.description)),
  ]);
  document.getElementById("errors").replaceChildren(...errors);
  const types = Object.entries(spec.components.schemas).map(([name, schema]) => drawType(name, schema));
  document.getElementById("schemas").replaceChildren(...types);
}

/** Open the entry that a link points at. */
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}

async function start() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    draw(await response.json());
  } catch {
    const problem = document.getElementById("problem");
    problem.textContent = "The description of the API could not be loaded. Reload the page to try again.";
    problem.hidden = false;
    return;
  }
  addEventListener("hashchange", openTarget);
  openTarget();
}

start();
