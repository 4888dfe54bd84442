// What the page knows: one partition as the API tells it, and who wants to
// hear of changes.

// Phases, in the order of a machine's life: the word, and the tone that it is
// shown in.
export const phases = {
  DISCOVERED: ["discovered", "new"],
  POWERING_ON: ["powering on", "busy"],
  BOOTING: ["booting", "busy"],
  PREPARING: ["preparing", "busy"],
  REGISTERING: ["registering", "busy"],
  WIPING: ["wiping", "busy"],
  WAITING: ["waiting", "ready"],
  INSTALLING: ["installing", "busy"],
  BOOTING_NEW_KERNEL: ["booting new kernel", "busy"],
  PHONED_HOME: ["phoned home", "home"],
  RECLAIMING: ["reclaiming", "leaving"],
  CRASHED: ["crashed", "bad"],
  UNKNOWN: ["unknown", "new"],
};
export const order = Object.keys(phases);

// classes of ports: the word, and what it means.
export const classes = {
  boot: ["boot", "unprovisioned: in the boot VRF"],
  machine: ["machine", "in the VRF of the machine's private network"],
  service: ["service", "leads to the partition's management server"],
  plain: ["no VRF", "leads to other switches, or to what Ingot does not render"],
  down: ["down", "administratively down, or without link and VRF"],
};

const time = (t) => (t ? Date.parse(t) : 0);
const short = (e, prefix) => (e ?? "").replace(prefix, "");

export class Model extends EventTarget {
  partition = "";
  fabric = null;
  site = null;
  bmcs = [];
  switches = new Map();
  machines = new Map();
  #ports = new Map(); // by machine
  #news = { machines: new Set(), wiring: false };

  // reset forgets everything, because another partition is looked at or the
  // list is read anew.
  reset(partition) {
    if (partition !== this.partition) this.machines.clear();
    this.partition = partition;
    this.fabric = this.site = null;
    this.bmcs = [];
    this.switches.clear();
    this.wired();
  }

  // only keeps the machines that were listed.
  only(uuids) {
    for (const uuid of this.machines.keys()) if (!uuids.has(uuid)) this.remove(uuid);
  }

  // machine takes a metalstack.api.v2.Machine, and keeps what is shown of it.
  machine(m) {
    const a = m.allocation;
    const known = this.machines.get(m.uuid);
    const now = {
      uuid: m.uuid, rack: m.rack ?? "", size: m.size?.id ?? "",
      name: a?.hostname || a?.name || "", project: a?.project ?? "", image: a?.image?.id ?? "",
      ips: (a?.networks ?? []).flatMap((n) => n.ips ?? []),
      condition: short(m.status?.condition?.state, "MACHINE_STATE_").toLowerCase(),
      why: m.status?.condition?.description ?? "",
      trouble: short(m.recentProvisioningEvents?.state, /MACHINE_PROVISIONING_EVENT_STATE_(UNSPECIFIED)?/).toLowerCase().replace("_", " "),
      error: m.recentProvisioningEvents?.lastErrorEvent?.message ?? "", errorAt: time(m.recentProvisioningEvents?.lastErrorEvent?.time),
      cores: (m.hardware?.cpus ?? []).reduce((n, c) => n + (c.cores ?? 0), 0), memory: Number(m.hardware?.memory ?? 0),
      disks: (m.hardware?.disks ?? []).map((d) => [d.name ?? "", Number(d.size ?? 0)]),
      phase: known?.phase ?? "UNKNOWN", since: known?.since ?? 0, waiting: known?.waiting ?? null, progress: known?.progress ?? null,
    };
    now.key = counted(nameOf(now));
    this.machines.set(m.uuid, now);
    this.#changed(m.uuid);
  }

