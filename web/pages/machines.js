// The list of machines: states to choose from, a table of one page, and what
// is said aloud when something moves.
import { arrange, attribute, byId, duration, h, seconds, text } from "./dom.js";
import { isIdle, isOverdue, nameOf, needsCare, order, phases } from "./model.js";

const perPage = 50;

const columns = [
  ["name", "Machine"], ["phase", "State"], ["now", "Now"], ["place", "Where"], ["size", "Size"],
];
const plain = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const sortable = {
  name: (a, b) => plain(a.key, b.key),
  phase: (a, b) => order.indexOf(a.phase) - order.indexOf(b.phase) || b.since - a.since,
  size: (a, b) => plain(a.size, b.size),
};

// progressText says what an agent does: "image: writing, 52 %, 12 s left".
export function progressText(p) {
  const parts = [p.message, p.percent !== undefined && p.percent + " %", p.timeLeft && duration(seconds(p.timeLeft)) + " left"].filter(Boolean);
  return (p.step ?? "") + (parts.length ? ": " + parts.join(", ") : "");
}

// waitingText says what a machine waits for and for how much longer.
export function waitingText(w, now) {
  let t = "waits for " + w.what;
  if (w.since) t += ", since " + duration(now - w.since);
  if (w.overdueAt) t += w.overdueAt > now ? ", for at most " + duration(w.overdueAt - now) + " more" : ", overdue by " + duration(now - w.overdueAt);
  return t;
}

export class Machines {
  #rows = new Map(); // by uuid, of the page shown
  #chips = new Map();
  #moves = [];
  page = 0;
  state = ""; // a phase, "care", or all
  query = "";
  sort = "name";
  down = false;
  selected = "";

