// The concept × head map on a canvas: colours, a cursor for mouse and keyboard, and what is chosen.

// From 0 up, and from as far below 0 as above it: a dark hue either side of white. Both keep their order for
// colour-blind eyes.
const UPWARD = [
  [0, 32, 76],
  [44, 62, 108],
  [87, 92, 109],
  [124, 123, 120],
  [166, 157, 117],
  [211, 193, 100],
  [255, 234, 70],
];
const BOTH_WAYS = [
  [5, 48, 97],
  [55, 131, 187],
  [167, 208, 228],
  [247, 246, 246],
  [247, 183, 153],
  [201, 71, 65],
  [103, 0, 31],
];

// The colour of a value as a share of the largest: 0 … 1, or −1 … 1 where values may be below 0.
function colour(share, signed) {
  const stops = signed ? BOTH_WAYS : UPWARD;
  const at = Math.max(0, Math.min(1, signed ? (share + 1) / 2 : share)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  return stops[low].map((channel, i) => Math.round(channel + (at - low) * (stops[low + 1][i] - channel)));
}

export function drawScale(canvas, signed) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    const share = x / canvas.width;
    context.fillStyle = `rgb(${colour(signed ? 2 * share - 1 : share, signed).join()})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}

export class HeadMap {
  constructor(canvas, labels, { moved, chosen }) {
    Object.assign(this, {
      canvas,
      labels,
      moved,
      chosen,
      relevance: null,
      at: [0, 0],
      concept: null,
      head: null,
    });
    for (const surface of [canvas, labels]) {
      surface.addEventListener("pointermove", (event) => this.#hover(event));
      surface.addEventListener("click", (event) => this.#click(event));
    }
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.#size()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("theme", () => this.draw());
  }

  show(relevance) {
    this.relevance = relevance;
    const heads = relevance.heads;
    const picture = new ImageData(heads, Math.max(1, relevance.concepts.length));
    relevance.values
      .flat()
      .forEach((value, i) => picture.data.set([...colour(value / relevance.top, relevance.signed), 255], 4 * i));
    this.cells = document.createElement("canvas");
    [this.cells.width, this.cells.height] = [picture.width, picture.height];
    this.cells.getContext("2d").putImageData(picture, 0, 0);
    this.at = [Math.max(0, Math.min(this.at[0], relevance.concepts.length - 1)), this.at[1]];
    this.#size();
  }

  choose(concept, head) {
    [this.concept, this.head] = [concept, head];
    this.at = [concept ?? this.at[0], head ?? this.at[1]];
    this.draw();
  }

  #size() {
    if (!this.relevance) return;
    const room = this.canvas.parentElement.clientWidth;
    if (!room) return;
    const heads = this.relevance.heads;
    this.names = room < 600 ? 118 : 170;
    this.cell = Math.max(room < 600 ? 6 : 5, Math.min(12, (room - this.names - 2) / heads));
    this.line = 16;
    this.top = 20;
    this.width = Math.floor(this.cell * heads + 2);
    this.height = this.top + this.line * this.relevance.concepts.length + 2;
    this.#fit(this.canvas, this.width);
    this.#fit(this.labels, this.names);
    this.draw();
  }

  #fit(canvas, width) {
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, this.height * ratio];
    Object.assign(canvas.style, { width: `${width}px`, height: `${this.height}px` });
  }

  #clean(canvas) {
    const context = canvas.getContext("2d");
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.textBaseline = "middle";
    return context;
  }

  draw() {
    if (!this.relevance || !this.cell) return;
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, mark] = ["--ink", "--soft", "--mark"].map((name) => style.getPropertyValue(name));
    const { names, cell, line, top, relevance } = this;
    const [wide, high] = [cell * relevance.heads, line * relevance.concepts.length];
    const label = this.#clean(this.labels);
    relevance.concepts.forEach((name, row) => {
      label.font = `${row === this.concept ? "600 " : ""}12px system-ui, sans-serif`;
      label.fillStyle = row === this.concept ? mark : ink;
      label.fillText(this.#cut(label, name, names - 8), 0, top + line * (row + 0.5));
    });
    const context = this.#clean(this.canvas);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, top, wide, high);
    this.#layers(context, soft);
    context.strokeStyle = relevance.signed ? "#1b2430" : "#fff";
    context.lineWidth = 2;
    if (this.head !== null) context.strokeRect(cell * this.head, top, cell, high);
    if (this.concept !== null) context.strokeRect(0, top + line * this.concept, wide, line);
    if (document.activeElement === this.canvas) {
      const [row, head] = this.at;
      context.strokeStyle = "#ff3d7f";
      context.strokeRect(cell * head - 1, top + line * row - 1, cell + 2, line + 2);
    }
  }

  #layers(context, soft) {
    let start = 0,
      label = "",
      from = 0;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = context.strokeStyle = soft;
    context.lineWidth = 1;
    const places = [
      ...this.relevance.layers.map((layer) => [this.#place(layer.address), layer.heads]),
      ["", 0],
    ];
    for (const [place, heads] of places) {
      const x = this.cell * start;
      if (place !== label) {
        if (label && x - from > 20) context.fillText(this.#cut(context, label, x - from - 2), from + 2, 10);
        context.globalAlpha = 0.9;
        context.beginPath();
        context.moveTo(x, 2);
        context.lineTo(x, this.top - 1);
        context.stroke();
        context.globalAlpha = 1;
        [label, from] = [place, x];
      }
      start += heads;
    }
  }

  #place(address) {
    const [first, second] = address.split(".");
    return (
      { down_blocks: `down ${second}`, mid_block: "mid", up_blocks: `up ${second}` }[first] ??
      `${first.replaceAll("_", " ")} ${second ?? ""}`
    );
  }

  #cut(context, text, room) {
    if (context.measureText(text).width <= room) return text;
    while (text && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
    return `${text}…`;
  }

  #under(event) {
    const box = this.canvas.getBoundingClientRect();
    const head =
      event.currentTarget === this.labels ? -1 : Math.floor((event.clientX - box.left) / this.cell);
    const row = Math.floor((event.clientY - box.top - this.top) / this.line);
    const heads = this.relevance.heads;
    return [
      row >= 0 && row < this.relevance.concepts.length ? row : null,
      head >= 0 && head < heads ? head : null,
    ];
  }

  #hover(event) {
    if (this.relevance) this.moved(...this.#under(event));
  }

  #click(event) {
    if (!this.relevance) return;
    const [row, head] = this.#under(event);
    if (row !== null || head !== null) this.chosen(row, head);
  }

  #key(event) {
    if (!this.relevance) return;
    const [row, head] = this.at;
    const to = {
      ArrowUp: [row - 1, head],
      ArrowDown: [row + 1, head],
      ArrowLeft: [row, head - 1],
      ArrowRight: [row, head + 1],
      PageUp: [row - 8, head],
      PageDown: [row + 8, head],
      Home: [row, 0],
      End: [row, 1e9],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.chosen(row, head);
    else if (to)
      this.at = [
        Math.max(0, Math.min(this.relevance.concepts.length - 1, to[0])),
        Math.max(0, Math.min(this.relevance.heads - 1, to[1])),
      ];
    else return;
    event.preventDefault();
    if (to) {
      this.moved(...this.at);
      const x = this.cell * this.at[1],
        scroll = this.canvas.parentElement,
        room = scroll.clientWidth - this.names;
      if (x < scroll.scrollLeft || x > scroll.scrollLeft + room - this.cell) scroll.scrollLeft = x - room / 2;
    }
    this.draw();
  }
}
