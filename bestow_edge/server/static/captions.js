// The page: sends the microphone to /v1/stream and shows the texts that come back.
const byId = (id) => document.getElementById(id);
const controls = ["token", "source", "first", "second", "delay"].map(byId);
const [tokenField, source, first, second, delay] = controls;
const columns = ["first", "second"].map((name) => ({
  title: byId(`${name}-title`), box: byId(`${name}-text`), section: byId(`${name}-text`).parentElement,
  written: byId(`${name}-text`).querySelector(".written"), draft: byId(`${name}-text`).querySelector(".draft"),
}));
const DELAYS = [["", "model's own"], ["0.8s", "0.8 s"], ["1.5s", "1.5 s"], ["2.5s", "2.5 s"], ["4s", "4 s"]];
const LATENCIES = 8; // words in the mean
const MOST_WAITING = 4_000_000; // bytes that wait for the network before the stream is given up
let model, running = null, starting = false; // the button is never disabled by them: it would lose the keyboard's focus

const languageNames = new Intl.DisplayNames(["en"], {type: "language"});
const nameOf = (code) => code === "auto" ? "detected" : languageNames.of(code) ?? code;
const seconds = (value) => `${value.toFixed(1)} s`;

function show(message, bad = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("bad", bad);
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

function pairsFrom(code) {
  if (code === "auto") return [["auto", "transcript"], ["auto-en", "English"]];
  return model.pairs.filter((pair) => pair.split("-")[0] === code).map((pair) => {
    const target = pair.split("-")[1];
    return [pair, target === code ? `${nameOf(code)} (transcript)` : nameOf(target)];
  });
}

function chooseSource() {
  const pairs = pairsFrom(source.value).sort(([one], [other]) => other.startsWith(`${source.value}-${source.value}`) - one.startsWith(`${source.value}-${source.value}`));
  fill(first, pairs, pairs[0]?.[0]);
  fill(second, [["", "none"], ...pairs], pairs[1]?.[0] ?? "");
  chooseTexts();
}

function chooseTexts() {
  for (const [select, column] of [[first, columns[0]], [second, columns[1]]]) {
    column.title.textContent = select.value ? select.selectedOptions[0].textContent : "";
    column.section.hidden = !select.value;
  }
  document.querySelector("main").classList.toggle("single", !second.value);
}

async function load() {
  const headers = tokenField.value ? {Authorization: `Bearer ${tokenField.value}`} : {};
  const answer = await fetch("v1/models", {headers});
  if (answer.status === 401) {
    byId("token-label").hidden = false;
    byId("toggle").disabled = true;
    show("This server needs a token.", Boolean(tokenField.value));
    return;
  }
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  [model] = (await answer.json()).data;
  byId("model").textContent = model.id;
  const sources = [...new Set(model.pairs.map((pair) => pair.split("-")[0]))];
  if (model.detects_language) sources.unshift("auto");
  fill(source, sources.map((code) => [code, nameOf(code)]), sources[0]);
  fill(delay, model.policy === "wait-k" ? DELAYS : DELAYS.slice(0, 1), "");
  chooseSource();
  byId("toggle").disabled = false;
  show("Ready.");
}

function address() {
  const url = new URL("v1/stream", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

async function openMicrophone() {
  if (!navigator.mediaDevices) throw new Error("The browser gives no microphone to this page: open it at localhost or with https.");
  const stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true}});
  const context = new AudioContext();
  await context.audioWorklet.addModule("static/recorder.js");
  const recorder = new AudioWorkletNode(context, "recorder", {numberOfOutputs: 0});
  context.createMediaStreamSource(stream).connect(recorder);
  return {context, recorder, stop() { stream.getTracks().forEach((track) => track.stop()); return context.close(); }};
}

function openStream(rate) {
  const protocols = ["bestow-edge"];
  if (tokenField.value) protocols.push(`openai-insecure-api-key.${tokenField.value}`);
  const socket = new WebSocket(address(), protocols);
  socket.binaryType = "arraybuffer";
  const pairs = [...new Set([first.value, second.value].filter(Boolean))];
  const settings = {lang: pairs.join(","), rate, format: "pcm16", drafts: true};
  if (delay.value) settings.latency = delay.value;
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify(settings));
    socket.onmessage = ({data}) => {
      const event = JSON.parse(data);
      event.event === "started" ? resolve({socket, rate}) : reject(new Error(event.message));
    };
    socket.onclose = ({reason}) => reject(new Error(reason || "The server refused the connection."));
  });
}

