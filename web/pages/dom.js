// Makes and changes elements. What comes from outside becomes text, never
// markup: nothing here or elsewhere in the page parses HTML, and the page's
// policy would not let it.

const svgSpace = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else attribute(node, name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

// h makes an element of HTML; a child is a node or a text.
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

// s makes an element of SVG.
export const s = (tag, attributes, ...children) => fill(document.createElementNS(svgSpace, tag), attributes, children);

// text changes what an element says, if it says something else.
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// attribute sets an attribute, and removes it if the value is null, undefined
// or false.
export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const now = value === true ? "" : String(value);
    if (node.getAttribute(name) !== now) node.setAttribute(name, now);
  }
}

// arrange makes nodes the children of parent, in this order, and moves only
// those that stand elsewhere.
export function arrange(parent, nodes) {
  nodes.forEach((node, i) => {
    if (parent.childNodes[i] !== node) parent.insertBefore(node, parent.childNodes[i] ?? null);
  });
  while (parent.childNodes.length > nodes.length) parent.lastChild.remove();
}

export const byId = (id) => document.getElementById(id);

// duration says how long ms are: "0.4 s", "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h".
export function duration(ms, fine = false) {
  const sec = Math.max(0, ms) / 1000;
  if (fine && sec < 10) return sec.toFixed(sec < 1 ? 2 : 1) + " s";
  if (sec < 60) return Math.floor(sec) + " s";
  const two = (a, unit, b, small) => a + " " + unit + (b ? " " + b + " " + small : "");
  const min = Math.floor(sec / 60), hours = Math.floor(min / 60);
  if (min < 60) return two(min, "min", Math.floor(sec % 60), "s");
  if (hours < 24) return two(hours, "h", min % 60, "min");
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

// seconds reads a duration of protojson, such as "3.5s", in ms.
export const seconds = (d) => (d ? parseFloat(d) * 1000 : 0);
