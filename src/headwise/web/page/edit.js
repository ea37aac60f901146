// Edit: a drawn or a sent picture, by editing its prompt, with the rivals beside it.

import { $, el, figure, fill, held, later, number, options, refused } from "./dom.js";
import { pictureOf, send } from "./api.js";
import { concepts, onRelevance, page } from "./page.js";
import { lane, problem } from "./lane.js";
import { actions } from "./recipe.js";
import { wordsOf } from "./words.js";

const form = $("edit-form");
const LEAVE = "";
let words = [], picked = {}, sent = null;

onRelevance(() => show());

// A rival as its box has it.
const named = (column) => form.querySelector(`[name=rivals][value="${column}"]`)?.parentElement.textContent.trim() ?? column;

const editing = lane("edit", "edit", (job) => {
  const fit = job.found.find((one) => "psnr" in one);
  $("edit-note").textContent = fit ? `Drawn again from its noise, your picture has ${number(fit.psnr, 1)} dB; encoded and decoded alone ${number(fit.limit, 1)} dB.${fit.psnr < 20 ? " Below 20 dB it is another picture: describe it better, or take more steps." : ""}` : "";
  $("edit-pictures").replaceChildren(...job.found.filter((one) => one.column).map((item) => item.error
    ? refused(named(item.column), item.error)
    : figure(pictureOf(job, item), item.column === "relevance" ? `by relevance × ${job.asked.strength}` : named(item.column),
      `${item.column}: ${item.column === "source" ? job.asked.prompt : job.asked.target}`, item.column === "relevance")));
  if (job.state === "done") actions($("edit-actions"), job, "edit");
});

async function read() {
  const { prompt, target } = held(form);
  if (!prompt.trim() || !target.trim()) return;
  try {
    const found = await wordsOf(target, prompt);
    words = found.words.filter((word) => word.changed);
    problem("edit", found.problem);
  } catch (error) {
    words = [];
    problem("edit", error.message);
  }
  show();
}

function show() {
  $("edit-words").replaceChildren(...words.map((word) => {
    const select = el("select", { onchange: (event) => { picked[word.text] = event.target.value; } });
    options(select, [[LEAVE, "nothing: take the source's map"], ...concepts()], picked[word.text] ?? word.concepts.find((name) => concepts().includes(name)) ?? LEAVE);
    select.dataset.word = word.text;
    return el("label", { class: "field" }, `“${word.text}” is strengthened by`, select);
  }));
}

const fromPicture = () => form.elements.from.value === "picture";

function changeSource() {
  $("edit-upload").hidden = $("edit-skip").hidden = !fromPicture();
  $("edit-source-name").textContent = fromPicture() ? "What the picture shows" : "Source prompt";
}

async function take(file) {
  problem("edit", "");
  if (!file) return;
  if (file.size > page.state.upload) return problem("edit", `${file.name} has ${number(file.size / 2 ** 20, 1)} MB; expected at most ${Math.floor(page.state.upload / 2 ** 20)} MB.`);
  $("edit-sent").textContent = "Sending …";
  try {
    sent = await send("/api/pictures", file);
    $("edit-preview").src = `/api/pictures/${sent.id}`;
    $("edit-preview").alt = `Your picture ${file.name}, as the model's size has it`;
    $("edit-preview").hidden = false;
    $("edit-sent").textContent = `${file.name} is here, cut to ${sent.width} × ${sent.height}.`;
  } catch (error) {
    sent = null;
    $("edit-preview").hidden = true;
    $("edit-sent").textContent = "";
    problem("edit", error.message);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (fromPicture() && !sent) return problem("edit", "Choose a picture first.");
  const { from, strength, ...asked } = held(form);
  const chosen = {};
  for (const select of $("edit-words").querySelectorAll("select")) if (select.value !== LEAVE) chosen[select.dataset.word] = select.value;
  delete asked.skip;
  const body = { ...asked, strength, relevance: page.name, concepts: chosen, rivals: [...form.querySelectorAll("[name=rivals]:checked")].map((box) => box.value) };
  if (fromPicture()) Object.assign(body, { picture: sent.id, skip: Number(form.elements.skip.value) });
  editing.ask(body);
});
for (const radio of form.elements.from) radio.addEventListener("change", changeSource);
for (const name of ["prompt", "target"]) form.elements[name].addEventListener("input", later(250, read));
form.elements.strength.addEventListener("input", (event) => { $("edit-strength").textContent = Number(event.target.value).toFixed(1); });
$("edit-file").addEventListener("change", (event) => take(event.target.files[0]));
$("edit-upload").addEventListener("dragover", (event) => { event.preventDefault(); $("edit-upload").classList.add("over"); });
$("edit-upload").addEventListener("dragleave", () => $("edit-upload").classList.remove("over"));
$("edit-upload").addEventListener("drop", (event) => {
  event.preventDefault();
  $("edit-upload").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

export function ready() {
  if (!words.length) read();
}

export function restore(last, state) {
  fill(form, { num_inference_steps: Math.max(10, state.num_inference_steps), guidance_scale: state.guidance_scale });
  changeSource();
  if (!last.edit) return;
  fill(form, last.edit.asked);
  form.elements.from.value = last.edit.asked.picture ? "picture" : "prompt";
  picked = { ...last.edit.asked.concepts };
  for (const box of form.querySelectorAll("[name=rivals]")) box.checked = last.edit.asked.rivals.includes(box.value);
  $("edit-strength").textContent = Number(last.edit.asked.strength).toFixed(1);
  if (last.edit.asked.picture) {
    sent = { id: last.edit.asked.picture };
    $("edit-sent").textContent = "The picture that you sent before.";
  }
  changeSource();
  editing.adopt(last.edit, true);
  read();
}
