// Weaken: the orders, a slider over k, images and curves together.

import { $, bars, el, figure, fill, valuesOf, number, options } from "./dom.js";
import { get, over } from "./api.js";
import { onRelevance, page } from "./page.js";
import { jobSlot, problem } from "./jobs.js";
import { chart, key, table } from "./chart.js";

const form = $("weaken-form");
const EXAMPLE = ""; // in place of a run's name: the finished weakening that comes with the model
let curves = null;
let run = "";
let order = "";
let requests = 0;

onRelevance(() => {
  offer();
  showKnown();
});

const weakening = jobSlot("weaken", "weaken", (job) => {
  const starting = job.state === "running" ? "starting" : "waiting";
  $("weaken-live").hidden = over(job);
  $("weaken-live").replaceChildren(
    el(
      "label",
      {},
      `${job.asked.concept}: ${job.total ? `${job.done} of ${job.total} scores` : starting} `,
      el("progress", { max: Math.max(1, job.total), value: job.done }),
    ),
  );
  if (job.state === "done") open(job.run);
});

async function offer() {
  try {
    const offered = await get(`/api/weaken?name=${encodeURIComponent(page.name)}`);
    options(form.elements.concept, offered.concepts, form.elements.concept.value || "Color");
    form.querySelector("button").disabled = !offered.concepts.length;
    if (!offered.concepts.length)
      problem(
        "weaken",
        "No CLIP model scores this model’s images. Start the server with --scorer and the folder or hub name " +
          "of a CLIP model.",
      );
  } catch (error) {
    if (!$("weaken").hidden) problem("weaken", error.message);
  }
}

async function list() {
  const all = (await get("/api/runs")).filter((entry) => entry.kind === "weakening");
  options(
    $("weaken-run"),
    [
      [EXAMPLE, page.state.example ? "the example of the model" : "a run …"],
      ...all.filter((entry) => entry.state === "finished").map((entry) => [entry.name, entry.name]),
    ],
    run,
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { concept, count, num_inference_steps } = valuesOf(form);
  const slug = concept.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const name = `weaken-${slug}-${Date.now().toString(36).slice(-5)}`;
  weakening.ask({
    name,
    concept,
    count,
    num_inference_steps,
    guidance_scale: page.state.guidance_scale,
    relevance: page.name,
  });
});

$("weaken-run").addEventListener("change", (event) => {
  if (event.target.value || page.state.example) open(event.target.value);
});

async function open(name) {
  const request = (requests += 1);
  try {
    const answer = await get(name === EXAMPLE ? "/api/example" : `${address(name)}/weakening`);
    if (request !== requests) return;
    [curves, run] = [answer, name];
  } catch (error) {
    return problem("weaken", error.message);
  }
  problem("weaken", "");
  const names = Object.keys(curves.orders);
  order = names.includes(order) ? order : names[0];
  $("weaken-result").hidden = false;
  const [value, low, high] = (curves.area ?? []).map((bound) => number(bound));
  const sure = curves.area?.includes(null) ? "too few prompts for an interval" : `${low} to ${high}`;
  const area = curves.area ? `Least minus most relevant first: area ${value} (${sure}).` : "";
  $("weaken-title").textContent = name === EXAMPLE ? `An example: ${curves.concept}` : name;
  $("weaken-example").hidden = name !== EXAMPLE;
  $("weaken-example").textContent =
    `This finished run comes with ${page.state.model} and is not one of yours. Its heads are in the order of their relevance by ` +
    `${curves.by}. Move the slider to see what is lost.`;
  $("weaken-said").textContent =
    `${curves.concept}, ${curves.prompts} prompts of ${curves.steps} steps, attention × ${signed(curves.factor)}. ${area}`;
  $("weaken-orders").replaceChildren(
    ...names.map((entry, i) =>
      el(
        "label",
        { class: "choice" },
        el("input", {
          type: "radio",
          name: "weaken-order",
          value: entry,
          checked: entry === order,
          onchange: () => {
            order = entry;
            show();
          },
        }),
        key(i),
        entry.replace(/^random \d+$/, "random"),
      ),
    ),
  );
  $("weaken-k").max = curves.ks.length - 1;
  $("weaken-k").value = name === EXAMPLE ? 1 : Math.min(3, curves.ks.length - 1); // few heads are enough there
  $("weaken-table").replaceChildren(table(curves));
  show();
  list().catch(() => {});
}

function show() {
  const at = Number($("weaken-k").value),
    k = curves.ks[at],
    heads = curves.ks.at(-1);
  $("weaken-k-said").textContent = `${k} of ${heads}`;
  $("weaken-k").setAttribute("aria-valuetext", `${k} of ${heads} heads`);
  const source = (file) =>
    `${run === EXAMPLE ? "/api/example" : address(run)}/pictures/${encodeURIComponent(file)}`;
  if ($("weaken-pictures").children.length === curves.pictures.length) {
    curves.pictures.forEach((entry, i) => {
      const image = $("weaken-pictures").children[i].querySelector("img");
      image.src = source(entry.files[order][at]);
      image.alt = alt(entry, k);
      image.closest("figure").querySelector("figcaption").textContent = entry.prompt;
    });
  } else
    $("weaken-pictures").replaceChildren(
      ...curves.pictures.map((entry) => figure(source(entry.files[order][at]), entry.prompt, alt(entry, k))),
    );
  $("weaken-chart").replaceChildren(chart(curves, order, at));
}

const signed = (value) => String(value).replace("-", "−");

const address = (name) => `/api/runs/${encodeURIComponent(name)}`;

const alt = (entry, k) => `${entry.prompt}, ${k} heads weakened, ${order} first`;

$("weaken-k").addEventListener("input", show);

export function opened() {
  list().catch(() => {});
  if (!curves && page.state.example) open(EXAMPLE);
}

// What the card of a built-in model holds for the chosen relevance.
function showKnown() {
  const entries = Object.entries(page.state.weakening?.[page.name] ?? {}).sort(([, a], [, b]) => b.area - a.area);
  $("weaken-known").hidden = !entries.length;
  $("weaken-areas").replaceChildren(
    bars(
      entries.map(([concept, { area, low, high }]) => ({
        name: concept,
        value: area,
        label: `${number(area)} (${number(low)} to ${number(high)})`,
        onclick: () => {
          form.elements.concept.value = concept;
          form.elements.concept.focus();
        },
      })),
    ),
  );
}

export function restore(last, state) {
  showKnown();
  if (!last.weaken) return state.example && !$("weaken").hidden ? open(EXAMPLE) : undefined;
  fill(form, last.weaken.asked);
  weakening.adopt(last.weaken, true);
}
