// One picture of the list: what it is, how far it is, and what can be done with it.

import { Refused, upscale } from "./service.js";

const THUMB = 144;
const SUFFIXES = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp",
  "image/avif": "avif", "image/tiff": "tif" };

export class Picture {
  state = "new"; // new, running, done, failed
  size = null; // width and height, where the browser can read them
  result = null; // blob, address, size, notes, name

  /** changed(): called when the state is another. */
  constructor(file, changed) {
    this.file = file;
    this.changed = changed;
    this.row = document.getElementById("picture").content.firstElementChild.cloneNode(true);
    this.part = (name) => this.row.querySelector(`.${name}`);
    this.part("name").textContent = file.name;
    this.part("name").title = file.name;
    for (const name of ["compare", "download", "again"]) {
      this.part(name).setAttribute("aria-label", `${this.part(name).textContent} ${file.name}`);
    }
    this.part("remove").setAttribute("aria-label", `Remove ${file.name}`);
    this.part("sizes").textContent = inBytes(file.size);
  }

  get address() {
    this.original ??= URL.createObjectURL(this.file);
    return this.original;
  }

  /** Read what the browser can read of it. */
  async look() {
    const image = new Image();
    image.src = this.address;
    try {
      await image.decode();
    } catch {
      return; // a TIFF, or no picture: the server will say
    }
    this.size = [image.naturalWidth, image.naturalHeight];
    const [width, height] = this.size;
    const side = Math.min(width, height);
    this.part("thumb").getContext("2d").drawImage(
      image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, THUMB, THUMB,
    );
  }

  /** Say what it will become: expected is [width, height], or null where that is not known. */
  expect(expected) {
    if (this.state === "done") return;
    const sizes = [this.size, this.size && expected].filter(Boolean).map(inPixels);
    this.part("sizes").textContent = [sizes.join(" → "), inBytes(this.file.size)]
      .filter(Boolean).join(", ");
  }

  async run(parameters) {
    this.stop = new AbortController();
    this.#become("running", "sending");
    this.#bar(null);
    const start = performance.now();
    try {
      const report = (progress) => this.#progress(progress);
      const made = await upscale(this.file, parameters, report, this.stop.signal);
      this.forget();
      const suffix = SUFFIXES[made.blob.type] ?? "png";
      const name = `${this.file.name.replace(/\.[^.]*$/, "")}_upscaled.${suffix}`;
      this.result = { ...made, name, address: URL.createObjectURL(made.blob), parameters };
      const seconds = (performance.now() - start) / 1000;
      this.#done(seconds);
    } catch (error) {
      if (error.name === "AbortError") this.#become("new", "");
      else this.#become("failed", reason(error));
    }
  }

  cancel() {
    this.stop?.abort();
  }

  /** Give back what it keeps in memory. */
  forget() {
    if (this.result) URL.revokeObjectURL(this.result.address);
    this.result = null;
  }

  drop() {
    this.cancel();
    this.forget();
    if (this.original) URL.revokeObjectURL(this.original);
    this.row.remove();
  }

  #progress({ stage, before, done, total }) {
    if (this.state !== "running") return;
    if (stage === "upscaling" && total) {
      this.tiles ??= { done, start: performance.now() };
      this.#bar(done / total);
      const tiles = `tile ${done} of ${total}${this.#left(done, total)}`;
      this.part("state").textContent = done < total ? tiles : "writing the result";
      return;
    }
    if (stage === "none") return;
    this.tiles = null;
    this.#bar(null);
    const words = { receiving: "sending", upscaling: "reading" };
    const waits = before ? `waiting, ${before} before it` : "waiting for its turn";
    this.part("state").textContent = words[stage] ?? waits;
  }

  #left(done, total) {
    const made = done - this.tiles.done;
    if (made < 1) return "";
    const each = (performance.now() - this.tiles.start) / 1000 / made;
    const seconds = each * (total - done);
    return seconds < 3 ? "" : `, about ${inTime(seconds)} left`;
  }

  #bar(share) {
    const bar = this.row.querySelector("progress");
    bar.hidden = false;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    bar.setAttribute("aria-label", `Progress of ${this.file.name}`);
  }

  #done(seconds) {
    const { blob, name, address, size, notes } = this.result;
    const link = this.part("download");
    link.href = address;
    link.download = name;
    const sizes = [this.size, size].filter(Boolean).map(inPixels).join(" → ");
    this.part("sizes").textContent = `${sizes}, ${inBytes(blob.size)}`;
    this.#become("done", [`done in ${inTime(seconds)}`, notes].filter(Boolean).join("; "));
  }

  #become(state, text) {
    this.state = state;
    this.tiles = null;
    this.row.classList.toggle("failed", state === "failed");
    this.row.dataset.state = state;
    this.part("state").textContent = text;
    this.part("compare").hidden = this.part("download").hidden = state !== "done";
    this.part("again").hidden = state !== "failed";
    this.row.querySelector("progress").hidden = state !== "running";
    this.changed();
  }
}

function reason(error) {
  if (error instanceof Refused) return error.message;
  if (error instanceof TypeError) return "the server does not answer; is srtool serve still running?";
  return String(error.message ?? error);
}

export function inPixels([width, height]) {
  return `${width} × ${height}`;
}

export function inBytes(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function inTime(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}
