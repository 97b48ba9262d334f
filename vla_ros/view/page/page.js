// The operator's page: what is heard is shown, and what the operator does is sent. All text goes in as text.

import { Link } from "/link.js";
import { Plot } from "/plots.js";
import { Scene } from "/scene.js";

const $ = (id) => document.getElementById(id);
const STALE_S = 1.0, STOP_AGAIN_MS = 150, STOP_PATIENCE_MS = 1000, JOG_MS = 100, TOAST_MS = 6000;
const STAGES = ["stamp_age", "preprocessing", "link", "queue", "copy_in", "prefix", "suffix", "graph", "copy_out",
  "inference", "switch"];
const PICTURE = 1, NO_PLAN = [];

const page = { you: { origin: "", may_act: false }, robot: null, board: null, pose: null, cameras: [], offset: 0 };
const scene = new Scene($("scene"));
const plots = {
  age: new Plot($("age-plot"), "#5aa0ff"), answer: new Plot($("answer-plot"), "#c792ea"),
  period: new Plot($("period-plot"), "#5fce8a"),
};

const link = new Link({
  hear: (data) => (typeof data === "string" ? hear(JSON.parse(data)) : showPicture(data)),
  changed(isUp) {
    document.body.classList.toggle("lost", !isUp);
    $("lost").hidden = isUp;
    showStop();
  },
  ask(why) {
    if (why) $("token-why").textContent = why;
    if (!$("ask").open) $("ask").showModal();
  },
});

const hearers = {
  you(message) { page.you = message; showRights(); },
  scene: setRobot,
  pose: showPose,
  board: showBoard,
  chunk: (message) => { page.chunk = message; },
  line: (message) => toast(message.text),
  stopped: () => {},
};

function hear(message) {
  hearers[message.kind]?.(message);
}

// --- stop ------------------------------------------------------------------------------------------------------

let stopping = null;

function stop() {
  clearInterval(stopping?.timer);
  const began = performance.now();
  const send = () => {
    const late = performance.now() - began > STOP_PATIENCE_MS;
    if (page.pose?.mode === "ESTOP" || late) {
      clearInterval(stopping.timer);
      stopping = null;
      if (page.pose?.mode !== "ESTOP") toast("Nobody answers the stop. Use the robot's own stop.");
    } else if (!link.send({ act: "stop" })) toast("Not connected: the stop went nowhere. Use the robot's own stop.");
    showStop();
  };
  stopping = { timer: setInterval(send, STOP_AGAIN_MS) };
  send();
}

function showStop() {
  const isStopped = link?.isUp && page.pose?.mode === "ESTOP";
  $("stop").classList.toggle("sent", Boolean(stopping) || isStopped);
  $("stop-word").textContent = !link?.isUp ? "NO LINK" : isStopped ? "STOPPED" : stopping ? "STOPPING" : "STOP";
  $("stop-word").style.fontSize = $("stop-word").textContent === "STOP" ? "" : "0.68em";
}

$("stop").addEventListener("pointerdown", (event) => { event.preventDefault(); stop(); });
for (const kind of ["keydown", "keyup"]) document.addEventListener(kind, (event) => {
  if (event.key !== " " || event.target.matches("input[type=text], input[type=password]")) return;
  event.preventDefault();  // no button is pressed by it
  if (kind === "keydown" && !event.repeat) stop();
}, true);

// --- what the operator does ------------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-act]"))
  button.addEventListener("click", () => link.send({ act: button.dataset.act }));
for (const button of document.querySelectorAll("[data-mark]"))
  button.addEventListener("click", () => link.send({ act: "mark", mark: button.dataset.mark }));
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("text").value.trim()) return;
  link.send({ act: "instruct", text: $("text").value });
  $("text").value = "";
  $("text").blur();  // or the space bar would go on writing
});
$("token-form").addEventListener("submit", () => { link.useToken($("token").value.trim()); $("token").value = ""; });

let jogging = null;

function jog(joint, slider) {
  const share = Number(slider.value) / 100;
  link.send({ act: "jog", joint, share });
  if (jogging || !share) return;
  jogging = setInterval(() => link.send({ act: "jog", joint, share: Number(slider.value) / 100 }), JOG_MS);
}

function letGo(joint, slider) {
  clearInterval(jogging);
  jogging = null;
  slider.value = 0;
  link.send({ act: "jog", joint, share: 0 });
}

let toasting = null;

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => ($("toast").hidden = true), TOAST_MS);
}

