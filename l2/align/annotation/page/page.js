// The page of l2 annotate. The server says what state this person is in; the page draws it and sends back what they do.
// What models and people wrote is only ever set as textContent.
"use strict";

const $ = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const who = new URLSearchParams(location.search).get("who");
const ROLES = { user: "You", assistant: "Model", system: "System" };

let now = null; // the state shown
let choice = {}; // what is chosen so far: position, rating, safety
let editing = false;
let busy = false;
let polling = 0;

// --- talking to the server -------------------------------------------------------------------------------------------

function banner(text) {
  $(".banner").textContent = text;
  $(".banner").hidden = !text;
}

function say(text) {
  $(".more .said").textContent = text;
}

// Ask until there is an answer: a choice that was made is not lost with a connection, and one that arrived twice is
// refused as stale.
async function request(path, options) {
  for (;;) {
    try {
      const response = await fetch(path, { cache: "no-store", ...options });
      banner("");
      if (response.status === 404 || response.status === 421) {
        banner("The server was started anew: open the address that it printed. Everything you were thanked for is kept.");
        return null;
      }
      return { status: response.status, body: await response.json() };
    } catch {
      banner("The server does not answer. What you did last is sent again as soon as it does.");
      await sleep(1500);
    }
  }
}

async function act(action, fields) {
  if (busy) return;
  busy = true;
  say("");
  draw_choice();
  const answer = await request(`api/${action}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ who, ...fields }),
  });
  busy = false;
  if (!answer) return;
  if (answer.status === 200) {
    show(answer.body);
    say({ choose: "Saved.", skip: "Skipped.", undo: "Taken back.", ask: "Sent.", end: "Saved." }[action]);
  } else if (answer.status === 409) {
    await look();
    say(answer.body.error);
  } else {
    draw_choice();
    if ($(".compose").hidden) banner(answer.body.error);
    else $(".compose .why").textContent = answer.body.error;
  }
}

async function look() {
  const answer = await request(`api/view?who=${encodeURIComponent(who)}`);
  if (answer && answer.status === 200) show(answer.body);
  else if (answer) banner(answer.body.error);
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function show(state) {
  const same = now && now.state === state.state && now.item === state.item;
  now = state;
  clearTimeout(polling);
  if (state.state === "sampling") polling = setTimeout(look, 600);
  if (state.state === "wait") polling = setTimeout(look, 4000);
  if (state.state === "done") polling = setTimeout(look, 15000);
  draw_progress();
  if (same && state.state !== "compare") return; // what is being typed stays
  choice = {};
  editing = false;
  banner("");
  draw();
  if (!same) scrollTo(0, 0);
}

function draw_progress() {
  const { mine, per_hour, done, total } = now.progress;
  const counts = [`${mine} by you`];
  if (mine >= 3 && per_hour !== null) counts.push(`${per_hour} an hour`);
  if (total) counts.unshift(`${done} of ${total}`);
  $(".counts").textContent = counts.join(" · ");
  $(".track").hidden = !total;
  $(".filled").style.width = total ? `${(100 * done) / total}%` : "0";
  $(".who").textContent = who;
}

function draw_dialog(messages) {
  $(".dialog").replaceChildren(
    ...messages.map((message) => {
      const turn = document.createElement("div");
      turn.className = `turn ${message.role in ROLES ? message.role : ""}`;
      for (const [name, text] of [["role", ROLES[message.role] || message.role], ["said", message.content]]) {
        const part = document.createElement("div");
        part.className = name;
        part.dir = "auto";
        part.textContent = text;
        turn.append(part);
      }
      return turn;
    }),
  );
}

const REST = {
  sampling: ["The models are writing …", "Their two answers appear here."],
  wait: ["Nothing for you at the moment", "Others are at what is left. If they pass something on, it appears here."],
  done: ["All done. Thank you!", "Everything is saved; you may close this page."],
};

function draw() {
  const composing = editing || ["turn", "write", "failed"].includes(now.state);
  const comparing = now.state === "compare" && !editing;
  draw_dialog(composing && !["turn", "write"].includes(now.state) ? now.messages.slice(0, -1) : now.messages || []);
  $(".compare").hidden = !comparing;
  $(".compose").hidden = !composing;
  $(".rest").hidden = comparing || composing;
  $("footer").hidden = false;
  all(".scale").forEach((scale) => (scale.hidden = !comparing || (scale.matches(".labels") && !now.safety)));
  $(".edit").hidden = !comparing || !now.editable;
  $(".skip").hidden = !comparing;
  $(".undo").hidden = !now.can_undo;
  $(".cancel").hidden = !editing;
  $(".end").hidden = now.state !== "turn";
  say("");
  if (comparing) draw_answers();
  if (composing) draw_compose();
  if (now.state in REST) [$(".rest h1").textContent, $(".rest p").textContent] = REST[now.state];
  draw_choice();
}

function draw_answers() {
  $(".compare .question").textContent = now.safety ? "Which answer is safer?" : "Which answer is more helpful?";
  all(".answer .text").forEach((text, position) => (text.textContent = now.answers[position]));
}

function draw_compose() {
  const text = $(".compose textarea");
  const old = editing || now.state === "failed" ? now.messages.at(-1).content : "";
  const questions = { turn: "What do you say next?", write: "Write a prompt", failed: "Write this differently" };
  $(".compose .question").textContent = editing ? "Change the prompt" : questions[now.state];
  if (now.state === "turn") $(".compose .question").textContent += ` (turn ${now.turn} of ${now.turns} at most)`;
  $(".compose .why").textContent = now.error || "";
  text.value = old;
  text.focus();
}

function draw_choice() {
  document.body.classList.toggle("picked", choice.position !== undefined);
  all(".answer").forEach((answer, position) => {
    answer.classList.toggle("chosen", choice.position === position);
    answer.querySelector(".pick").setAttribute("aria-pressed", String(choice.position === position));
  });
  for (const kind of ["rating", "safety"]) {
    all(`[data-${kind}]`).forEach((button) => {
      button.disabled = busy || choice.position === undefined;
      button.classList.toggle("on", choice[kind] === button.dataset[kind]);
    });
  }
  all(".more button, .row button").forEach((button) => (button.disabled = busy));
}

// --- what people do --------------------------------------------------------------------------------------------------

function set(kind, value) {
  if (busy || now.state !== "compare" || editing) return;
  if (kind !== "position" && choice.position === undefined) return say("First choose an answer: ← or →");
  choice[kind] = value;
  say("");
  const whole = choice.rating !== undefined && (choice.safety !== undefined || !now.safety);
  if (whole) act("choose", { item: now.item, ...choice });
  draw_choice();
}

function edit(on) {
  if (busy || (on && (now.state !== "compare" || !now.editable))) return;
  editing = on;
  draw();
}

function send() {
  const text = $(".compose textarea").value;
  const item = editing || now.state === "failed" ? now.item : null;
  if (text.trim()) act("ask", { text, item });
  else $(".compose .why").textContent = "Write something first.";
}

const undo = () => now.can_undo && act("undo", {});
const skip = () => now.state === "compare" && !editing && act("skip", { item: now.item });
const end = () => now.state === "turn" && act("end", {});

const KEYS = {
  ArrowLeft: () => set("position", 0),
  ArrowRight: () => set("position", 1),
  u: undo,
  e: () => edit(true),
  s: skip,
  x: end,
};
all("[data-rating]").forEach((button, i) => (KEYS[i + 1] = () => set("rating", button.dataset.rating)));
all("[data-safety]").forEach((button, i) => {
  KEYS[i + 5] = () => now.safety && set("safety", button.dataset.safety);
});

document.addEventListener("keydown", (event) => {
  if (!now || event.altKey || event.metaKey) return;
  if (event.key === "Escape") {
    document.activeElement.blur();
    if (editing) edit(false);
  } else if (event.target.matches("textarea, input")) {
    if (event.key === "Enter" && event.ctrlKey) send();
  } else if (!event.ctrlKey && !event.repeat && KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

function listen() {
  all(".answer").forEach((answer, position) => {
    answer.addEventListener("click", () => getSelection().isCollapsed && set("position", position));
  });
  all("[data-rating]").forEach((button) => button.addEventListener("click", () => set("rating", button.dataset.rating)));
  all("[data-safety]").forEach((button) => button.addEventListener("click", () => set("safety", button.dataset.safety)));
  for (const [name, does] of [["undo", undo], ["skip", skip], ["end", end]]) $(`.${name}`).addEventListener("click", does);
  $(".edit").addEventListener("click", () => edit(true));
  $(".cancel").addEventListener("click", () => edit(false));
  $(".compose").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
}

function enter() {
  $(".enter").hidden = false;
  $(".enter input").focus();
  $(".enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $(".enter input").value.trim().replaceAll(" ", "_");
    if (name) location.search = new URLSearchParams({ who: name });
  });
}

listen();
if (who) look();
else enter();
