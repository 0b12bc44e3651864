// The page: pictures come in, the server upscales them, results go out.

import { inBytes, Picture } from "./pictures.js";
import { models, Refused, takeToken, useToken } from "./service.js";
import { Viewer } from "./viewer.js";
import { distinct, zip } from "./zip.js";

const SENT = 2; // pictures with the server at a time: one is upscaled, one waits
const IMAGE = /\.(png|apng|jpe?g|jpe|jfif|webp|tiff?|avif|hei[cf]|gif|bmp|dib|p[pgbn]m|jp2|j2k)$/i;

const at = (id) => document.getElementById(id);
const pictures = [];
let served = null;
let running = false;
let looking = Promise.resolve();

// settings

function network() {
  return served.models.find((model) => model.name === at("engine").value);
}

function parameters() {
  const found = { engine: at("engine").value };
  const [kind, value] = at("size").value.split("=");
  if (kind) found[kind] = value ?? at("amount").value;
  if (at("format").value) found.format = at("format").value;
  if (at("quality").value) found.quality = at("quality").value;
  return found;
}

/** Width and height of the result. */
function expected([width, height]) {
  const [kind, value] = at("size").value.split("=");
  const amount = Number(value ?? at("amount").value);
  const factor = {
    "": network().scale,
    scale: amount,
    long_side: amount / Math.max(width, height),
    width: amount / width,
    height: amount / height,
    megapixels: Math.sqrt((amount * 1e6) / (width * height)),
  }[kind];
  return [width, height].map((side) => Math.max(1, Math.floor(side * factor + 0.5)));
}

function showSettings() {
  const kind = at("size").value.split("=");
  at("amount").hidden = kind.length > 1 || !kind[0];
  const model = network();
  const [own, ...others] = at("size").options;
  own.textContent = `${model.scale} times`;
  for (const option of others) option.hidden = option.value === `scale=${model.scale}`;
  at("warning").hidden = !model.uncertified;
  at("warning").textContent = `${model.name} is not certified: ${model.uncertified}`;
  const lossless = ["png", "tif"].includes(at("format").value);
  at("quality").disabled = lossless;
  pictures.forEach((picture) => picture.expect(picture.size && expected(picture.size)));
  show();
}

function isDone(picture) {
  return picture.state === "done"
    && JSON.stringify(picture.result.parameters) === JSON.stringify(parameters());
}

// the list

function add(files) {
  for (const file of files) {
    const picture = new Picture(file, show);
    pictures.push(picture);
    at("pictures").append(picture.row);
    picture.part("compare").addEventListener("click", () => compare(picture));
    picture.part("again").addEventListener("click", () => run([picture]));
    picture.part("remove").addEventListener("click", () => remove(picture));
    // one after the other: decoding takes memory
    looking = looking.then(async () => {
      await picture.look();
      picture.expect(served && picture.size && expected(picture.size));
    });
  }
  show();
}

function remove(picture) {
  if (picture.state === "running") {
    picture.cancel();
    return;
  }
  const number = pictures.indexOf(picture);
  pictures.splice(number, 1);
  picture.drop();
  show();
  const next = pictures[Math.min(number, pictures.length - 1)];
  (next ? next.part("remove") : at("choose")).focus();
}

function show() {
  document.body.classList.toggle("filled", pictures.length > 0);
  at("actions").hidden = pictures.length === 0;
  const count = (state) => pictures.filter((picture) => picture.state === state).length;
  const todo = pictures.filter((picture) => picture.state !== "running" && !isDone(picture));
  const done = pictures.filter((picture) => picture.result);
  at("start").disabled = todo.length === 0 || running;
  at("start").textContent = running
    ? "Upscaling…"
    : `Upscale ${todo.length === 1 ? "1 picture" : `${todo.length} pictures`}`;
  at("clear").textContent = running ? "Stop" : "Remove all";
  at("zip").hidden = done.length < 2;
  const bytes = done.reduce((sum, picture) => sum + picture.result.blob.size, 0);
  const parts = [`${done.length} of ${pictures.length} done`];
  if (done.length) parts.push(inBytes(bytes));
  if (count("failed")) parts.push(`${count("failed")} failed`);
  at("summary").textContent = `${parts.join(", ")}${done.length ? ". They are kept in this page until it is closed." : ""}`;
  for (const picture of pictures) {
    const verb = picture.state === "running" ? "Stop" : "Remove";
    picture.part("remove").setAttribute("aria-label", `${verb} ${picture.file.name}`);
    picture.part("remove").title = verb;
  }
}