  constructor(model, choose) {
    Object.assign(this, { model, choose });
    for (const [key, word] of columns) {
      const th = h("th", { scope: "col" }, sortable[key] ? h("button", { type: "button", onclick: () => this.#sortBy(key) }, word) : word);
      th.dataset.key = key;
      byId("columns").append(th);
    }
    byId("before").addEventListener("click", () => this.#turn(-1));
    byId("after").addEventListener("click", () => this.#turn(1));
    model.addEventListener("moved", (e) => this.#moves.push(e.detail));
  }

  // matches returns the machines that are searched for; null if all are.
  matches() {
    if (!this.query && !this.state) return null;
    return new Set(this.#found().map((m) => m.uuid));
  }

  // shown returns the uuids of the machines on the page.
  shown() {
    return [...this.#rows.keys()];
  }

  search(query) {
    this.query = query.trim().toLowerCase();
    this.page = 0;
    this.show();
  }

  // show puts the page in order.
  show() {
    this.#count();
    const found = this.#found();
    const by = sortable[this.sort];
    found.sort((a, b) => (this.down ? by(b, a) : by(a, b)) || plain(a.uuid, b.uuid));
    const last = Math.max(0, Math.ceil(found.length / perPage) - 1);
    this.page = Math.min(this.page, last);
    const page = found.slice(this.page * perPage, (this.page + 1) * perPage);
    const all = this.model.machines.size;
    text(byId("shown"), all === 0 ? "No machine has been discovered yet." : found.length === all ? (all === 1 ? "1 machine" : all + " machines") : `${found.length} of ${all} machines`);
    byId("table").hidden = found.length === 0;
    byId("pages").hidden = last === 0;
    byId("before").disabled = this.page === 0;
    byId("after").disabled = this.page === last;
    text(byId("page"), `Page ${this.page + 1} of ${last + 1}`);
    for (const th of byId("columns").children) attribute(th, "aria-sort", th.dataset.key === this.sort ? (this.down ? "descending" : "ascending") : null);

    const keep = new Set(page.map((m) => m.uuid));
    for (const uuid of this.#rows.keys()) if (!keep.has(uuid)) this.#rows.delete(uuid);
    arrange(byId("rows"), page.map((m) => {
      if (!this.#rows.has(m.uuid)) this.#rows.set(m.uuid, this.#row(m.uuid));
      this.#fill(this.#rows.get(m.uuid), m);
      return this.#rows.get(m.uuid).tr;
    }));
  }

  // tick refreshes what only time changes, and says what moved.
  tick() {
    for (const [uuid, row] of this.#rows) {
      const m = this.model.machines.get(uuid);
      if (m) this.#fill(row, m);
    }
    if (this.#care !== this.#countCare()) this.show();
    if (this.#moves.length && !(this.wait > Date.now())) {
      const moves = this.#moves.splice(0);
      text(byId("said"), moves.length > 3 ? moves.length + " machines moved on" : moves.map((m) => `${m.name} is ${m.phase}`).join("; "));
      this.wait = Date.now() + 3000;
    }
  }

  select(uuid) {
    this.selected = uuid;
    for (const [id, row] of this.#rows) attribute(row.tr, "class", id === uuid ? "selected" : null);
  }

  #care = 0;
  #countCare() {
    const now = this.model.now();
    let n = 0;
    for (const m of this.model.machines.values()) if (needsCare(m, now)) n++;
    return n;
  }

  #found() {
    const now = this.model.now(), out = [];
    for (const m of this.model.machines.values()) {
      if (this.state === "care" ? !needsCare(m, now) : this.state && m.phase !== this.state) continue;
      if (this.query && !this.#words(m).includes(this.query)) continue;
      out.push(m);
    }
    return out;
  }

  // #words is all of a machine that can be searched for.
  #words(m) {
    const ports = this.model.ports(m.uuid).map((p) => p.leaf + ":" + p.port);
    return [m.uuid, m.name, m.rack, m.size, m.image, m.project, phases[m.phase][0], m.condition, ...m.ips, ...ports].join("\n").toLowerCase();
  }

  // #count shows how many machines are in each state. A state that nobody is
  // in has no button, unless it is the one that is chosen.
  #count() {
    const counts = { "": this.model.machines.size, care: (this.#care = this.#countCare()) };
    for (const m of this.model.machines.values()) counts[m.phase] = (counts[m.phase] ?? 0) + 1;
    const shown = ["", "care", ...order].filter((k) => k === "" || counts[k] || k === this.state);
    arrange(byId("states"), shown.map((key) => {
      if (!this.#chips.has(key)) {
        const chip = h("button", { type: "button", class: "chip " + (key === "care" ? "care" : key ? phases[key][1] : "all"), onclick: () => this.#choose(key) },
          h("b"), key === "" ? "all" : key === "care" ? "need care" : phases[key][0]);
        this.#chips.set(key, chip);
      }
      const chip = this.#chips.get(key);
      text(chip.firstChild, String(counts[key] ?? 0));
      attribute(chip, "aria-pressed", String(key === this.state));
      return chip;
    }));
  }

  #choose(state) {
    this.state = state === this.state ? "" : state;
    this.page = 0;
    this.show();
    this.model.dispatchEvent(new Event("searched"));
  }

  #sortBy(key) {
    this.down = key === this.sort && !this.down;
    this.sort = key;
    this.show();
  }

  #turn(by) {
    this.page += by;
    this.show();
    byId("machines").focus();
  }

  #row(uuid) {
    const row = {
      name: h("button", { type: "button", onclick: () => this.choose(uuid) }), uuid: h("small", { class: "uuid" }),
      badge: h("span", { class: "badge" }), since: h("small"), now: h("span", { class: "now" }), bar: h("progress", { max: 100, hidden: true }),
      remedy: h("small", { class: "remedy", hidden: true }), rack: h("span"), ports: h("small"), size: h("td"),
    };
    row.tr = h("tr", { class: uuid === this.selected ? "selected" : null },
      h("th", { scope: "row" }, row.name, row.uuid), h("td", null, row.badge, row.since), h("td", { class: "doing" }, row.now, row.bar, row.remedy), h("td", null, row.rack, row.ports), row.size);
    row.tr.dataset.uuid = uuid;
    return row;
  }

  #fill(row, m) {
    const now = this.model.now(), overdue = isOverdue(m, now), care = needsCare(m, now);
    const [word, tone] = phases[m.phase];
    text(row.name, nameOf(m));
    attribute(row.name, "class", m.name ? null : "uuid");
    text(row.uuid, m.name ? m.uuid : "");
    text(row.badge, word);
    attribute(row.badge, "class", "badge " + tone);
    text(row.since, m.since ? "for " + duration(now - m.since) : "");
    text(row.now, m.progress ? progressText(m.progress) : isIdle(m) ? (m.phase === "WAITING" ? "can be allocated" : m.image) : m.waiting ? waitingText(m.waiting, now) : "");
    const percent = m.progress?.percent;
    row.bar.hidden = percent === undefined;
    if (percent !== undefined && row.bar.value !== percent) row.bar.value = percent;
    attribute(row.bar, "aria-label", m.progress ? "progress of " + m.progress.step : null);
    const trouble = [m.trouble && m.trouble + (m.error ? ": " + m.error : ""), m.waiting && overdue && m.progress ? waitingText(m.waiting, now) : "", care && m.waiting?.remedy].filter(Boolean);
    row.remedy.hidden = trouble.length === 0;
    text(row.remedy, trouble.join(" — "));
    text(row.rack, m.rack);
    text(row.ports, this.model.ports(m.uuid).map((p) => p.leaf + " " + p.port).join("\n"));
    text(row.size, m.size);
  }
}
