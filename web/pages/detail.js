// One machine: what it is, what it waits for, what a person can do, and what
// happened to it.
import { attribute, byId, duration, h, seconds, text } from "./dom.js";
import { classes, isIdle, isOverdue, nameOf, needsCare, phases } from "./model.js";
import { progressText, waitingText } from "./machines.js";

const bytes = (n) => (n >= 1e12 ? (n / 1e12).toFixed(1) + " TB" : n >= 1e9 ? (n / 1e9).toFixed(1) + " GB" : Math.round(n / 1e6) + " MB");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

export class Detail {
  uuid = "";
  #timeline = null;
  #due = 0;

  constructor(model, close) {
    Object.assign(this, { model, close });
    this.panel = byId("detail");
    this.panel.addEventListener("keydown", (e) => { if (e.key === "Escape") this.close(); });
  }

  // open shows a machine, and moves the focus there if a person asked.
  open(api, uuid, focus) {
    this.api = api;
    if (uuid !== this.uuid) {
      this.uuid = uuid;
      this.#timeline = null;
      this.#build();
    }
    this.panel.hidden = false;
    if (focus) this.title.focus();
    this.#due = 0;
    this.tick();
  }

  hide() {
    this.uuid = "";
    this.panel.hidden = true;
  }

  // changed says that the machine may have changed.
  changed() {
    this.#due = Math.min(this.#due, Date.now() + 150);
  }

  // tick shows the passing of time, and asks for the timeline when that may
  // have changed: every second while an agent is at work.
  tick() {
    if (!this.uuid) return;
    this.#fill();
    if (this.asking || Date.now() < this.#due || document.visibilityState !== "visible") return;
    const m = this.model.machines.get(this.uuid);
    this.#due = Date.now() + (m && !isIdle(m) ? 1000 : 30_000);
    this.#ask(this.uuid);
  }

  async #ask(uuid) {
    this.asking = true;
    try {
      const { message } = await this.api.call("ingot.v1.TimelineService/GetAny", { uuid });
      if (uuid !== this.uuid) return;
      this.model.stands(message.timeline);
      this.#timeline = message.timeline;
      this.#story();
    } catch (e) {
      this.#due = Date.now() + 5000; // whether the API answers at all is said elsewhere
      if (uuid === this.uuid && e.code === "not_found") this.#timeline = null;
    } finally {
      this.asking = false;
    }
  }