// --- what is heard ---------------------------------------------------------------------------------------------

function setRobot(robot) {
  page.robot = robot;
  scene.setRobot(robot);
  $("notes").textContent = [...(scene.works ? [] : ["this browser has no WebGL: no arm is drawn"]), ...robot.notes].join(" · ");
  $("legend").hidden = !robot.links.length;
  document.title = `${robot.name} – vla_ros`;
  page.rows = robot.joints.map(makeJoint);
  $("joints").replaceChildren(...page.rows.map((row) => row.element));
  page.cameras = robot.cameras.map((camera, i) => page.cameras[i]?.name === camera.name ? page.cameras[i] : makeCamera(camera));
  $("cameras").replaceChildren(...page.cameras.map((camera) => camera.element));
}

function makeCamera(camera) {
  const element = make("div", "camera"), canvas = make("canvas"), label = make("span");
  element.style.aspectRatio = `${camera.width} / ${camera.height}`;
  label.textContent = camera.name;
  element.append(canvas, label);
  return { ...camera, element, canvas, label, heardAt: -Infinity };
}

function makeJoint(joint) {
  const element = make("div", "joint"), name = make("b"), bar = make("div", "bar"), value = make("output");
  const command = make("i", "cmd"), is = make("i", "is"), slider = make("input");
  name.textContent = name.title = joint.name;
  bar.title = `${joint.lower} to ${joint.upper}`;
  bar.append(command, is);
  Object.assign(slider, { type: "range", min: -100, max: 100, value: 0, hidden: true });
  slider.setAttribute("aria-label", `jog ${joint.name}`);
  slider.addEventListener("input", () => jog(joint.name, slider));
  for (const end of ["pointerup", "pointercancel", "blur", "keyup"]) slider.addEventListener(end, () => letGo(joint.name, slider));
  element.append(name, bar, value, slider);
  return { element, value, command, is, slider, joint };
}

async function showPicture(data) {
  const head = new DataView(data);
  if (head.getUint8(0) !== PICTURE) return;
  const camera = page.cameras[head.getUint8(1)];
  if (!camera) return;
  camera.heardAt = performance.now();
  const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 12)], { type: "image/jpeg" }));
  camera.canvas.width = bitmap.width;
  camera.canvas.height = bitmap.height;
  camera.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function showPose(pose) {
  if (pose.mode !== page.pose?.mode) page.chunk = null;  // of another drive
  page.pose = pose;
  page.offset = pose.t - Date.now() / 1000;
  document.body.dataset.mode = pose.mode;
  $("mode").textContent = pose.mode || "no policy node";
  const plan = pose.mode === "POLICY" && page.chunk ? page.chunk.points : NO_PLAN;
  scene.setPlan(plan);
  scene.setJoints(pose.joints, pose.command);
  for (const [i, row] of (page.rows || []).entries()) {
    const { lower, upper } = row.joint, share = (value) => `${(100 * (value - lower)) / (upper - lower)}%`;
    row.element.classList.toggle("old", !pose.joints);
    place(row.command, pose.command?.[i], share);
    if (!pose.joints) continue;
    place(row.is, pose.joints[i], share);
    row.value.textContent = pose.joints[i]?.toFixed(3) ?? "–";
  }
  plots.age.budget = pose.mode === "POLICY" && page.chunk ? 1000 * page.chunk.lasts : null;
  for (const [name, value] of [["age", pose.age_ms], ["answer", pose.answer_ms], ["period", pose.period_ms]]) {
    plots[name].add(pose.t, value);
    if (value !== null) $(name).textContent = `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`;
  }
  showStop();
}

function place(mark, value, share) {
  mark.hidden = value === null || value === undefined;
  if (!mark.hidden) mark.style.left = share(value);
}

