// Keeps a model up to date: reads the lists, follows what changes, and when
// the stream breaks resumes it where it was, or reads the lists again.
import { Failure } from "./api.js";
import { isIdle } from "./model.js";

const machines = "metalstack.api.v2.Machine", switches = "metalstack.api.v2.Switch", fabrics = "ingot.v1.Fabric", sites = "ingot.v1.Site";
const types = [machines, switches, fabrics, sites];

const scanned = 15_000; // ms between looks at what scans of BMCs found

const sleep = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});

// A Live follows one partition from run until stop.
export class Live {
  heard = 0; // when the API answered last, in this machine's time
  error = null; // why it does not now
  polls = false; // streams do not get through, so the lists are read again and again
  retryAt = 0;
  #end = new AbortController();
  #stale = new Set(); // machines whose standing is to be asked for

  // watched returns the uuids of the machines that are in view; ended hears
  // why the page cannot go on.
  constructor(api, model, { partition, watched, ended }) {
    Object.assign(this, { api, model, partition, watched, ended });
  }

  get live() {
    return this.heard > 0 && !this.error;
  }

  stop() {
    this.#end.abort();
  }

  run() {
    this.#follow();
    this.#look();
  }

  #alive() {
    this.heard = Date.now();
    this.error = null;
  }

  #over(e) {
    if (e.code !== "unauthenticated" && e.code !== "permission_denied") return false;
    this.stop();
    this.ended(e);
    return true;
  }

  async #follow() {
    const { signal } = this.#end;
    let revision = null, deaf = 0;
    for (let tries = 0; !signal.aborted; tries++) {
      let listed = false;
      try {
        if (revision === null) {
          revision = await this.#list(signal);
          listed = true;
        }
        for await (const { change } of this.api.stream("ingot.v1.WatchService/All", { types, after: revision }, signal)) {
          this.#alive();
          this.polls = false;
          tries = deaf = 0;
          this.#apply(change.resources ?? []);
          revision = change.revision;
        }
      } catch (e) {
        if (signal.aborted || this.#over(e)) return;
        // Where streams do not get through at all, the lists are read again.
        if (e.code === "out_of_range" || ++deaf > 1) revision = null;
        if (e.code === "out_of_range" && tries === 0) continue;
        this.polls = listed;
        if (!listed) this.error = e;
      }
      const wait = Math.min(10_000, 500 * 2 ** Math.min(tries, 6)) * (0.5 + Math.random() / 2);
      this.retryAt = Date.now() + wait;
      await sleep(wait, signal);
    }
  }

  // #list reads everything, the oldest first: what changes meanwhile comes
  // again with the stream.
  async #list(signal) {
    const partition = this.partition, { api, model } = this;
    const call = (method, request) => api.call(method, request, signal);
    const first = await call("metalstack.admin.v2.SwitchService/List", { query: { partition } });
    const [fabric, site, bmcs, all, standings] = await Promise.all([
      call("ingot.v1.FabricService/Get", { partition }).catch((e) => {
        if (e.code === "not_found") return { message: {} };
        throw e;
      }),
      call("ingot.v1.FabricService/Sites", { partition }),
      call("ingot.v1.BMCService/List", { partition }),
      call("metalstack.admin.v2.MachineService/List", { partition }),
      call("ingot.v1.TimelineService/ListAny", { partition }),
    ]);
    if (!first.revision) throw new Failure("unimplemented", "the server does not say which revision its lists show");
    model.reset(partition);
    model.fabric = fabric.message.fabric ?? null;
    model.site = site.message.sites?.[0] ?? null;
    model.bmcs = bmcs.message.bmcs ?? [];
    for (const sw of first.message.switches ?? []) model.switches.set(sw.id, sw);
    const listed = all.message.machines ?? [];
    model.only(new Set(listed.map((m) => m.uuid)));
    for (const m of listed) model.machine(m);
    for (const st of standings.message.standings ?? []) model.stands(st);
    this.#alive();
    return first.revision;
  }

  #apply(resources) {
    const { model, partition } = this;
    for (const { type, id, resource } of resources) {
      switch (type) {
        case machines:
          if (resource && resource.partition?.id === partition) {
            model.machine(resource);
            this.#stale.add(id);
          } else {
            model.remove(id);
          }
          break;
        case switches:
          if (resource && resource.partition === partition) model.switches.set(id, resource);
          else model.switches.delete(id);
          model.wired();
          break;
        case fabrics:
          if (id === partition) { model.fabric = resource ?? null; model.wired(); }
          break;
        case sites:
          if (id === partition) { model.site = resource ?? null; model.wired(); }
          break;
      }
    }
  }

  // #look asks where machines stand: soon for those that changed, and every
  // second for those in view that are on their way, since agents' progress is
  // not in the store. No watch tells of BMCs, so they are asked for, too.
  async #look() {
    const { signal } = this.#end;
    let scans = Date.now() + scanned;
    for (let due = 0; !signal.aborted; await sleep(200, signal)) {
      if (!this.live) continue;
      if (document.visibilityState === "visible" && Date.now() >= scans) {
        scans = Date.now() + scanned;
        await this.#bmcs(signal);
      }
      const ask = new Set([...this.#stale].slice(0, 1000));
      if (document.visibilityState === "visible" && Date.now() >= due) {
        for (const uuid of this.watched()) {
          const m = this.model.machines.get(uuid);
          if (ask.size < 200 && m && !isIdle(m)) ask.add(uuid);
        }
        due = Date.now() + 1000;
      }
      if (ask.size === 0) continue;
      for (const uuid of ask) this.#stale.delete(uuid);
      try {
        const { message } = await this.api.call("ingot.v1.TimelineService/ListAny", { uuids: [...ask] }, signal);
        for (const st of message.standings ?? []) this.model.stands(st);
      } catch (e) {
        if (signal.aborted || this.#over(e)) return;
        for (const uuid of ask) this.#stale.add(uuid);
        due = Date.now() + 5000;
        await sleep(2000, signal);
      }
    }
  }

  async #bmcs(signal) {
    try {
      this.model.bmcs = (await this.api.call("ingot.v1.BMCService/List", { partition: this.partition }, signal)).message.bmcs ?? [];
    } catch {} // the next look asks again, and the stream says what is wrong
  }
}
