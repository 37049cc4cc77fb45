"use strict";
// Asks the service that sent this page, and nobody else. What it answers is shown as text, never as markup.
const TOKEN = "peftu-token";
const OFFERED = 12; // people who can be ticked before anybody is typed
const CROWD = 2000; // people at most of whom all are asked for an average
const SHOWN = 6; // labels of a task with many
const PATIENCE = 600_000; // milliseconds that a training is waited for
const byId = (id) => document.getElementById(id);
const here = { served: null, method: null, total: null, input: null, taught: new Map() };

class Refused extends Error {
  constructor(status, message, unknown = []) {
    super(message);
    Object.assign(this, { status, unknown });
  }
}

async function ask(method, path, body) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...(body && { "Content-Type": "application/json" }) };
  const sent = { method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit" };
  const answer = await fetch(path, sent).catch(() => {
    throw new Refused(0, "the service does not answer — see whether it runs");
  });
  const content = await answer.json().catch(() => null);
  if (answer.ok && content) return { ...content, request: answer.headers.get("x-request-id") };
  const error = content?.error ?? {};
  throw new Refused(answer.status, error.message ?? `the service answered ${answer.status}`, error.unknown_users);
}

const pathOf = (user) => `v1/users/${encodeURIComponent(user)}`;
const may = (scope) => here.served.scopes.includes(scope);
const bound = (user) => here.served.users?.includes(user) ?? false;
const mayDelete = (user) => may("write") && bound(user) || may("admin") && (here.served.users === null || bound(user));

// --- words ---------------------------------------------------------------------------------------------------------

function percent(chance) {
  const whole = Math.round(100 * chance);
  return `${chance > 0 && !whole ? "<1" : chance < 1 && whole === 100 ? ">99" : whole}\u202f%`;
}
const points = (gap) => `${Math.abs(gap)} ${Math.abs(gap) === 1 ? "point" : "points"}`;
const gapOf = (chance, other) => Math.round(100 * (chance - other));
const named = (labels) => labels.join(" + ") || "no label";
const short = (digest) => (digest.length > 24 ? `${digest.slice(0, 20)}…` : digest);
const most = (labels, size) => labels.reduce((best, label) => (size(label) > size(best) ? label : best));

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function lines(list, entries) {
  list.replaceChildren(
    ...entries.filter(Boolean).map(([term, words]) => make("div", {}, make("dt", {}, term), make("dd", {}, words))),
  );
}

function show(section, focused) {
  section.hidden = false;
  if (!focused) return;
  focused.focus({ preventScroll: true });
  section.scrollIntoView({ block: "nearest" });
}

// --- whoever asks, and what is served ------------------------------------------------------------------------------

async function begin() {
  byId("stopped").textContent = "";
  try {
    here.served = await ask("GET", "v1/methods");
  } catch (error) {
    const token = sessionStorage.getItem(TOKEN);
    if (error.status !== 401 && !(error.status === 403 && token)) {
      byId("stopped").textContent = error.message;
      return;
    }
    sessionStorage.removeItem(TOKEN);
    enter(token ? error.message : "");
    return;
  }
  byId("entry").hidden = true;
  byId("leave").hidden = !sessionStorage.getItem(TOKEN);
  const methods = here.served.methods.filter((one) => one.personal && one.kind !== "text");
  byId("free").hidden = methods.length > 0;
  if (!methods.length) return;
  byId("method").replaceChildren(...methods.map((one) => make("option", {}, one.method)));
  byId("choice").hidden = methods.length === 1;
  byId("method").value = (methods.find((one) => one.method === here.served.default) ?? methods[0]).method;
  await choose();
  byId("ask").hidden = false;
}

function enter(message) {
  for (const id of ["ask", "teach", "answers", "change", "receipt", "free", "leave"]) byId(id).hidden = true;
  byId("entry").hidden = false;
  byId("entry").querySelector(".problem").textContent = message;
  byId("token").focus();
}

async function choose() {
  const name = byId("method").value;
  here.method = here.served.methods.find((one) => one.method === name);
  byId("served").textContent = `Small personal modules on a frozen language model: ${here.method.task}, by ${name}.`;
  for (const id of ["answers", "change"]) byId(id).hidden = true;
  here.taught.clear();
  byId("labels").replaceChildren(
    ...here.method.labels.map((label) =>
      make("label", {}, make("input", { type: severalHold() ? "checkbox" : "radio", name: "label", value: label }), label),
    ),
  );
  await list();
  byId("teach").hidden = !may("write");
}