function showBoard(board) {
  page.board = board;
  $("driver").textContent = board.mode === "ESTOP" ? "stopped" : board.driver === "nobody" ? "nobody drives" : `${board.driver} drives`;
  $("why").textContent = board.why;
  const viewers = board.viewers === 1 ? "1 viewer" : `${board.viewers} viewers`;
  $("robot").replaceChildren(...[page.robot?.name || "", viewers, page.you.may_act ? `you: ${page.you.origin}` : "you may look and stop"]
    .map((line) => Object.assign(make("div"), { textContent: line })));
  $("task").replaceChildren(bdi(board.task || "none yet"));
  fill($("recent"), board.tasks.slice(1), (task) => {
    const button = make("button");
    button.type = "button";
    button.append(bdi(task));
    button.disabled = !page.you.may_act;
    button.addEventListener("click", () => link.send({ act: "instruct", text: task }));
    return button;
  });
  fill($("fault-list"), board.faults, (fault) => {
    const item = make("li", fault.until === null ? "open" : "past");
    const until = fault.until === null ? "" : ` – ${clock(fault.until)}`;
    item.append(time(`${clock(fault.since)}${until}`), bdi(fault.line));
    return item;
  });
  if (!board.faults.length) $("fault-list").replaceChildren(Object.assign(make("li", "none"), { textContent: "none since this page's node began" }));
  fill($("act-list"), board.acts, (act) => {
    const item = make("li"), who = make("span", "who");
    who.textContent = act.who;
    item.append(time(clock(act.at)), who, bdi(act.text));
    return item;
  });
  plots.period.budget = board.stages.control_period?.budget ?? null;
  showStages(board.stages);
  showRights();
}

function showRights() {
  const { board, you } = page, isMine = Boolean(board?.jogger) && board.jogger === you.origin;
  for (const element of document.querySelectorAll("#say *, [data-act], [data-mark]")) element.disabled = !you.may_act;
  if (!board) return;
  const set = (act, isPossible) => { document.querySelector(`[data-act=${act}]`).disabled ||= !isPossible; };
  set("reset", board.mode === "ESTOP");
  set("engage", board.mode !== "ESTOP");
  set("takeover", board.mode !== "ESTOP" && board.can_jog && !isMine);
  $("marks").hidden = !board.recorded && !board.episode;
  $("recording").textContent = board.episode ? "an episode is under way" : "recording";
  for (const button of document.querySelectorAll("[data-mark]"))
    button.disabled ||= board.episode === (button.dataset.mark === "start");
  $("jog-hint").textContent = isMine ? "hold a slider: it moves while you do" : "rad or m; white: measured, orange: commanded";
  for (const row of page.rows || []) row.slider.hidden = !(isMine && row.joint.driven);
}

function showStages(stages) {
  const shown = STAGES.filter((name) => stages[name]), top = Math.max(1, ...shown.flatMap((name) => [stages[name].p99 || 0, stages[name].budget || 0]));
  fill($("stages"), shown, (name) => {
    const { p50 = 0, p99 = 0, budget } = stages[name], row = make("div", budget && p99 > budget ? "stage over" : "stage");
    const label = make("span"), bar = make("div"), value = make("output"), widths = [p99, p50];
    label.textContent = name.replace("_", " ");
    for (const width of widths) bar.append(Object.assign(make("i"), {})), (bar.lastChild.style.width = `${(100 * width) / top}%`);
    if (budget) bar.append(make("u")), (bar.lastChild.style.left = `${(100 * budget) / top}%`);
    value.textContent = `${p50.toFixed(1)} · ${p99.toFixed(1)}`;
    row.append(label, bar, value);
    return row;
  }, JSON.stringify(stages));
}

// --- small parts -----------------------------------------------------------------------------------------------

function make(tag, kind = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  return element;
}

/** Text whose direction is its own, whatever stands beside it. */
function bdi(text) {
  return Object.assign(make("bdi"), { textContent: text, dir: "auto" });
}

function time(text) {
  return Object.assign(make("time"), { textContent: text });
}

/** Made anew where the items are others than before. */
function fill(parent, items, makeItem, key = JSON.stringify(items)) {
  key += page.you.may_act;
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  parent.replaceChildren(...items.map(makeItem));
}

function clock(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString("en-GB");
}

function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds)), two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  return `${hours ? `${hours}:${two(Math.floor(whole / 60) % 60)}` : Math.floor(whole / 60)}:${two(whole % 60)}`;
}

setInterval(() => {
  const { board } = page, now = Date.now() / 1000 + page.offset;
  if (board?.since) $("since").textContent = `for ${board.known ? "" : "more than "}${duration(now - board.since)}`;
  for (const camera of page.cameras) {
    const age = (performance.now() - camera.heardAt) / 1000;
    camera.element.classList.toggle("old", age > STALE_S);
    camera.label.textContent = age < STALE_S ? camera.name : Number.isFinite(age) ? `${camera.name}: nothing for ${duration(age)}` : `${camera.name}: no picture yet`;
  }
  for (const plot of Object.values(plots)) plot.draw(now);
}, 250);
