// Draws a partition: one picture per rack, leaves above and below, servers
// between them, every link in the colour of its port's class. No line crosses
// another, however many servers there are; wide racks scroll. Where there are
// many racks each is a few rows of dots, until somebody opens it.
import { arrange, attribute, byId, duration, h, s, text } from "./dom.js";
import { alphabetic, classes, isIdle, isUp, nameOf, needsCare, phases } from "./model.js";

const box = { width: 118, height: 64, gap: 14 };
const bar = { height: 50, gap: 10 };
const port = { width: 52, height: 20 };
const spare = { size: 12, gap: 4, rows: 2 };
const margin = 12, wire = 44;
const dot = { size: 13, gap: 5, perRow: 20 };
const few = 4; // racks that are drawn whole without being asked for

const cutStart = (t, n) => (t.length <= n ? t : "…" + t.slice(1 - n));

export class Topology {
  #racks = new Map(); // by name
  #home = new Map(); // name of the rack, by machine
  #view; // which racks are in view

  constructor(model, choose) {
    Object.assign(this, { model, choose });
    this.#view = new IntersectionObserver((entries) => {
      for (const e of entries) {
        const rack = [...this.#racks.values()].find((r) => r.card === e.target);
        if (!rack) continue;
        rack.seen = e.isIntersecting;
        if (rack.seen && rack.dirty) this.#draw(rack);
      }
    }, { rootMargin: "400px" });
    for (const [name, [word, meaning]] of Object.entries(classes)) {
      byId("legend").append(h("li", { title: meaning }, h("span", { class: "swatch " + name, "aria-hidden": "true" }), word));
    }
  }

  // shown returns the uuids of the machines in the pictures that are in view.
  shown() {
    return [...this.#racks.values()].filter((r) => r.seen).flatMap((r) => [...r.nodes.keys()]);
  }

  // update follows what changed. matches says which machines are searched for;
  // null if none is.
  update({ machines, wiring }, matches) {
    if (wiring || [...machines].some((uuid) => this.#moved(uuid))) this.#arrange();
    for (const uuid of machines) {
      const node = this.#racks.get(this.#home.get(uuid))?.nodes.get(uuid);
      if (node) this.#paint(node);
    }
    if (matches !== null || this.matches) this.search(matches);
  }

  // search dims what is not searched for.
  search(matches) {
    this.matches = matches;
    let shown = 0;
    for (const rack of this.#racks.values()) {
      rack.card.hidden = matches !== null && rack.machines.every((uuid) => !matches.has(uuid));
      if (!rack.card.hidden) shown++;
      for (const node of rack.nodes.values()) this.#paint(node);
    }
    byId("racks").classList.toggle("many", shown > few);
    for (const rack of this.#racks.values()) {
      this.#open(rack, rack.wish ?? shown <= few);
      this.#reveal(rack);
    }
  }

  // #reveal scrolls a picture to the first machine that is searched for.
  #reveal(rack) {
    const i = this.matches ? [...rack.nodes.keys()].findIndex((uuid) => this.matches.has(uuid)) : -1;
    if (rack.open && i >= 0 && rack.revealed !== this.matches.size + ":" + i) rack.picture.scrollLeft = (i - 1) * (box.width + box.gap);
    rack.revealed = i < 0 ? null : this.matches.size + ":" + i; // once, so that who scrolls elsewhere stays there
  }

  // select marks a machine.
  select(uuid) {
    this.selected = uuid;
    for (const rack of this.#racks.values()) for (const node of rack.nodes.values()) this.#paint(node);
  }

  // tick refreshes what only time changes.
  tick() {
    this.#facts();
    for (const rack of this.#racks.values()) {
      if (!rack.seen || rack.card.hidden) continue;
      for (const { id, title } of rack.titles ?? []) this.#sync(id, title);
      for (const node of rack.nodes.values()) this.#paint(node);
    }
  }

  // #open draws a rack whole, or as dots.
  #open(rack, open) {
    if (rack.open === open) return;
    rack.open = open;
    rack.dirty = true;
    attribute(rack.toggle, "aria-expanded", String(open));
    if (rack.seen) this.#draw(rack);
  }

  // #moved reports whether a machine is new, gone, or stands in another rack.
  #moved(uuid) {
    const m = this.model.machines.get(uuid);
    return m ? !this.#home.has(uuid) || this.#home.get(uuid) !== this.#rackOf(m) : this.#home.has(uuid);
  }

  #rackOf(m) {
    for (const p of this.model.ports(m.uuid)) {
      const sw = this.model.switches.get(p.leaf);
      if (sw) return sw.rack ?? "";
    }
    return this.model.switches.size ? null : ""; // null: on no leaf yet
  }

  // #arrange sorts leaves and machines into racks.
  #arrange() {
    const want = new Map();
    const rackAt = (name) => {
      if (!want.has(name)) want.set(name, { leaves: [], machines: [] });
      return want.get(name);
    };
    for (const sw of this.model.switches.values()) rackAt(sw.rack ?? "").leaves.push(sw);
    this.#home.clear();
    for (const m of this.model.machines.values()) {
      this.#home.set(m.uuid, this.#rackOf(m));
      rackAt(this.#home.get(m.uuid)).machines.push(m.uuid);
    }
    for (const [name, rack] of this.#racks) {
      if (want.has(name)) continue;
      this.#view.unobserve(rack.card);
      rack.card.remove();
      this.#racks.delete(name);
    }
    for (const [name, { leaves, machines }] of want) {
      leaves.sort((a, b) => alphabetic(a.id, b.id));
      const key = JSON.stringify([leaves.map((sw) => [sw.id, this.#portsOf(sw)]), machines]);
      let rack = this.#racks.get(name);
      if (!rack) {
        rack = { name, nodes: new Map(), machines: [], leaves: [], head: h("span"), count: h("p"), picture: h("div", { class: "scroll" }) };
        rack.toggle = h("button", { type: "button", onclick: () => this.#open(rack, (rack.wish = !rack.open)) }, rack.head);
        rack.card = h("article", { class: "rack" }, h("div", { class: "head" }, h("h3", null, rack.toggle), rack.count), rack.picture);
        this.#racks.set(name, rack);
        this.#view.observe(rack.card);
      }
      text(rack.head, name === null ? "On no leaf yet" : name === "" ? (leaves.length ? "Leaves" : "Machines") : "Rack " + name);
      text(rack.count, [leaves.length && leaves.length + (leaves.length === 1 ? " leaf" : " leaves"), machines.length + (machines.length === 1 ? " machine" : " machines")]
        .filter(Boolean).join(" · "));
      if (rack.key === key) continue;
      // The room of the picture is there before it, so that racks do not come
      // into view only because others are not drawn yet.
      rack.picture.style.minHeight = Math.ceil(machines.length / dot.perRow) * (dot.size + dot.gap) + "px";
      Object.assign(rack, { key, leaves, machines, dirty: true });
      if (rack.seen) this.#draw(rack);
    }
    const names = [...this.#racks.keys()].sort((a, b) => (a === null) - (b === null) || alphabetic(a ?? "", b ?? ""));
    arrange(byId("racks"), names.map((n) => this.#racks.get(n).card));
    this.search(this.matches ?? null);
    this.#facts();
  }

  #portsOf(sw) {
    const behind = new Map((sw.machineConnections ?? []).map((c) => [c.nic?.name, c.machineId]));
    return (sw.nics ?? []).map((n) => ({ name: n.name ?? "", class: this.model.classOf(sw, n), up: isUp(n), vrf: n.vrf ?? "", machine: behind.get(n.name) ?? "" }))
      .sort((a, b) => alphabetic(a.name, b.name));
  }

  // #draw makes the picture of a rack anew: its wiring changed.
  #draw(rack) {
    rack.dirty = false;
    rack.nodes.clear();
    rack.titles = [];
    if (!rack.open) return this.#dots(rack);
    const ports = new Map(rack.leaves.map((sw) => [sw.id, this.#portsOf(sw)]));
    // The first half of the leaves is above, the other below.
    const above = rack.leaves.slice(0, Math.ceil(rack.leaves.length / 2)), below = rack.leaves.slice(above.length);
    const columns = this.#columns(rack, ports);
    const left = margin + columns.length * (box.width + box.gap);
    const spares = new Map(rack.leaves.map((sw) => [sw.id, ports.get(sw.id).filter((p) => !columns.some((c) => c.links.some((l) => l.leaf === sw.id && l.port === p)))]));
    const most = Math.max(0, ...[...spares.values()].map((l) => Math.ceil(l.length / spare.rows)));
    const width = Math.max(left + most * (spare.size + spare.gap) + margin, 320);
    const levels = (n) => n * (bar.height + bar.gap);
    const top = levels(above.length) + (above.length ? wire : margin);
    const height = top + box.height + (below.length ? wire : 0) + levels(below.length) + margin;

    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": rack.head.textContent });
    const wires = s("g", { class: "wires" }), bars = s("g"), boxes = s("g");
    svg.append(wires, bars, boxes);
    rack.leaves.forEach((sw, i) => {
      const upper = i < above.length;
      const y = upper ? margin / 2 + levels(i) : top + box.height + wire + levels(i - above.length);
      bars.append(this.#leaf(rack, sw, { y, width, upper, left }, columns, spares.get(sw.id)));
      columns.forEach((c, column) => c.links.filter((l) => l.leaf === sw.id).forEach((l) => {
        const x = portAt(c, column, l);
        const [y1, y2] = upper ? [y + bar.height, top] : [top + box.height, y];
        wires.append(s("line", { class: "link " + l.port.class + (l.port.up ? "" : " dark"), x1: x, y1, x2: x, y2 },
          s("title", null, `${sw.id} ${l.port.name}: ${describe(l.port)}`)));
      }));
    });
    columns.forEach((c, i) => boxes.append(this.#node(rack, c, margin + i * (box.width + box.gap), top)));
    rack.picture.replaceChildren(svg);
    rack.revealed = null;
    this.#reveal(rack);
  }

  // #dots draws a rack as one dot per machine.
  #dots(rack) {
    const step = dot.size + dot.gap, rows = Math.max(1, Math.ceil(rack.machines.length / dot.perRow));
    const width = Math.min(dot.perRow, Math.max(rack.machines.length, 1)) * step, height = rows * step;
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": rack.head.textContent + ": " + rack.count.textContent + "; open it, or look at the list" });
    const column = new Map(this.#columns(rack, new Map(rack.leaves.map((sw) => [sw.id, this.#portsOf(sw)]))).map((c, i) => [c.uuid, i]));
    [...rack.machines].sort((a, b) => column.get(a) - column.get(b)).forEach((uuid, i) => {
      const node = { uuid, title: s("title") };
      node.g = s("rect", { x: (i % dot.perRow) * step + 1, y: Math.floor(i / dot.perRow) * step + 1, width: dot.size, height: dot.size, rx: 3, onclick: () => this.choose(uuid) }, node.title);
      rack.nodes.set(uuid, node);
      this.#paint(node);
      svg.append(node.g);
    });
    rack.picture.replaceChildren(svg);
  }

  // #columns returns what stands between the leaves: machines, then the
  // management server if it hangs here.
  #columns(rack, ports) {
    const links = (has) => rack.leaves.flatMap((sw) => ports.get(sw.id).filter(has).map((p) => ({ leaf: sw.id, port: p })));
    const columns = rack.machines.map((uuid) => ({ uuid, links: links((p) => p.machine === uuid) }));
    const place = (c) => c.links[0]?.port.name ?? "";
    columns.sort((a, b) => alphabetic(place(a), place(b)) || alphabetic(a.uuid, b.uuid));
    const site = links((p) => p.class === "service");
    return site.length ? [{ site: true, links: site }, ...columns] : columns;
  }

  // #leaf draws a leaf: its name, and its ports where their links arrive.
  #leaf(rack, sw, { y, width, upper, left }, columns, spares) {
    const g = s("g", { class: "leaf", role: "img" }, s("rect", { x: 1, y, width: width - 2, height: bar.height, rx: 8 }));
    const title = s("text", { x: margin, y: upper ? y + 18 : y + bar.height - 10 });
    rack.titles.push({ id: sw.id, title: { g, title, note: s("tspan", { class: "note", dx: 8 }), name: s("tspan", { class: "name" }, clip(sw.id, 24)) } });
    title.append(rack.titles.at(-1).title.name, rack.titles.at(-1).title.note);
    g.append(title);
    const at = upper ? y + bar.height - port.height - 4 : y + 4;
    columns.forEach((c, column) => c.links.filter((l) => l.leaf === sw.id).forEach((l) => {
      const x = portAt(c, column, l) - port.width / 2;
      g.append(s("g", { class: "port " + l.port.class + (l.port.up ? "" : " dark") },
        s("title", null, `${l.port.name}: ${describe(l.port)}`),
        s("rect", { x, y: at, width: port.width, height: port.height, rx: 4 }),
        s("text", { x: x + port.width / 2, y: at + 14, "text-anchor": "middle" }, cutStart(l.port.name, 7))));
    }));
    spares.forEach((p, i) => g.append(s("g", { class: "port spare " + p.class + (p.up ? "" : " dark") },
      s("title", null, `${p.name}: ${describe(p)}`),
      s("rect", {
        x: left + Math.floor(i / spare.rows) * (spare.size + spare.gap), y: y + 11 + (i % spare.rows) * (spare.size + spare.gap),
        width: spare.size, height: spare.size, rx: 3,
      }))));
    this.#sync(sw.id, rack.titles.at(-1).title);
    return g;
  }

  // #sync says when a leaf was heard of, and what is wrong with it.
  #sync(id, { g, note }) {
    const sw = this.model.switches.get(id);
    const ok = Date.parse(sw?.lastSync?.time ?? "") || 0, bad = Date.parse(sw?.lastSyncError?.time ?? "") || 0;
    const age = this.model.now() - ok;
    const wrong = bad > ok || (ok > 0 && age > 60_000);
    const said = bad > ok ? sw.lastSyncError.error : ok ? (wrong ? `not heard of for ${duration(age)}` : "in sync") : "not heard of yet";
    text(note, clip(said, 60));
    attribute(g, "class", "leaf" + (wrong ? " wrong" : ""));
    attribute(g, "aria-label", `leaf ${id}: ${said}; ${(sw?.nics ?? []).length} ports`);
  }

  // #node draws a server or the management server.
  #node(rack, column, x, y) {
    if (column.site) {
      return s("g", { class: "site", role: "img", "aria-label": "management server of the partition", transform: `translate(${x} ${y})` },
        s("rect", { width: box.width, height: box.height, rx: 8 }),
        s("text", { x: box.width / 2, y: 28, "text-anchor": "middle", class: "name" }, "site"),
        s("text", { x: box.width / 2, y: 46, "text-anchor": "middle", class: "note" }, "BMCs · boot · cache"));
    }
    const node = {
      uuid: column.uuid, title: s("title"), name: s("text", { x: 7, y: 22, class: "name" }), phase: s("text", { x: 7, y: 39, class: "phase" }),
      note: s("text", { x: 7, y: 54, class: "note" }), done: s("rect", { class: "done", x: 0, y: box.height - 4.5, height: 3.5, width: 0 }),
    };
    const pick = () => this.choose(column.uuid);
    node.g = s("g", {
      tabindex: rack.nodes.size ? -1 : 0, role: "button", transform: `translate(${x} ${y})`, onclick: pick,
      onkeydown: (e) => this.#key(e, rack, node, pick),
    }, node.title, s("rect", { class: "body", width: box.width, height: box.height, rx: 8 }),
    s("svg", { x: 3, width: box.width - 6, height: box.height }, node.done, node.name, node.phase, node.note)); // nested, so that nothing sticks out
    rack.nodes.set(column.uuid, node);
    this.#paint(node);
    return node.g;
  }

  // #key picks a server, or goes to the next one: a rack is one stop of the
  // tabulator, however many servers it has.
  #key(e, rack, node, pick) {
    const all = [...rack.nodes.values()], step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (e.key === "Enter" || e.key === " ") pick();
    else if (step) {
      const next = all[(all.indexOf(node) + step + all.length) % all.length].g;
      for (const n of all) attribute(n.g, "tabindex", n.g === next ? 0 : -1);
      next.focus();
    } else return;
    e.preventDefault();
  }

  // #paint shows where a machine stands now.
  #paint(node) {
    const m = this.model.machines.get(node.uuid);
    if (!m) return;
    const [word, tone] = phases[m.phase];
    const percent = m.progress?.percent;
    const care = needsCare(m, this.model.now());
    const label = `${nameOf(m)}: ${word}${care ? ", needs care" : ""}${percent !== undefined ? `, ${m.progress.step} ${percent} %` : ""}`;
    const marks = `${tone}${care ? " care" : ""}${this.selected === m.uuid ? " selected" : ""}${this.matches && !this.matches.has(m.uuid) ? " dim" : ""}`;
    text(node.title, label);
    if (!node.name) return attribute(node.g, "class", "dot " + marks);
    attribute(node.g, "class", "server " + marks);
    attribute(node.g, "aria-label", label);
    text(node.name, clip(m.name || "…" + m.uuid.slice(-8), 14));
    text(node.phase, word);
    text(node.note, percent !== undefined ? `${clip(m.progress.step ?? "", 9)} ${percent} %` : isIdle(m) ? clip(m.name ? m.image : m.size, 17) : duration(this.model.now() - m.since));
    attribute(node.done, "width", ((percent ?? 0) / 100) * (box.width - 6));
  }

  // #facts says what holds for the partition.
  #facts() {
    const { fabric, site, bmcs } = this.model;
    const mute = bmcs.filter((b) => b.status?.lastError || !b.status?.lastSeen);
    const heard = Date.parse(site?.seen ?? "") || 0;
    const facts = [
      fabric && ["Boot network", fabric.bootSupernet],
      fabric && ["Boot VNI", String(fabric.bootVni)],
      fabric && ["metal-boot", fabric.bootAddress],
      fabric && ["Loopbacks", fabric.loopbacks],
      fabric && ["AS numbers", `${fabric.firstAsn} – ${fabric.firstAsn + fabric.asnCount - 1}`],
      !fabric && ["Fabric", "no plan yet: ingot fabric put", "wrong"],
      ["Site", heard ? `last news ${duration(this.model.now() - heard)} ago` : "not heard of yet", heard ? "" : "wrong"],
      site?.medium && ["Boot medium", site.medium.error || (site.medium.size ? `${(Number(site.medium.size) / 1e6).toFixed(1)} MB, built ${duration(this.model.now() - Date.parse(site.medium.built ?? site.seen))} ago` : "none"), site.medium.error ? "wrong" : ""],
      bmcs.length && ["BMCs", mute.length ? `${mute.length} of ${bmcs.length} in trouble; ${mute[0].id}: ${mute[0].status?.lastError || "not scanned yet"}` : `${bmcs.length} answer`, mute.length ? "wrong" : ""],
    ].filter(Boolean);
    const list = byId("facts");
    if (list.childNodes.length !== facts.length) list.replaceChildren(...facts.map(() => h("p", null, h("span"), h("b"))));
    facts.forEach(([term, what, tone], i) => {
      text(list.childNodes[i].firstChild, term);
      text(list.childNodes[i].lastChild, what);
      attribute(list.childNodes[i], "class", tone || null);
    });
  }
}

// portAt is where the middle of a link is. Links of one server to one leaf
// stand side by side; to leaves one above the other, a little apart.
function portAt(column, i, link) {
  const side = column.links.filter((l) => l.leaf === link.leaf), lane = side.indexOf(link) - (side.length - 1) / 2;
  const leaves = [...new Set(column.links.map((l) => l.leaf))], apart = leaves.length > 2 ? leaves.indexOf(link.leaf) - (leaves.length - 1) / 2 : 0;
  return margin + i * (box.width + box.gap) + box.width / 2 + lane * (port.width + 2) + apart * 8;
}

const clip = (t, n) => (t.length <= n ? t : t.slice(0, n - 1) + "…");

const describe = (p) => `${classes[p.class][0]}${p.vrf ? " in " + p.vrf : ""}, link ${p.up ? "up" : "not up"}${p.machine ? ", machine " + p.machine : ""}`;
