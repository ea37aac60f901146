// Image settings: negative prompt, size, sampler, clip skip and LoRA files, for the images of four tabs.

import { $, el, fill, options, valuesOf } from "./dom.js";

const form = $("setup");
let size = null;
let loras = {};
const listeners = [];

// Call `act` whenever a setting has changed.
export const onSetup = (act) => listeners.push(act);

// How the model is set up, as requests have it.
export function modelSetup() {
  const { scheduler, clip_skip } = valuesOf(form);
  return { scheduler: scheduler || null, clip_skip, loras: { ...loras } };
}

// The same, and what is asked of each image.
export function pictureSetup() {
  const { negative_prompt, width, height } = valuesOf(form);
  return { ...modelSetup(), negative_prompt: negative_prompt.trim() || null, width, height };
}

// Whether every field is in its range; the first that is not is shown.
export function isValid() {
  if (form.checkValidity()) return true;
  form.querySelector("details").open = true;
  return form.reportValidity();
}

// What the loaded model takes.
export function offer(takes) {
  if (!takes.size) return;
  size = takes.size;
  const { scheduler } = valuesOf(form);
  options(form.elements.scheduler, [["", `the model's own (${takes.sampler})`], ...takes.samplers], scheduler);
  for (const side of ["width", "height"])
    Object.assign(form.elements[side], { step: size.step, min: size.step, placeholder: size[side] });
  form.elements.clip_skip.max = takes.clip_skip;
  $("setup-clip-skip").hidden = takes.clip_skip < 2;
  $("setup-loras").hidden = !takes.loras;
  $("setup-no-loras").hidden = takes.lora_files.length > 0;
  $("setup-add").hidden = !takes.lora_files.length;
  options($("setup-lora"), takes.lora_files);
  describe();
}

// The settings of an earlier request.
export function restore(asked) {
  if (!asked) return;
  if (asked.scheduler) options(form.elements.scheduler, ["", asked.scheduler], asked.scheduler);
  for (const name of ["negative_prompt", "width", "height", "clip_skip"])
    fill(form, { [name]: asked[name] ?? "" });
  loras = { ...asked.loras };
  showLoras();
}

function showLoras() {
  $("setup-list").replaceChildren(
    ...Object.entries(loras).map(([file, scale]) =>
      el(
        "li",
        {},
        el("span", {}, file.replace(/\.safetensors$/, "")),
        el("input", {
          type: "number",
          min: "-10",
          max: "10",
          step: "0.05",
          value: String(scale),
          required: true,
          "aria-label": `Scale of ${file}`,
          onchange: (event) => {
            loras[file] = Number(event.target.value);
            describe();
          },
        }),
        el(
          "button",
          {
            type: "button",
            class: "link",
            "aria-label": `Remove ${file}`,
            onclick: () => {
              delete loras[file];
              showLoras();
            },
          },
          "remove",
        ),
      ),
    ),
  );
  describe();
}

// What differs from the model's own settings, beside the title.
function describe() {
  const { negative_prompt, width, height, scheduler, clip_skip } = pictureSetup();
  const count = Object.keys(loras).length;
  $("setup-summary").textContent = [
    width && height ? `${width} × ${height}` : "",
    scheduler ?? "",
    clip_skip ? `clip skip ${clip_skip}` : "",
    count ? `${count} LoRA` : "",
    negative_prompt ? `not: ${negative_prompt}` : "",
  ]
    .filter(Boolean)
    .join(", ");
  for (const act of listeners) act();
}

// A size has two sides: beside the one that is typed stands the model's own.
function complete(event) {
  const [typed, other] = event.target.name === "width" ? ["width", "height"] : ["height", "width"];
  if (!form.elements[typed].value) form.elements[other].value = "";
  else if (!form.elements[other].value) form.elements[other].value = size?.[other] ?? form.elements[typed].value;
}

for (const side of ["width", "height"]) form.elements[side].addEventListener("change", complete);
form.addEventListener("change", describe);
form.addEventListener("submit", (event) => event.preventDefault());
$("setup-add-button").addEventListener("click", () => {
  loras = { [$("setup-lora").value]: 1, ...loras };
  showLoras();
});
$("setup-reset").addEventListener("click", () => {
  form.reset();
  loras = {};
  showLoras();
});
