// Elements from data. Texts become text nodes and never markup, whoever wrote them.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat());
  return made;
}

export function options(select, values, chosen) {
  select.replaceChildren(...values.map((one) => {
    const [value, text] = Array.isArray(one) ? one : [one, one];
    return el("option", { value }, text);
  }));
  if (chosen !== undefined && values.some((one) => (Array.isArray(one) ? one[0] : one) === chosen)) select.value = chosen;
}

export function figure(source, caption, alt, ours = false) {
  return el("figure", { class: ours ? "ours" : "" },
    el("img", { src: source, alt: alt ?? caption, width: 256, height: 256 }), el("figcaption", {}, caption));
}

export function refused(caption, why) {
  return el("figure", {}, el("div", { class: "refused" }, why), el("figcaption", {}, caption));
}

// Names with a bar and a number: [{name, value, said, note, onclick}]
export function bars(rows, most = Math.max(...rows.map((row) => row.value), 1e-9)) {
  return el("ul", { class: "bars" }, rows.map((row) => {
    const inner = el("span");
    inner.style.width = `${Math.max(0, Math.min(100, (100 * row.value) / most))}%`;
    const name = row.onclick ? el("button", { class: "link", type: "button", onclick: row.onclick }, row.name) : el("span", {}, row.name);
    return el("li", {}, name, el("span", { class: "track", "aria-hidden": "true" }, inner),
      el("span", { class: "number" }, row.said), row.note ? el("small", {}, row.note) : null);
  }));
}

export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

export const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

// What a form holds, numbers as numbers.
export function held(form) {
  const found = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    if (field.type === "radio" && !field.checked) continue;
    if (field.type === "checkbox") continue;
    found[field.name] = field.type === "number" || field.type === "range" ? (field.value === "" ? null : Number(field.value)) : field.value;
  }
  return found;
}

export function fill(form, values) {
  for (const [name, value] of Object.entries(values)) {
    const field = form.elements[name];
    if (field && "value" in field && typeof value !== "object") field.value = value;
  }
}

export function later(wait, act) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
}