  // stands takes an ingot.v1.Standing, or a Timeline.
  stands(st) {
    const m = this.machines.get(st.uuid);
    if (!m) return;
    const phase = short(st.phase, "MACHINE_PHASE_");
    const now = {
      phase: phase in phases ? phase : "UNKNOWN", since: time(st.phaseSince),
      waiting: st.waiting ? { what: st.waiting.what ?? "", since: time(st.waiting.since), overdueAt: time(st.waiting.overdueAt), remedy: st.waiting.remedy ?? "",
        signs: (st.waiting.signs ?? []).map((g) => ({ source: (g.source ?? "").replace("TIMELINE_SOURCE_", "").toLowerCase(), what: g.what ?? "", seen: Boolean(g.seen), time: time(g.time), detail: g.detail ?? "" })) } : null,
      progress: st.progress ?? null,
    };
    if (["phase", "since", "waiting", "progress"].every((k) => JSON.stringify(m[k]) === JSON.stringify(now[k]))) return;
    if (m.phase !== now.phase && m.phase !== "UNKNOWN") this.dispatchEvent(new CustomEvent("moved", { detail: { name: nameOf(m), phase: phases[now.phase][0] } }));
    Object.assign(m, now);
    this.#changed(m.uuid);
  }

  remove(uuid) {
    if (this.machines.delete(uuid)) this.#changed(uuid);
  }

  // wired says that switches, fabric or site changed.
  wired() {
    this.#ports = null;
    this.#news.wiring = true;
    this.#tell();
  }

  // ports returns where a machine hangs: [{leaf, port, class, up}].
  ports(uuid) {
    if (!this.#ports) {
      this.#ports = new Map();
      for (const sw of this.switches.values()) {
        for (const c of sw.machineConnections ?? []) {
          if (!this.#ports.has(c.machineId)) this.#ports.set(c.machineId, []);
          this.#ports.get(c.machineId).push({ leaf: sw.id, port: c.nic?.name ?? "", class: this.classOf(sw, c.nic ?? {}), up: isUp(c.nic ?? {}) });
        }
      }
    }
    return this.#ports.get(uuid) ?? [];
  }

  // classOf derives what a port is for from what it is to be in.
  classOf(sw, nic) {
    if (this.fabric?.servicePorts?.some((p) => p.switch === sw.id && p.port === nic.name)) return "service";
    if (nic.vrf && nic.vrf === "vrf" + this.fabric?.bootVni) return "boot";
    if (nic.vrf) return "machine";
    return nic.state?.desired === "SWITCH_PORT_STATUS_DOWN" || nic.state?.actual === "SWITCH_PORT_STATUS_DOWN" ? "down" : "plain";
  }

  #changed(uuid) {
    this.#news.machines.add(uuid);
    this.#tell();
  }

  // #tell tells once a frame of all that changed since: { machines, wiring }. A
  // page that nobody sees has no frames, and is told when it is seen again.
  #tell() {
    this.frame ??= requestAnimationFrame(() => {
      const news = this.#news;
      this.#news = { machines: new Set(), wiring: false };
      this.frame = null;
      this.dispatchEvent(new CustomEvent("news", { detail: news }));
    });
  }
}

export const isUp = (nic) => nic.state?.actual === "SWITCH_PORT_STATUS_UP";

// nameOf is what people call a machine: its host's name, or its uuid.
export const nameOf = (m) => m.name || m.uuid;

// isIdle reports whether a machine is where it may stay.
export const isIdle = (m) => m.phase === "PHONED_HOME" || (m.phase === "WAITING" && !m.project);

// isOverdue reports whether a machine waits for longer than it should.
export const isOverdue = (m, now) => Boolean(m.waiting?.overdueAt) && m.waiting.overdueAt < now;

// needsCare reports whether a person should look at a machine.
export const needsCare = (m, now) => m.phase === "CRASHED" || m.trouble !== "" || isOverdue(m, now);

// alphabetic compares names the way people count: swp2 before swp10.
export const alphabetic = new Intl.Collator("en", { numeric: true }).compare;

// counted returns a name so that comparing it plainly does the same, which is
// what takes time with thousands of them.
const counted = (name) => name.toLowerCase().replace(/\d+/g, (n) => n.padStart(12, "0"));
