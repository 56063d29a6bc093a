const $ = (id) => document.getElementById(id);
const NOISES = 8, STEPS = 11, LONGEST = 30;          // images of a sentence; images of a line; seconds of a recording
let server = {heard_seconds: 0, sizes: []};
let sentences = [];                                   // what was said so far: {name, embedding, url, heard, first}
let current = null, order = 0;

// ---- the server ------------------------------------------------------------------------------------------------------
async function ask(path, body, type) {
  let response;
  try {
    response = await fetch(path, {method: "POST", body, headers: type ? {"Content-Type": type} : {}});
  } catch {
    throw new Error("The server does not answer. Does it still run in its terminal?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  const sentence = told.error || `the server answered ${response.status}`;
  throw new Error(sentence[0].toUpperCase() + sentence.slice(1) + ".");
}
const askJson = async (path, value) => (await ask(path, JSON.stringify(value), "application/json")).json();
const source = (part) => `data:image/png;base64,${part.png}`;
const seeds = (first) => `${first}-${first + NOISES - 1}`;

function say(text, kind = "") {
  $("status").textContent = text;
  $("status").className = kind;
}

// Runs one thing at a time; what a newer one has overtaken is dropped.
async function working(text, work) {
  const mine = ++order;
  say(text, "busy");
  try {
    await work(() => mine === order);
    if (mine === order) say("");
  } catch (error) {
    if (mine === order) say(error.message, "wrong");
    placeholders(false);
  }
}

// ---- a sentence ------------------------------------------------------------------------------------------------------
async function show(name, recording, isCurrent) {
  if (recording.size > server.limits?.bytes) {
    throw new Error(`This file has more than ${server.limits.bytes >> 20} MiB. A sentence of some seconds is enough.`);
  }
  placeholders(true);
  const told = await (await ask(`/api/images?seeds=${seeds(0)}`, recording)).json();
  if (!isCurrent()) return;
  const sentence = {name, embedding: told.embedding, heard: told.heard, url: URL.createObjectURL(recording), first: 0};
  sentences.push(sentence);
  if (sentences.length > 12) URL.revokeObjectURL(sentences.shift().url);
  current = sentence;
  sentence.images = told.images;
  $("result").hidden = false;
  $("title").textContent = name;
  $("audio").src = sentence.url;
  describe(sentence.heard);
  showImages();
  fillEnds();
  $("result").scrollIntoView({block: "nearest"});
}

function describe(heard) {
  const cut = heard.heard_seconds < heard.seconds - 0.05;
  const parts = [cut
    ? `The first ${heard.heard_seconds.toFixed(1)} of ${heard.seconds.toFixed(1)} s were heard; the grey rest was not.`
    : `All ${heard.seconds.toFixed(1)} s were heard.`];
  parts.push(...heard.remarks.filter((line) => !line.includes("rest is not heard")).map((line) => line[0].toUpperCase() + line.slice(1) + "."));
  $("heard").textContent = parts.join(" ");
  drawWave();
}

function placeholders(on) {
  if (!on) {
    if (!current) { $("result").hidden = true; return; }
    return showImages();
  }
  for (const image of $("images").children) image.classList.add("stale");
}

function showImages() {
  $("images").replaceChildren(...current.images.map((image) => {
    const button = document.createElement("button"), img = new Image();
    button.type = "button";
    img.src = source(image.parts.at(-1));
    img.alt = `${current.name}, noise ${image.seed}`;
    button.append(img);
    button.onclick = () => showParts(image.seed);
    return button;
  }));
}

async function showParts(seed) {
  const sentence = current;
  $("parts-title").textContent = `${sentence.name} · noise ${seed}`;
  $("parts-images").replaceChildren(...server.sizes.map(() => {
    const hole = document.createElement("div");
    hole.className = "hole";
    return hole;
  }));
  $("parts").showModal();
  try {
    const told = await askJson("/api/images?parts=all", {embeddings: [sentence.embedding], seeds: `${seed}`});
    $("parts-images").replaceChildren(...told.images[0].parts.map((part) => {
      const figure = document.createElement("figure"), img = new Image();
      const caption = document.createElement("figcaption"), text = document.createElement("span"), link = document.createElement("a");
      img.src = source(part);
      img.alt = `${part.size} pixels`;
      text.textContent = `${part.size} × ${part.size}`;
      link.textContent = "download";
      link.href = img.src;
      link.download = `${fileName(sentence.name)}_seed${seed}_${part.size}.png`;
      caption.append(text, link);
      figure.append(img, caption);
      return figure;
    }));
  } catch (error) {
    $("parts").close();
    say(error.message, "wrong");
  }
}

const fileName = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "_").slice(0, 60).replace(/^_|_$/g, "") || "image";

$("again").onclick = () => working("Generating…", async (isCurrent) => {
  const sentence = current, first = sentence.first + NOISES;
  placeholders(true);
  const told = await askJson("/api/images", {embeddings: [sentence.embedding], seeds: seeds(first)});
  if (!isCurrent()) return;
  Object.assign(sentence, {first, images: told.images});
  showImages();
});

$("download").onclick = async () => {       // one sheet of what is shown
  const images = [...$("images").querySelectorAll("img")], size = server.sizes.at(-1), across = 4, gap = 4;
  const sheet = document.createElement("canvas"), draw = sheet.getContext("2d");
  sheet.width = across * (size + gap) - gap;
  sheet.height = Math.ceil(images.length / across) * (size + gap) - gap;
  draw.fillStyle = "#fff";
  draw.fillRect(0, 0, sheet.width, sheet.height);
  images.forEach((image, i) => draw.drawImage(image, (i % across) * (size + gap), Math.floor(i / across) * (size + gap), size, size));
  const link = document.createElement("a");
  link.href = sheet.toDataURL("image/png");
  link.download = `${fileName(current.name)}_seeds_${seeds(current.first)}.png`;
  link.click();
};
$("close").onclick = () => $("parts").close();
$("parts").onclick = (event) => event.target === $("parts") && $("parts").close();

// ---- between two sentences -------------------------------------------------------------------------------------------
let line = [];

function fillEnds() {
  $("between").hidden = sentences.length < 2;
  if (sentences.length < 2) return;
  for (const select of [$("from"), $("to")]) {
    select.replaceChildren(...sentences.map((sentence, i) => new Option(sentence.name, i)));
  }
  $("from").value = sentences.length - 2;
  $("to").value = sentences.length - 1;
  showLine();
}

async function showLine() {
  const ends = [$("from"), $("to")].map((select) => sentences[select.value]);
  const weights = Array.from({length: STEPS}, (_, i) => i / (STEPS - 1));
  try {
    const told = await askJson("/api/images", {embeddings: ends.map((end) => end.embedding), seeds: "0", weights});
    line = told.images.map((image) => source(image.parts.at(-1)));
    $("strip").replaceChildren(...line.map((src) => Object.assign(new Image(), {src, alt: ""})));
    slide();
  } catch (error) {
    say(error.message, "wrong");
  }
}
function slide() {
  if (!line.length) return;
  const place = Number($("slider").value);
  $("middle").src = line[place];
  [...$("strip").children].forEach((image, i) => image.classList.toggle("chosen", i === place));
}
$("slider").oninput = slide;
$("from").onchange = $("to").onchange = showLine;

// ---- sound -----------------------------------------------------------------------------------------------------------
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

function bars(canvas, values, colourOf) {
  const {width, height} = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const draw = canvas.getContext("2d"), count = Math.max(1, Math.floor(width / 4));
  draw.scale(scale, scale);
  for (let i = 0; i < count; i++) {
    const part = values.slice(Math.floor(i * values.length / count), Math.max(Math.floor(i * values.length / count) + 1, Math.floor((i + 1) * values.length / count)));
    const size = Math.max(2, Math.max(0, ...part) * (height - 2));
    draw.fillStyle = colourOf(i / count);
    draw.beginPath();
    draw.roundRect(i * width / count, (height - size) / 2, Math.max(1.5, width / count - 1.5), size, 1.2);
    draw.fill();
  }
  return draw;
}

function drawWave() {
  if (!current) return;
  const {heard} = current, edge = heard.heard_seconds / heard.seconds, audio = $("audio");
  const place = audio.currentTime > 0 && !audio.ended ? audio.currentTime / heard.seconds : -1;
  const [on, off] = [colour("--accent"), colour("--quiet")], canvas = $("wave");
  const draw = bars(canvas, heard.waveform, (x) => (x < edge ? on : off));
  if (place >= 0) {
    draw.fillStyle = colour("--ink");
    draw.fillRect(place * canvas.getBoundingClientRect().width, 0, 2, canvas.getBoundingClientRect().height);
  }
  if (!audio.paused) requestAnimationFrame(drawWave);
}
$("play").onclick = () => ($("audio").paused ? $("audio").play().catch(() => say("This browser cannot play the recording.")) : $("audio").pause());
for (const event of ["play", "pause", "ended"]) $("audio").addEventListener(event, () => drawWave());
addEventListener("resize", () => drawWave());

function wav(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0), view = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * length, true);
  let at = 44;
  for (const block of blocks) for (const sample of block) {
    view.setInt16(at, Math.max(-1, Math.min(1, sample)) * 32767, true);
    at += 2;
  }
  return new Blob([view], {type: "audio/wav"});
}