  #build() {
    this.title = h("h2", { id: "detail-title", tabindex: -1 });
    this.badge = h("span", { class: "badge" });
    this.since = h("small");
    this.what = h("p");
    this.bar = h("progress", { max: 100, hidden: true });
    this.waits = h("p");
    this.trouble = h("p", { class: "trouble" });
    this.remedy = h("p", { class: "remedy", hidden: true });
    this.signs = h("ul", { class: "signs", "aria-label": "Signs of progress" });
    this.now = h("div", { class: "now" }, h("p", null, this.badge, " ", this.since), this.what, this.bar, this.trouble, this.waits, this.remedy, this.signs);
    this.facts = h("dl");
    this.rows = h("tbody");
    this.none = h("p", { class: "hint" }, "Nothing has happened yet.");
    this.panel.replaceChildren(
      h("div", { class: "head" }, this.title, h("button", { type: "button", class: "close", "aria-label": "Close", onclick: this.close }, "×")),
      this.now,
      h("h3", null, "Timeline ", h("small", null, "newest first")),
      h("div", { class: "scroll" }, h("table", { class: "story" },
        h("thead", null, h("tr", null, ...["Time", "After", "Source", "What happened", "Took"].map((w) => h("th", { scope: "col" }, w)))), this.rows)),
      this.none,
      h("h3", null, "Facts"), this.facts);
    this.#fill();
    this.#story();
  }

  #fill() {
    const m = this.model.machines.get(this.uuid), now = this.model.now();
    text(this.title, m ? nameOf(m) : this.uuid);
    this.now.hidden = !m;
    if (!m) return;
    const [word, tone] = phases[m.phase];
    attribute(this.now, "class", "now " + (needsCare(m, now) ? "bad" : tone));
    text(this.badge, word);
    attribute(this.badge, "class", "badge " + tone);
    text(this.since, m.since ? "for " + duration(now - m.since) : "");
    text(this.what, m.progress ? progressText(m.progress) : "");
    this.bar.hidden = m.progress?.percent === undefined;
    if (!this.bar.hidden && this.bar.value !== m.progress.percent) this.bar.value = m.progress.percent;
    attribute(this.bar, "aria-label", m.progress ? "progress of " + m.progress.step : null);
    text(this.waits, m.waiting && !(m.progress && !isOverdue(m, now)) ? capital(waitingText(m.waiting, now)) + "." : "");
    text(this.trouble, m.trouble || m.phase === "CRASHED" ? capital(m.trouble || "crashed") + (m.error ? ": " + m.error : "") : "");
    this.remedy.hidden = !m.waiting?.remedy;
    text(this.remedy, m.waiting?.remedy ? (needsCare(m, now) ? "Do: " : "If it takes too long: ") + m.waiting.remedy + "." : "");
    this.#signs(m.waiting?.signs ?? [], now);
    this.#facts(m);
  }

  // What should be seen while a machine waits: the first that is missing says
  // where to look.
  #signs(signs, now) {
    this.signs.hidden = signs.length === 0;
    if (this.signs.childNodes.length !== signs.length) this.signs.replaceChildren(...signs.map(() => h("li")));
    signs.forEach((g, i) => {
      const li = this.signs.childNodes[i], age = g.time ? duration(now - g.time) : "";
      attribute(li, "class", g.seen ? "seen" : "missing");
      text(li, (g.seen ? "seen" + (age && ` ${age} ago`) : "missing" + (age && ` for ${age}`)) + `: ${g.what}` + (g.detail && ` (${g.detail})`));
    });
  }

  #facts(m) {
    const ports = this.model.ports(m.uuid);
    const facts = [
      ["UUID", m.uuid], ["Size", m.size || "none matches"], ["Rack", m.rack], ["Ports", ports.map((p) => `${p.leaf} ${p.port} (${classes[p.class][0]}${p.up ? "" : ", not up"})`).join("\n")],
      ["Project", m.project], ["Image", m.image], ["Addresses", m.ips.join("\n")],
      ["Hardware", [m.cores && m.cores + " cores", m.memory && bytes(m.memory), ...m.disks.map(([name, size]) => `${name} ${bytes(size)}`)].filter(Boolean).join(", ")],
      ["Condition", m.condition && m.condition !== "available" ? m.condition + (m.why ? ": " + m.why : "") : ""],
      ["Last error", m.error ? `${m.error} (${duration(this.model.now() - m.errorAt)} ago)` : ""],
    ].filter(([, v]) => v);
    const nodes = this.facts.childNodes;
    if (nodes.length !== facts.length * 2) this.facts.replaceChildren(...facts.flatMap(() => [h("dt"), h("dd")]));
    facts.forEach(([term, value], i) => {
      text(nodes[2 * i], term);
      text(nodes[2 * i + 1], value);
    });
  }

  // #story shows the timeline. Rows that are there stay; the newest come on top.
  #story() {
    const entries = this.#timeline?.entries ?? [];
    this.none.hidden = entries.length > 0 || !this.#timeline;
    const longest = Math.max(1, ...entries.map((e) => seconds(e.took)));
    const key = (e, i) => JSON.stringify([e, i && entries[i - 1].time]);
    const have = new Map([...this.rows.children].map((tr) => [tr.dataset.key, tr]));
    let boot = "";
    const rows = entries.map((e, i) => {
      const anew = boot && e.bootId && boot !== e.bootId; // what came before was another boot of the server
      boot = e.bootId || boot;
      return have.get(key(e, i)) ?? this.#entry(e, entries[i - 1], anew, key(e, i));
    });
    for (const tr of rows) attribute(tr.querySelector("meter"), "max", longest);
    this.rows.replaceChildren(...rows.reverse());
  }

  #entry(e, before, anew, key) {
    const at = new Date(e.time), took = seconds(e.took);
    const tr = h("tr", { class: [e.failed && "failed", anew && "boot"].filter(Boolean).join(" ") || null },
      h("td", null, h("time", { datetime: e.time, title: day.format(at) + " " + e.time }, clock.format(at))),
      h("td", { class: "number" }, before ? "+" + duration(at - new Date(before.time), true) : ""),
      h("td", null, (e.source ?? "").replace("TIMELINE_SOURCE_", "").toLowerCase()),
      h("td", null, h("b", null, e.step ?? ""), e.failed ? h("span", { class: "badge bad" }, "failed") : null, e.message ? h("span", { class: "message" }, e.message) : null),
      h("td", { class: "number" }, took ? duration(took, true) : "", h("meter", { min: 0, value: took, hidden: !took, "aria-hidden": "true" })));
    tr.dataset.key = key;
    return tr;
  }
}

const capital = (t) => t.charAt(0).toUpperCase() + t.slice(1);
