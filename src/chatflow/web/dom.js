// What the views need of the DOM. Text is always set as text, never as markup.

/** An element with properties (`class`, `data-*`, `aria-*`, listeners as `onclick`) and children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Assign only on change: rewriting a live region makes screen readers repeat it. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Make `rows` the children of `parent`, in order, touching only what differs.
 *
 * A row is `{key, sign, make, update}`: `make()` builds the element once, `update(element)` runs whenever `sign`
 * changed. `shown` is a Map that belongs to this parent alone.
 */
export function reconcile(parent, rows, shown) {
  const wanted = new Set(rows.map(({ key }) => key));
  for (const [key, { element }] of shown) {
    if (wanted.has(key)) continue;
    element.remove();
    shown.delete(key);
  }
  let next = parent.firstChild;
  for (const row of rows) {
    let entry = shown.get(row.key);
    if (entry === undefined) {
      entry = { element: row.make(), sign: null };
      shown.set(row.key, entry);
    }
    if (entry.sign !== row.sign) {
      row.update?.(entry.element);
      entry.sign = row.sign;
    }
    if (entry.element === next) next = next.nextSibling;
    else parent.insertBefore(entry.element, next);
  }
}
