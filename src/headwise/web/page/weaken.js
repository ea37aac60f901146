// Weaken: the orders, a slider over k, pictures and curves together.

import { $, el, figure, fill, held, number, options } from "./dom.js";
import { get, over } from "./api.js";
import { onRelevance, page } from "./page.js";
import { lane, problem } from "./lane.js";
import { chart, key, table } from "./chart.js";

const form = $("weaken-form");
let found = null, run = "", order = "", asked = 0;

onRelevance(offer);

const weakening = lane("weaken", "weaken", (job) => {
  $("weaken-live").hidden = over(job);
  $("weaken-live").replaceChildren(el("label", {}, `${job.asked.concept}: ${job.total ? `${job.done} of ${job.total} scores` : job.state === "running" ? "starting" : "waiting"} `, el("progress", { max: Math.max(1, job.total), value: job.done })));
  if (job.state === "done") open(job.run);
});

async function offer() {
  try {
    const known = await get(`/api/weaken?name=${encodeURIComponent(page.name)}`);
    options(form.elements.concept, known.concepts, form.elements.concept.value || "Color");
    form.querySelector("button").disabled = !known.concepts.length;
    if (!known.concepts.length) problem("weaken", "Nobody is here to judge this model's pictures. Start with --judge and a CLIP model's folder or hub name.");
  } catch (error) {
    if (!$("weaken").hidden) problem("weaken", error.message);
  }
}

async function list() {
  const all = (await get("/api/runs")).filter((one) => one.kind === "weakening");
  options($("weaken-run"), [["", "a run …"], ...all.filter((one) => one.state === "finished").map((one) => [one.name, one.name])], run);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { concept, count, num_inference_steps } = held(form);
  const name = `weaken-${concept.toLowerCase().replace(/[^a-z0-9]+/g, "-")}-${Date.now().toString(36).slice(-5)}`;
  weakening.ask({ name, concept, count, num_inference_steps, guidance_scale: page.state.guidance_scale, relevance: page.name });
});

$("weaken-run").addEventListener("change", (event) => { if (event.target.value) open(event.target.value); });

async function open(name) {
  const mine = (asked += 1);
  try {
    const answer = await get(`/api/runs/${encodeURIComponent(name)}/weakening`);
    if (mine !== asked) return;
    [found, run] = [answer, name];
  } catch (error) {
    return problem("weaken", error.message);
  }
  problem("weaken", "");
  const names = Object.keys(found.orders);
  order = names.includes(order) ? order : names[0];
  $("weaken-result").hidden = false;
  const area = found.area ? `Least minus most relevant first: area ${number(found.area[0])} (${number(found.area[1])} to ${number(found.area[2])}).` : "";
  $("weaken-said").textContent = `${found.concept}, ${found.prompts} prompts, × ${found.factor}. ${area}`;
  $("weaken-orders").replaceChildren(...names.map((one, i) => el("label", { class: "choice" },
    el("input", { type: "radio", name: "weaken-order", value: one, checked: one === order, onchange: () => { order = one; show(); } }), key(i), one.replace(/^random \d+$/, "random"))));
  $("weaken-k").max = found.ks.length - 1;
  $("weaken-k").value = Math.min(3, found.ks.length - 1);
  $("weaken-table").replaceChildren(table(found));
  show();
  list().catch(() => {});
}

function show() {
  const at = Number($("weaken-k").value), k = found.ks[at], heads = found.ks.at(-1);
  $("weaken-k-said").textContent = `${k} of ${heads}`;
  $("weaken-k").setAttribute("aria-valuetext", `${k} of ${heads} heads`);
  const address = (file) => `/api/runs/${encodeURIComponent(run)}/pictures/${encodeURIComponent(file)}`;
  if ($("weaken-pictures").children.length === found.pictures.length) {
    found.pictures.forEach((one, i) => {
      const image = $("weaken-pictures").children[i].querySelector("img");
      image.src = address(one.files[order][at]);
      image.alt = alt(one, k);
      image.nextElementSibling.textContent = one.prompt;
    });
  } else $("weaken-pictures").replaceChildren(...found.pictures.map((one) => figure(address(one.files[order][at]), one.prompt, alt(one, k))));
  $("weaken-chart").replaceChildren(chart(found, order, at));
}

const alt = (one, k) => `${one.prompt}, ${k} heads weakened, ${order} first`;

$("weaken-k").addEventListener("input", show);

export function opened() {
  list().catch(() => {});
}

export function restore(last) {
  if (!last.weaken) return;
  fill(form, last.weaken.asked);
  weakening.adopt(last.weaken, true);
}
