// Before and after in one frame: a divider, zoom and pan by mouse, touch and keyboard.

const STEP = 1.25;
const LARGEST = 16;
const PAN = 60; // pixels of the screen

const at = (id) => document.getElementById(id);

export class Viewer {
  #place = { zoom: 1, x: 0, y: 0 };
  #size = [1, 1];
  #pointers = new Map();
  #fitted = true;

  /** turn(step): called where the user wants the next or the previous picture. */
  constructor(turn) {
    this.dialog = at("viewer");
    this.stage = at("stage");
    this.divider = at("divider");
    this.images = [at("before"), at("after")];
    at("close").addEventListener("click", () => this.dialog.close());
    at("in").addEventListener("click", () => this.#zoom(STEP));
    at("out").addEventListener("click", () => this.#zoom(1 / STEP));
    at("fit").addEventListener("click", () => this.#fit());
    at("whole").addEventListener("click", () => this.#zoom(1 / this.#place.zoom));
    at("previous").addEventListener("click", () => turn(-1));
    at("next").addEventListener("click", () => turn(1));
    this.stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.#press(event));
    this.stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    this.stage.addEventListener("dblclick", (event) => {
      if (event.target !== this.divider) this.#toggle(event);
    });
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.divider.addEventListener("keydown", (event) => this.#slide(event));
    this.images.forEach((image) => image.addEventListener("error", () => this.#complain(image)));
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    this.dialog.addEventListener("close", () => {
      this.images.forEach((image) => image.removeAttribute("src"));
    });
  }

  /** Show a picture: title, addresses of before and after, size of the result. */
  show({ title, before, after, size, neighbours }) {
    at("viewed").textContent = title;
    at("unshown").hidden = true;
    at("previous").disabled = !neighbours[0];
    at("next").disabled = !neighbours[1];
    this.#size = size;
    [before, after].forEach((address, number) => {
      const image = this.images[number];
      image.src = address;
      [image.style.width, image.style.height] = size.map((side) => `${side}px`);
    });
    this.#divide(50);
    if (!this.dialog.open) this.dialog.showModal();
    this.#fit();
    this.stage.focus();
  }

  get #room() {
    return [this.stage.clientWidth, this.stage.clientHeight];
  }

  get #fitting() {
    return Math.min(...this.#room.map((room, axis) => room / this.#size[axis]));
  }

  #fit() {
    const zoom = Math.min(this.#fitting, LARGEST);
    this.#put(zoom, ...this.#room.map((room, axis) => (room - zoom * this.#size[axis]) / 2));
    this.#fitted = true;
  }

  #resize() {
    if (!this.dialog.open) return;
    if (this.#fitted) this.#fit();
    else this.#put(this.#place.zoom, this.#place.x, this.#place.y);
  }

  /** Zoom by a factor about a point of the stage, its middle where none is given. */
  #zoom(factor, [x, y] = this.#room.map((room) => room / 2)) {
    const { zoom, x: left, y: top } = this.#place;
    const least = Math.min(this.#fitting, 1) / 2;
    const wanted = Math.min(LARGEST, Math.max(least, zoom * factor));
    const change = wanted / zoom;
    this.#put(wanted, x - (x - left) * change, y - (y - top) * change);
  }

  #put(zoom, x, y) {
    // Some of the picture always stays in sight
    const keep = (value, room, side) => {
      const rest = Math.min(80, side, room);
      return Math.min(room - rest, Math.max(rest - side, value));
    };
    const [width, height] = this.#room;
    this.#fitted = false;
    this.#place = {
      zoom,
      x: keep(x, width, zoom * this.#size[0]),
      y: keep(y, height, zoom * this.#size[1]),
    };
    const { x: left, y: top } = this.#place;
    this.images.forEach((image) => {
      image.style.transform = `translate(${left}px, ${top}px) scale(${zoom})`;
    });
    at("zoomed").textContent = `${Math.round(100 * zoom)} %`;
  }

  #divide(percent) {
    const share = Math.min(100, Math.max(0, percent));
    this.stage.style.setProperty("--at", `${share}%`);
    this.divider.setAttribute("aria-valuenow", Math.round(share));
    this.divider.setAttribute("aria-valuetext", `${Math.round(share)} % before, the rest after`);
    this.share = share;
    at("tag-before").hidden = share < 8;
    at("tag-after").hidden = share > 92;
  }

  #point(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    this.#zoom(Math.exp(-pixels / 400), this.#point(event));
  }

  #press(event) {
    if (event.button !== 0) return;
    const divides = event.target.closest("#divider") !== null;
    this.#pointers.set(event.pointerId, { point: this.#point(event), divides });
    this.stage.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const held = this.#pointers.get(event.pointerId);
    if (!held) return;
    const now = this.#point(event);
    const moved = now.map((value, axis) => value - held.point[axis]);
    const other = [...this.#pointers.values()].find((each) => each !== held);
    if (held.divides) {
      this.#divide((100 * now[0]) / this.#room[0]);
    } else {
      this.#put(this.#place.zoom, this.#place.x + moved[0], this.#place.y + moved[1]);
      if (other && !other.divides) {
        // Of a pinch, each finger moves the picture half of its way
        this.#put(this.#place.zoom, this.#place.x - moved[0] / 2, this.#place.y - moved[1] / 2);
        const apart = (point) => Math.hypot(point[0] - other.point[0], point[1] - other.point[1]);
        const middle = now.map((value, axis) => (value + other.point[axis]) / 2);
        this.#zoom(apart(now) / Math.max(1, apart(held.point)), middle);
      }
    }
    held.point = now;
  }

  #toggle(event) {
    const whole = Math.abs(this.#place.zoom - 1) < 0.01;
    if (whole) this.#fit();
    else this.#zoom(1 / this.#place.zoom, this.#point(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { zoom, x, y } = this.#place;
    const doing = {
      ArrowLeft: () => this.#put(zoom, x + PAN, y),
      ArrowRight: () => this.#put(zoom, x - PAN, y),
      ArrowUp: () => this.#put(zoom, x, y + PAN),
      ArrowDown: () => this.#put(zoom, x, y - PAN),
      "+": () => this.#zoom(STEP),
      "=": () => this.#zoom(STEP),
      "-": () => this.#zoom(1 / STEP),
      0: () => this.#fit(),
      1: () => this.#zoom(1 / zoom),
      PageUp: () => at("previous").click(),
      PageDown: () => at("next").click(),
    }[event.key];
    if (!doing) return;
    doing();
    event.preventDefault();
  }

  #slide(event) {
    const step = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, Home: -100, End: 100 };
    if (!(event.key in step)) return;
    this.#divide(this.share + step[event.key]);
    event.preventDefault();
    event.stopPropagation();
  }

  #complain(image) {
    const note = at("unshown");
    note.hidden = false;
    note.textContent = `This browser cannot show the picture ${image.alt.toLowerCase()}: it is too large for it, or of a format that it does not know. The download is whole.`;
  }
}