// ---- the microphone --------------------------------------------------------------------------------------------------
let recording = null;

async function startRecording() {
  if (!navigator.mediaDevices?.getUserMedia) {
    return say("Browsers lend a page the microphone only at http://localhost or over https; choose a recording instead.", "wrong");
  }
  const began = (recording = {blocks: [], peaks: []});
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true}});
  } catch (error) {
    recording = null;
    return say(error.name === "NotFoundError" ? "No microphone was found; choose a recording instead."
      : error.name === "NotAllowedError" ? "The microphone was not allowed; allow it in the browser's address bar."
      : `The microphone cannot be used (${error.message}).`, "wrong");
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule("/recorder.js");
  const node = new AudioWorkletNode(context, "recorder", {numberOfOutputs: 0});
  node.port.onmessage = ({data}) => {
    began.blocks.push(data);
    began.peaks.push(data.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
  };
  context.createMediaStreamSource(stream).connect(node);
  Object.assign(began, {stream, context, since: performance.now()});
  $("audio").pause();
  $("record").setAttribute("aria-pressed", "true");
  $("live").hidden = false;
  say("Recording. Press again when you have said your sentence.");
  follow(began);
}

function follow(mine) {
  if (recording !== mine) return;
  const seconds = (performance.now() - mine.since) / 1000;
  $("record-label").textContent = `${seconds.toFixed(1)} s`;
  const last = mine.peaks.slice(-240), loudest = Math.max(0.05, ...last);
  bars($("live"), [...Array(240 - last.length).fill(0), ...last].map((peak) => peak / loudest), () => colour("--red"));
  if (seconds >= LONGEST) return stopRecording();
  requestAnimationFrame(() => follow(mine));
}

function stopRecording() {
  const {blocks, stream, context} = recording;
  recording = null;
  for (const track of stream.getTracks()) track.stop();
  $("record").setAttribute("aria-pressed", "false");
  $("record-label").textContent = "Record";
  $("live").hidden = true;
  const sound = wav(blocks, context.sampleRate);
  context.close();
  working("Listening…", (isCurrent) => show(`Recording ${sentences.length + 1}`, sound, isCurrent));
}
$("record").onclick = () => {
  if (!recording) startRecording();
  else if (recording.stream) stopRecording();
};

// ---- typing and files ------------------------------------------------------------------------------------------------
function speak(text) {
  $("text").value = text;
  working("Speaking…", async (isCurrent) => {
    const sound = await (await ask("/api/speech", JSON.stringify({text}), "application/json")).blob();
    if (!isCurrent()) return;
    say("Listening…", "busy");
    await show(text, sound, isCurrent);
  });
}
$("type").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim() || $("text").placeholder;
  speak(text);
};
const take = (file) => file && working("Listening…", (isCurrent) => show(file.name, file, isCurrent));
$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
});

// ---- start -----------------------------------------------------------------------------------------------------------
try {
  server = await (await fetch("/api/health")).json();
  $("remark").textContent = server.remark;
  if (server.examples.length) $("text").placeholder = server.examples[0];
  $("examples").replaceChildren(...server.examples.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.onclick = () => speak(text);
    return button;
  }));
  $("about").textContent = `The encoder hears the first ${server.heard_seconds.toFixed(1)} s of a sentence. Images have `
    + `${server.sizes.at(-1)} × ${server.sizes.at(-1)} pixels${server.dataset ? `; the networks learned from ${server.dataset}` : ""}.`;
} catch {
  say("The server does not answer. Does it still run in its terminal?", "wrong");
}
