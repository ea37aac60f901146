// Elements from data. Texts become text nodes and never markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

export function options(select, values, chosen) {
  select.replaceChildren(
    ...values.map((entry) => {
      const [value, text] = Array.isArray(entry) ? entry : [entry, entry];
      return el("option", { value }, text);
    }),
  );
  if (chosen !== undefined && values.some((entry) => (Array.isArray(entry) ? entry[0] : entry) === chosen))
    select.value = chosen;
}

export const picture = (source, alt) => el("img", { src: source, alt, width: 256, height: 256 });

// An image with a caption, which a click enlarges (viewer.js).
export function figure(source, caption, alt, ours = false) {
  const image = picture(source, alt ?? caption);
  return el(
    "figure",
    { class: ours ? "ours" : "" },
    el("button", { type: "button", class: "enlarge", "aria-label": `Enlarge: ${caption}` }, image),
    el("figcaption", {}, caption),
  );
}

export function refused(caption, why) {
  return el("figure", {}, el("div", { class: "refused" }, why), el("figcaption", {}, caption));
}

// Names with a bar and a number: [{name, value, label, note, onclick}]
export function bars(rows, most = Math.max(...rows.map((row) => row.value), 1e-9)) {
  return el(
    "ul",
    { class: "bars" },
    rows.map((row) => {
      const inner = el("span");
      inner.style.width = `${Math.max(0, Math.min(100, (100 * row.value) / most))}%`;
      const name = row.onclick
        ? el("button", { class: "link", type: "button", onclick: row.onclick }, row.name)
        : el("span", {}, row.name);
      return el(
        "li",
        {},
        name,
        el("span", { class: "track", "aria-hidden": "true" }, inner),
        el("span", { class: "number" }, row.label),
        row.note ? el("small", {}, row.note) : null,
      );
    }),
  );
}

export const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

export const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

// The values of a form, numbers as numbers.
export function valuesOf(form) {
  const values = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    if (field.type === "radio" && !field.checked) continue;
    if (field.type === "checkbox") continue;
    values[field.name] =
      field.type === "number" || field.type === "range"
        ? field.value === ""
          ? null
          : Number(field.value)
        : field.value;
  }
  return values;
}

export function fill(form, values) {
  for (const [name, value] of Object.entries(values)) {
    const field = form.elements[name];
    if (field && "value" in field && typeof value !== "object") field.value = value;
  }
}

// Saves a text as a file of the browser's user.
export function download(text, name, type = "text/plain") {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

export function debounced(wait, act) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
}
