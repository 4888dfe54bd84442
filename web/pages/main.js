// The page: who looks, at which partition, and the parts that show it.
import { API } from "./api.js";
import { attribute, byId, duration, h, text } from "./dom.js";
import { Detail } from "./detail.js";
import { Live } from "./live.js";
import { Machines } from "./machines.js";
import { alphabetic, Model } from "./model.js";
import { Topology } from "./topology.js";

const kept = "ingot.token"; // in the storage of this tab

const model = new Model();
let api = null, live = null, timer = null;
model.now = () => Date.now() + (api?.skew ?? 0);

const machines = new Machines(model, (uuid) => look({ machine: uuid }));
const topology = new Topology(model, (uuid) => look({ machine: uuid }));
const detail = new Detail(model, () => {
  const uuid = detail.uuid;
  look({ machine: "" });
  document.querySelector(`#rows tr[data-uuid="${CSS.escape(uuid)}"] button`)?.focus();
});

// The address says what is looked at: #partition=p1&machine=uuid. A token in
// it is taken out before anything else happens.
const place = () => new URLSearchParams(location.hash.slice(1));

function takeToken() {
  const at = place(), token = at.get("token");
  if (token === null) return;
  at.delete("token");
  const rest = at.toString();
  history.replaceState(null, "", location.pathname + location.search + (rest ? "#" + rest : ""));
  sessionStorage.setItem(kept, token.trim());
}

function look(to) {
  const at = place();
  for (const [k, v] of Object.entries(to)) v ? at.set(k, v) : at.delete(k);
  const hash = at.toString();
  if (hash === location.hash.slice(1)) return arrive(true);
  history.pushState(null, "", location.pathname + location.search + (hash ? "#" + hash : ""));
  arrive(true);
}

// arrive shows what the address says.
function arrive(focus) {
  if (!api) return;
  const at = place(), uuid = at.get("machine") ?? "";
  const partition = byId("partition");
  const want = [...partition.options].some((o) => o.value === at.get("partition")) ? at.get("partition") : partition.options[0]?.value;
  if (want && want !== live?.partition) follow(want);
  machines.select(uuid);
  topology.select(uuid);
  document.body.classList.toggle("chosen", uuid !== "");
  uuid ? detail.open(api, uuid, focus) : detail.hide();
}

// door asks for a token, and says why.
function door(why) {
  stop();
  sessionStorage.removeItem(kept);
  text(byId("door-why"), why);
  byId("door").hidden = false;
  for (const id of ["view", "search-field", "partition-choice", "forget", "stale"]) byId(id).hidden = true;
  document.body.classList.remove("chosen");
  byId("token").focus();
  pulse();
}

function stop() {
  live?.stop();
  clearInterval(timer);
  live = api = null;
  model.reset("");
  model.only(new Set());
  detail.hide();
}

const remedies = {
  unauthenticated: "Make another with: ingot web",
  permission_denied: "The page needs a token that may look at the whole cloud, as ingot web makes it.",
};

function refused(e) {
  door(capital(e.message) + ". " + (remedies[e.code] ?? ""));
}

// enter looks with a token.
async function enter(token) {
  stop();
  // A header takes visible ASCII only; nothing else was ever a token.
  if (!/^[\x21-\x7e]+$/.test(token)) return door("This is no token. " + remedies.unauthenticated);
  const mine = (api = new API(token));
  byId("door").hidden = true;
  byId("view").hidden = byId("forget").hidden = byId("search-field").hidden = false;
  timer = setInterval(tick, 1000);
  let partitions;
  for (let tries = 0; !partitions; tries++) {
    try {
      partitions = (await mine.call("metalstack.api.v2.PartitionService/List", {})).message.partitions ?? [];
    } catch (e) {
      if (api !== mine) return;
      if (e.code === "unauthenticated" || e.code === "permission_denied") return refused(e);
      text(byId("pulse-text"), "the API does not answer: " + e.message);
      await new Promise((done) => setTimeout(done, Math.min(10_000, 500 * 2 ** tries)));
    }
    if (api !== mine) return;
  }
  const ids = partitions.map((p) => p.id).sort(alphabetic);
  byId("partition").replaceChildren(...ids.map((id) => h("option", { value: id }, id)));
  byId("partition-choice").hidden = false;
  if (ids.length === 0) {
    text(byId("shown"), "There is no partition yet: ingot partition create");
    await new Promise((done) => setTimeout(done, 3000));
    return api === mine && enter(token);
  }
  arrive(false);
}

function follow(partition) {
  live?.stop();
  byId("partition").value = partition;
  document.title = partition + " · Ingot";
  live = new Live(api, model, {
    partition, ended: refused,
    watched: () => new Set([detail.uuid, ...machines.shown(), ...topology.shown()].filter(Boolean)),
  });
  live.run();
}

model.addEventListener("news", ({ detail: news }) => {
  if (!api) return;
  pulse();
  machines.show();
  topology.update(news, machines.matches());
  if (news.machines.has(detail.uuid)) detail.changed();
});
model.addEventListener("searched", () => topology.search(machines.matches()));

function tick() {
  pulse();
  machines.tick();
  topology.tick();
  detail.tick();
}

const quiet = 15_000; // ms; the stream gives a sign of life every 10 s

// pulse says whether what is shown is true now.
function pulse() {
  const at = Date.now(), age = at - (live?.heard ?? 0);
  const state = !live ? "off" : !live.heard ? (live.error ? "stale" : "wait") : live.error || age > quiet ? "stale" : "live";
  attribute(byId("pulse"), "data-state", state);
  document.body.classList.toggle("stale", state === "stale");
  if (!api) text(byId("pulse-text"), "not connected");
  if (!live) return;
  const stale = byId("stale");
  stale.hidden = state !== "stale";
  if (state === "live") return text(byId("pulse-text"), live.polls ? "polling" : "live");
  if (state === "wait") return text(byId("pulse-text"), "connecting …");
  text(byId("pulse-text"), "stale");
  const next = live.retryAt > at ? ` Next try in ${duration(live.retryAt - at + 999)}.` : " Trying again …";
  // Who listens hears once that and why, not every second how long.
  const why = !live.error || live.error.code === "unreachable" ? "the API does not answer" : "the API says: " + live.error.message;
  text(byId("stale-age"), live.heard ? `Last update ${duration(age)} ago; ` : "No update yet; ");
  text(byId("stale-why"), why + ".");
  text(byId("stale-next"), next);
}

const capital = (t) => t.charAt(0).toUpperCase() + t.slice(1);

byId("door-form").addEventListener("submit", (e) => {
  e.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  sessionStorage.setItem(kept, token);
  enter(token);
});
byId("forget").addEventListener("click", () => door("The token is forgotten."));
byId("partition").addEventListener("change", (e) => look({ partition: e.target.value, machine: "" }));

let typing;
byId("search").addEventListener("input", (e) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    machines.search(e.target.value);
    topology.search(machines.matches());
  }, 120);
});
document.addEventListener("keydown", (e) => {
  if (e.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
    e.preventDefault();
    byId("search").focus();
  }
});
document.querySelector(".skip").addEventListener("click", (e) => { // the fragment means something else here
  e.preventDefault();
  byId("machines").focus();
});
addEventListener("popstate", () => arrive(false));
addEventListener("hashchange", () => {
  if (!place().has("token")) return;
  takeToken();
  enter(sessionStorage.getItem(kept));
});

takeToken();
const token = sessionStorage.getItem(kept);
token ? enter(token) : door("");