function send(run, samples) {
  if (run.socket.readyState !== WebSocket.OPEN || run.ending) return;
  if (run.socket.bufferedAmount > MOST_WAITING) {
    stop(run, "The server does not keep up: the stream was ended.", true);
    return;
  }
  let peak = 0;
  const packed = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, index) => {
    peak = Math.max(peak, Math.abs(sample));
    packed.setInt16(2 * index, Math.max(-1, Math.min(1, sample)) * 32767, true);
  });
  run.socket.send(packed.buffer);
  run.sent += samples.length / run.rate;
  byId("level").value = peak;
  byId("audio").textContent = seconds(run.sent);
}

function receive(run, event) {
  const column = (lang) => columns.filter((_, index) => [first, second][index].value === lang);
  if (event.event === "text") {
    for (const {box, written, draft} of column(event.lang)) {
      written.textContent += written.textContent ? event.text : event.text.trimStart();
      draft.textContent = "";
      box.scrollTop = box.scrollHeight;
    }
    run.latencies = [...run.latencies, Math.max(0, run.sent - event.end_s)].slice(-LATENCIES);
    byId("latency").textContent = seconds(run.latencies.reduce((sum, value) => sum + value) / run.latencies.length);
  } else if (event.event === "draft") {
    for (const [lang, text] of Object.entries(event.texts)) for (const {draft} of column(lang)) draft.textContent = text;
  } else if (event.event === "progress") {
    byId("lag").textContent = seconds(Math.max(0, run.sent - event.audio_s));
  } else if (event.event === "language") {
    show(`Listening: ${nameOf(event.language)}.`);
  } else if (event.event === "error") {
    run.failure = event.message;
  } else if (event.event === "end") {
    columns.forEach(({draft}) => { draft.textContent = ""; });
    byId("lag").textContent = seconds(0);
  }
}

function stop(run, message, bad = false) {
  if (run.ending) return;
  run.ending = true;
  run.microphone.stop();
  byId("level").value = 0;
  if (run.socket.readyState === WebSocket.OPEN) run.socket.send(JSON.stringify({event: "end"}));
  show(message, bad);
}

function ended(run, reason) {
  const failure = run.failure ?? (run.ending ? "" : reason || "The connection was lost.");
  stop(run, "");
  show(failure || "Stopped.", Boolean(failure));
  running = null;
  byId("toggle").textContent = "Start";
  controls.forEach((control) => { control.disabled = false; });
}

async function start() {
  starting = true;
  let microphone;
  try {
    show("Waiting for the microphone.");
    microphone = await openMicrophone();
    const opened = await openStream(microphone.context.sampleRate);
    running = {...opened, microphone, sent: 0, latencies: [], ending: false};
  } catch (error) {
    microphone?.stop();
    show(error.message, true);
    return;
  } finally {
    starting = false;
  }
  const run = running;
  controls.forEach((control) => { control.disabled = true; });
  for (const {written, draft} of columns) written.textContent = draft.textContent = "";
  for (const id of ["audio", "latency", "lag"]) byId(id).textContent = "–";
  run.socket.onmessage = ({data}) => receive(run, JSON.parse(data));
  run.socket.onclose = ({reason}) => ended(run, reason);
  microphone.recorder.port.onmessage = ({data}) => send(run, data);
  byId("toggle").textContent = "Stop";
  show("Listening.");
}

byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop(running, "Writing the rest.");
  else if (model && !starting) start();
});
source.addEventListener("change", chooseSource);
first.addEventListener("change", chooseTexts);
second.addEventListener("change", chooseTexts);
tokenField.addEventListener("change", () => {
  sessionStorage.setItem("token", tokenField.value);
  load().catch((error) => show(error.message, true));
});
tokenField.value = sessionStorage.getItem("token") ?? "";
load().catch((error) => show(error.message, true));
