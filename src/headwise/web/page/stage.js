// An image with a heat map over it, and a region that is chosen by mouse, finger or keyboard.

const HALF = 0.125;

export class Stage {
  constructor(place, chosen) {
    Object.assign(this, { place, chosen, box: null, from: null });
    this.image = place.querySelector("img");
    this.canvas = place.querySelector("canvas");
    this.frame = place.querySelector("#stage-box");
    this.image.addEventListener("load", () => {
      place.style.aspectRatio = `${this.image.naturalWidth} / ${this.image.naturalHeight}`;
    });
    place.addEventListener("pointerdown", (event) => this.#down(event));
    place.addEventListener("pointermove", (event) => this.#move(event));
    place.addEventListener("pointerup", (event) => this.#up(event));
    place.addEventListener("pointercancel", () => {
      this.from = null;
    });
    place.addEventListener("keydown", (event) => this.#key(event));
  }

  show(source, alt) {
    this.image.src = source;
    this.image.alt = alt;
    this.place.querySelector("p").hidden = true;
    this.#set(null);
  }

  // What the head does not attend to is darkened.
  heat(map) {
    const context = this.canvas.getContext("2d");
    if (!map) return context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const picture = new ImageData(map.width, map.height);
    map.values.forEach((value, at) =>
      picture.data.set([0, 12, 30, Math.round(0.85 * (255 - value))], 4 * at),
    );
    [this.canvas.width, this.canvas.height] = [map.width, map.height];
    context.putImageData(picture, 0, 0);
  }

  #at(event) {
    const box = this.place.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) =>
      Math.max(0, Math.min(1, share)),
    );
  }

  #down(event) {
    if (!this.image.src) return;
    this.place.setPointerCapture(event.pointerId);
    this.from = this.#at(event);
  }

  #move(event) {
    if (this.from) this.#set(this.#between(this.from, this.#at(event)));
  }

  #up(event) {
    if (!this.from) return;
    const box = this.#between(this.from, this.#at(event));
    this.from = null;
    this.#set(box);
    this.chosen(box);
  }

  // A drag is a rectangle; a click is a square around it.
  #between([x, y], [to, down]) {
    if (Math.abs(x - to) < 0.03 && Math.abs(y - down) < 0.03) return this.#around(to, down, HALF);
    return [
      Math.min(x, to),
      Math.min(y, down),
      Math.max(x, to, Math.min(x, to) + 0.02),
      Math.max(y, down, Math.min(y, down) + 0.02),
    ].map((share) => Math.min(1, share));
  }

  #around(x, y, half) {
    const [left, top] = [x, y].map((middle) => Math.max(0, Math.min(1 - 2 * half, middle - half)));
    return [left, top, left + 2 * half, top + 2 * half];
  }

  #set(box) {
    this.box = box;
    this.frame.hidden = !box;
    if (!box) return;
    const [left, top, right, bottom] = box.map((share) => 100 * share);
    Object.assign(this.frame.style, {
      left: `${left}%`,
      top: `${top}%`,
      width: `${right - left}%`,
      height: `${bottom - top}%`,
    });
  }

  #key(event) {
    if (!this.image.src) return;
    const [left, top, right, bottom] = this.box ?? this.#around(0.5, 0.5, HALF);
    const [x, y, half] = [(left + right) / 2, (top + bottom) / 2, Math.max(right - left, bottom - top) / 2];
    const step = 0.05;
    const to = {
      ArrowLeft: [x - step, y, half],
      ArrowRight: [x + step, y, half],
      ArrowUp: [x, y - step, half],
      ArrowDown: [x, y + step, half],
      "+": [x, y, Math.min(0.5, half + 0.03)],
      "=": [x, y, Math.min(0.5, half + 0.03)],
      "-": [x, y, Math.max(0.03, half - 0.03)],
    }[event.key];
    if (to) this.#set(this.#around(...to));
    else if (event.key === "Enter" || event.key === " ") {
      if (!this.box) this.#set(this.#around(x, y, half));
      this.chosen(this.box);
    } else return;
    event.preventDefault();
  }
}