const severalHold = () => here.method.kind === "multi";

// Offers the first people by key, where the token may see them; who was ticked stays so.
async function list() {
  const ticked = chosen();
  let users = [];
  here.total = null;
  byId("count").textContent = "This token may not list people: type their keys.";
  if (may("admin") || here.served.users) {
    const known = await ask("GET", `v1/users?limit=100&method=${encodeURIComponent(here.method.method)}`);
    users = known.users;
    here.total = known.total;
    byId("count").textContent = `${known.total.toLocaleString("en")} ${known.total === 1 ? "person has" : "people have"} a module here.`;
  }
  byId("known").replaceChildren(...users.map((user) => make("option", { value: user })));
  byId("people").replaceChildren();
  for (const user of new Set([...users.slice(0, OFFERED), ...ticked])) {
    pill(user, ticked.length ? ticked.includes(user) : byId("people").children.length < 2);
  }
  pupils();
}

const boxes = () => [...byId("people").querySelectorAll("input")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

function pill(user, checked) {
  const box = make("input", { type: "checkbox", value: user, change: pupils });
  box.checked = checked;
  byId("people").append(make("li", {}, make("label", {}, box, user)));
}

function addTyped() {
  const user = byId("person").value;
  byId("person").value = "";
  if (!user) return;
  const box = boxes().find((one) => one.value === user);
  if (box) box.checked = true;
  else pill(user, true);
  pupils();
}

function pupils() {
  const before = byId("pupil").value;
  const users = chosen();
  byId("pupil").replaceChildren(...users.map((user) => make("option", { value: user }, user)));
  if (users.includes(before)) byId("pupil").value = before;
  examples();
}

// --- answers -------------------------------------------------------------------------------------------------------

// Runs what a form is for: one thing at a time, with a word on how it goes, or in one line why it does not.
async function doing(form, word, work) {
  const button = form.querySelector("button.main");
  const status = form.querySelector("[role=status]");
  const problem = form.querySelector(".problem");
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  problem.textContent = "";
  status.textContent = word;
  try {
    await work(status);
  } catch (error) {
    if (error.status === 401) enter(error.message);
    else problem.textContent = error.message;
    if (!(error instanceof Refused)) throw error;
  } finally {
    button.ariaDisabled = "false";
    status.textContent = "";
  }
}

// Returns person -> answer to a text; whoever has no module here is not among them.
async function predictions(users, input) {
  let asked = users;
  while (asked.length) {
    try {
      const { results } = await ask("POST", "v1/predict", { users: asked, inputs: [input], method: here.method.method });
      return new Map(results.map((one) => [one.user, { module: one.module, ...one.answers[0] }]));
    } catch (error) {
      if (error.status !== 404 || !error.unknown?.length) throw error;
      asked = asked.filter((_, place) => !error.unknown.includes(place));
    }
  }
  return new Map();
}

// Returns what the crowd is here, and its probabilities where there is one.
async function crowdOf(input, users) {
  const { method, labels, everyone } = here.method;
  try {
    if (here.served.users === null && (here.total ?? 0) <= CROWD) {
      const ranked = await ask("POST", "v1/rank", { input, label: labels[0], method, top: 1 });
      return { words: `mean of all ${ranked.users.toLocaleString("en")} people`, chances: ranked.mean };
    }
    if (everyone) {
      const { results } = await ask("POST", "v1/predict", { users: [users[0]], inputs: [input], method: everyone });
      return { words: `the module trained on everyone, ${everyone}`, chances: results[0].answers[0].probabilities };
    }
  } catch (error) {
    return { words: error.message, chances: null };
  }
  return { words: "this token sees nobody else", chances: null };
}

function typed() {
  const [text, context] = [byId("text").value, byId("context").value];
  return context ? { text, context } : { text };
}

async function answer(focused, input = typed()) {
  addTyped();
  const users = chosen();
  if (!users.length) throw new Refused(0, "nobody is chosen — tick a person, or type a key");
  const answers = await predictions(users, input);
  const crowd = await crowdOf(input, users);
  here.input = input;
  if (focused && !byId("example").value) byId("example").value = input.text;
  byId("headline").textContent = headline(answers);
  lines(byId("lines"), verdict(users, answers, crowd));
  keys(crowd);
  const order = ordered([...answers.values()].map((one) => one.probabilities), crowd);
  byId("cards").replaceChildren(...users.map((user) => card(user, answers.get(user), crowd, order)));
  show(byId("answers"), focused ? byId("headline") : null);
}

function headline(answers) {
  const groups = Map.groupBy(answers.keys(), (user) => named(answers.get(user).labels));
  const [first] = groups.keys();
  if (!answers.size) return "Nobody here has a module";
  if (answers.size === 1) return `${[...answers.keys()][0]}: ${first}`;
  if (groups.size === 1) return `${answers.size === 2 ? "Both" : `All ${answers.size}`} agree: ${first}`;
  const parts = [...groups].map(([label, users]) => `${label} (${users.length > 3 ? users.length : users.join(", ")})`);
  return `They disagree: ${parts.join(", ")}`;
}

function verdict(users, answers, { words, chances }) {
  const { labels } = here.method;
  const entries = [...answers];
  const chance = (label) => entries.map(([, one]) => one.probabilities[label]);
  const spread = (label) => gapOf(Math.max(...chance(label)), Math.min(...chance(label)));
  const found = [];
  if (entries.length > 1) {
    const label = most(labels, spread);
    const ranked = entries.toSorted(([, a], [, b]) => b.probabilities[label] - a.probabilities[label]);
    found.push(["Furthest apart", `${ranked[0][0]} and ${ranked.at(-1)[0]}: ${points(spread(label))} on ${label}`]);
  }
  if (chances) {
    const top = labels.toSorted((a, b) => chances[b] - chances[a]).slice(0, 3);
    found.push(["The crowd", `${top.map((label) => `${label} ${percent(chances[label])}`).join(", ")} (${words})`]);
    const far = entries.map(([user, one]) => [user, ...offCrowd(one, chances)]);
    far.sort(([, , a], [, , b]) => Math.abs(b) - Math.abs(a));
    if (far.length) found.push(["Furthest from it", `${far[0][0]}: ${beside(far[0][1], far[0][2])}`]);
  } else {
    found.push(["The crowd", `not to be had: ${words}`]);
  }
  const lacking = users.filter((user) => !answers.has(user));
  if (lacking.length) found.push(["No module", lacking.join(", ")]);
  return found;
}

// Returns the label on which an answer is furthest from the crowd, and by how many points.
function offCrowd(one, chances) {
  const off = (label) => gapOf(one.probabilities[label], chances[label]);
  const label = most(here.method.labels, (name) => Math.abs(off(name)));
  return [label, off(label)];
}
const beside = (label, gap) =>
  gap ? `${label} ${points(gap)} ${gap > 0 ? "above" : "below"} the crowd` : "as the crowd";

function keys({ words, chances }) {
  const own = make("span", {}, make("i", { class: "own" }), "this person");
  const crowd = make("span", {}, make("i", { class: "crowd" }), `the crowd: ${words}`);
  byId("keys").replaceChildren(own, ...(chances ? [crowd] : []));
}

// Returns the labels as every card shows them: as the task has them, or, of many, the likeliest first.
function ordered(answers, { chances }) {
  const { labels } = here.method;
  const chance = (label) => Math.max(...[...answers, ...(chances ? [chances] : [])].map((one) => one[label]));
  return labels.length > SHOWN ? labels.toSorted((a, b) => chance(b) - chance(a)) : labels;
}

function bars(one, { chances }, order) {
  const drawn = order.map((label) => {
    const own = make("i", { class: "own" });
    own.style.width = `${100 * one.probabilities[label]}%`;
    const track = make("span", { class: "track", "aria-hidden": "true" }, own);
    if (chances) {
      const mark = make("i", { class: "crowd" });
      mark.style.left = `${100 * chances[label]}%`;
      track.append(mark);
    }
    const given = one.labels.includes(label) ? "name given" : "name";
    return make("li", {}, make("span", { class: given }, label), percent(one.probabilities[label]), track);
  });
  const rest = drawn.splice(SHOWN);
  const listed = [make("ul", { class: "bars" }, ...drawn)];
  if (rest.length) {
    listed.push(make("details", {}, make("summary", {}, `${rest.length} more`), make("ul", { class: "bars" }, ...rest)));
  }
  return listed;
}

function caption(title, ...notes) {
  return make("figcaption", {}, make("strong", {}, title), ...notes.map((note) => make("span", {}, note)));
}

function card(user, one, crowd, order) {
  const buttons = [];
  if (may("write")) buttons.push(make("button", { type: "button", "aria-label": `Teach ${user}`, click: () => teach(user) }, "Teach"));
  if (!one) {
    const figure = make("figure", {}, caption(user, "No module here: nothing answers for them."));
    figure.append(make("p", { class: "row" }, ...buttons));
    return figure;
  }
  if (mayDelete(user)) {
    buttons.push(make("button", { type: "button", "aria-label": `Delete ${user}`, click: () => sure(user) }, "Delete…"));
  }
  const notes = [crowd.chances && beside(...offCrowd(one, crowd.chances)), `module ${short(one.module)}`];
  const figure = make("figure", {}, caption(`${user}: ${named(one.labels)}`, ...notes.filter(Boolean)));
  figure.append(...bars(one, crowd, order), make("p", { class: "row" }, ...buttons));
  return figure;
}

// --- teaching ------------------------------------------------------------------------------------------------------

function teach(user) {
  byId("pupil").value = user;
  examples();
  byId("example").focus();
}

function examples() {
  const user = byId("pupil").value;
  const taught = here.taught.get(user) ?? [];
  byId("examples").replaceChildren(
    ...taught.map(({ text, labels }, place) => {
      const removed = () => {
        taught.splice(place, 1);
        examples();
        byId("example").focus();
      };
      const button = make("button", { type: "button", "aria-label": `Remove example ${place + 1}`, click: removed }, "Remove");
      return make("li", {}, `${text} `, make("strong", {}, named(labels)), button);
    }),
  );
}

// Takes what is typed into the list; nothing typed is no mistake where the list has something already.
function takeExample() {
  const ticked = [...byId("labels").querySelectorAll(":checked")];
  const [user, text, labels] = [byId("pupil").value, byId("example").value, ticked.map((box) => box.value)];
  const taught = here.taught.get(user) ?? [];
  if (!user) throw new Refused(0, "nobody is chosen — tick a person above, or type a key");
  if (!labels.length && taught.length) return taught;
  if (!text || !labels.length) throw new Refused(0, `${text ? "the label" : "the text"} is missing — an example has both`);
  taught.push({ text, labels });
  here.taught.set(user, taught);
  byId("example").value = "";
  for (const box of ticked) box.checked = false;
  examples();
  return taught;
}

async function train(status) {
  const taught = takeExample();
  const user = byId("pupil").value;
  const input = here.input ?? { text: taught.at(-1).text };
  const before = (await predictions([user], input)).get(user);
  const replace = byId("replace").checked;
  await ask("PUT", `${pathOf(user)}/examples`, { examples: taught, method: here.method.method, ...(replace && { replace }) });
  const enrolment = await swapped(user, before?.module, status);
  const after = (await predictions([user], input)).get(user);
  if (!after) throw new Refused(0, "the module is gone again — somebody deleted the person");
  here.taught.delete(user); // the service has them now
  byId("replace").checked = false;
  await list();
  if (!byId("answers").hidden) await answer(false, here.input);
  const crowd = await crowdOf(input, [user]);
  changed(user, input, before, after, crowd, { taught, replace, enrolment });
}

// Returns how the training ended, once its module answers.
async function swapped(user, before, status) {
  const end = Date.now() + PATIENCE;
  let [pause, same] = [150, 0];
  while (Date.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(1000, 1.3 * pause);
    const now = await ask("GET", pathOf(user)).catch((error) => {
      if (error.status === 404 || error.status === 429) return { modules: {} }; // not there yet, or not now
      throw error;
    });
    const state = now.enrolment?.state;
    const module = now.modules[here.method.method];
    if (state === "failed" || state === "cancelled") throw new Refused(0, now.enrolment.error ?? `the training was ${state}`);
    if (state === "queued" || state === "running") status.textContent = state === "queued" ? "Waits for its turn …" : "Trains …";
    else if (module && module !== before) return now.enrolment;
    else if (state === "done" && ++same > 4) return now.enrolment; // the same list makes the same module
  }
  throw new Refused(0, "the training takes long — ask again later");
}

function changed(user, input, before, after, crowd, { taught, replace, enrolment }) {
  const shown = [before, after].filter(Boolean);
  const order = ordered(shown.map((one) => one.probabilities), crowd);
  const label = before
    ? most(order, (name) => Math.abs(after.probabilities[name] - before.probabilities[name]))
    : most(order, (name) => after.probabilities[name]);
  const [was, now] = [before, after].map((one) => one && percent(one.probabilities[label]));
  const seconds = enrolment?.seconds ? `, ${enrolment.seconds.toFixed(1)} s` : "";
  byId("changed").textContent = !before
    ? `${user} has a module now: ${label} ${now}`
    : before.module === after.module
      ? `${user}'s module came out as it was`
      : was === now
        ? `${user}'s module changed, and answers this as before`
        : `${user}'s module changed: ${label} ${was} → ${now}`;
  lines(byId("change-lines"), [
    ["Asked about", input.text.length > 300 ? `${input.text.slice(0, 300)}…` : input.text],
    ["Trained on", `${taught.length} ${before && !replace ? "more " : ""}${taught.length === 1 ? "example" : "examples"}${replace ? " alone" : ""}${seconds}`],
    ["Module", shown.map((one) => short(one.module)).join(" → ")],
  ]);
  const sides = [["Before", before, "before"], ["After", after, "after"]].map(([title, one, name]) => {
    const figure = make("figure", { class: name });
    figure.append(caption(`${title}: ${one ? named(one.labels) : "no module"}`), ...(one ? bars(one, crowd, order) : []));
    return figure;
  });
  byId("sides").replaceChildren(...sides);
  show(byId("change"), byId("changed"));
}

// --- deleting ------------------------------------------------------------------------------------------------------

function sure(user) {
  byId("sure-title").textContent = `Delete ${user} for good?`;
  byId("delete").onclick = () => {
    byId("sure").close();
    forget(user);
  };
  byId("sure").showModal();
}

async function forget(user) {
  const receipt = await ask("DELETE", pathOf(user)).catch((error) => error);
  if (receipt.status === 401) return enter(receipt.message);
  if (receipt instanceof Error) {
    byId("deleted").textContent = `${user}: the deletion is not confirmed`;
    lines(byId("deletion"), [["Why", receipt.message]]);
    return show(byId("receipt"), byId("deleted"));
  }
  const kept = receipt.remains.map((line) => make("li", {}, line.replace(/^remains: /, "")));
  byId("deleted").textContent = `${user} is deleted`;
  lines(byId("deletion"), [
    ["Deleted", Object.entries(receipt.deleted).map(([what, count]) => `${what.replaceAll("_", " ")}: ${count}`).join(", ")],
    kept.length && ["Besides", make("ul", {}, ...kept)],
    ["Receipt", `${new Date().toISOString()}, request ${receipt.request}`],
  ]);
  here.taught.delete(user);
  for (const box of boxes()) if (box.value === user) box.closest("li").remove();
  for (const id of ["answers", "change"]) byId(id).hidden = true;
  show(byId("receipt"), byId("deleted"));
  return doing(byId("ask"), "", async () => {
    await list();
    if (here.input && chosen().length) await answer(false, here.input);
  });
}

// --- events --------------------------------------------------------------------------------------------------------

function on(id, event, work) {
  byId(id).addEventListener(event, (happened) => {
    if (event === "submit") happened.preventDefault();
    work(happened);
  });
}
on("entry", "submit", () => {
  byId("entry").querySelector(".problem").textContent = "";
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  begin();
});
on("leave", "click", () => {
  sessionStorage.removeItem(TOKEN);
  location.reload();
});
on("method", "change", () => doing(byId("ask"), "", choose));
on("add-person", "click", addTyped);
on("person", "keydown", (pressed) => {
  if (pressed.key !== "Enter" || !byId("person").value) return;
  pressed.preventDefault();
  addTyped();
});
on("ask", "submit", () => doing(byId("ask"), "Asks …", () => answer(true)));
on("pupil", "change", examples);
on("add-example", "click", () => doing(byId("teach"), "", async () => takeExample()));
on("teach", "submit", () => doing(byId("teach"), "Asks …", train));
on("keep", "click", () => byId("sure").close());
begin();