// the work

let waiting = [];

async function run(chosen) {
  waiting.push(...chosen.filter((picture) => !waiting.includes(picture)));
  if (running) return;
  running = true;
  show();
  const settings = parameters();
  const worker = async () => {
    while (waiting.length) await waiting.shift().run(settings);
  };
  await Promise.all(Array.from({ length: SENT }, worker));
  running = false;
  show();
}

function stop() {
  waiting = [];
  pictures.forEach((picture) => picture.cancel());
}

async function downloadAll() {
  const done = pictures.filter((picture) => picture.result);
  const names = distinct(done.map((picture) => picture.result.name));
  at("zip").disabled = true;
  try {
    const blob = await zip(done.map((picture, number) => [names[number], picture.result.blob]));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "upscaled.zip";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    at("summary").textContent = error.message;
  }
  at("zip").disabled = false;
}

let shown = null;
const viewer = new Viewer((step) => {
  const done = pictures.filter((picture) => picture.result);
  compare(done[done.indexOf(shown) + step] ?? shown);
});

function compare(picture) {
  const done = pictures.filter((each) => each.result);
  const number = done.indexOf(picture);
  shown = picture;
  viewer.show({
    title: picture.file.name,
    before: picture.address,
    after: picture.result.address,
    size: picture.result.size,
    neighbours: [number > 0, number < done.length - 1],
  });
}

// where pictures come from

/** Files of what was dropped, those in folders too. */
async function filesOf(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  const walk = async (entry) => {
    if (entry instanceof File) found.push(entry);
    else if (entry?.isFile) found.push(await new Promise((good, bad) => entry.file(good, bad)));
    else if (entry?.isDirectory) {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((good, bad) => reader.readEntries(good, bad));
        if (!some.length) break;
        for (const each of some) await walk(each);
      }
    }
  };
  const folders = entries.some((entry) => entry?.isDirectory);
  for (const entry of entries.filter(Boolean)) await walk(entry);
  // What one drops by itself is meant; what lies in a folder beside pictures is not.
  return folders ? found.filter((file) => IMAGE.test(file.name)) : found;
}

function listen() {
  at("choose").addEventListener("click", () => at("files").click());
  at("files").addEventListener("change", () => {
    add(at("files").files);
    at("files").value = "";
  });
  let depth = 0;
  const over = (more) => {
    depth = Math.max(0, depth + more);
    at("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", () => over(1));
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    add(await filesOf(event.dataTransfer.items));
  });
  addEventListener("paste", (event) => add(event.clipboardData.files));
  at("settings").addEventListener("input", showSettings);
  at("settings").addEventListener("submit", (event) => event.preventDefault());
  at("start").addEventListener("click", () => {
    if (at("settings").reportValidity()) run(pictures.filter((picture) => !isDone(picture)));
  });
  at("clear").addEventListener("click", () => {
    if (running) stop();
    else while (pictures.length) remove(pictures[0]);
  });
  at("zip").addEventListener("click", downloadAll);
  addEventListener("beforeunload", (event) => {
    if (running) event.preventDefault();
  });
}

// the start

async function begin() {
  try {
    served = await models();
  } catch (error) {
    if (!(error instanceof Refused && error.status === 401)) throw error;
    at("sign-in").hidden = false;
    at("token").focus();
    return;
  }
  at("sign-in").hidden = true;
  at("work").hidden = false;
  at("engine").replaceChildren(...served.models.map((model) => new Option(model.name)));
  const megapixels = Math.round(served.max_pixels / 1e5) / 10;
  at("taken").textContent = `PNG, JPEG, WebP, TIFF, AVIF; up to ${inBytes(served.max_bytes)} and ${megapixels} megapixels each`;
  showSettings();
}

at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(at("token").value);
  at("token").value = "";
  begin();
});
takeToken();
listen();
begin();
