// What a page gains where scripts run: marks of figures that tell what they stand for, zoom, and tables that sort.
// Without it everything is there to read. It is a module, so that none of its names are the page's.

const RADIUS = 28; // how far from a mark it is still pointed at, in points (1/72 inch) of the drawing: to a cell's corner
const DEEPEST = 12; // how many times a figure can be enlarged
const STEP = 1.5; // how much a button enlarges it

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function clamp(number, low, high) {
  return Math.max(low, Math.min(high, number));
}

// Figures: a mark tells what it stands for when it is pointed at or tapped

const tip = make("div", { className: "tip", role: "tooltip", hidden: true });
document.body.append(tip);

function hideTip() {
  tip.hidden = true;
  document.querySelector(".mark")?.remove();
}

function toDrawing(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function showTip(svg, { x, y }, text) {
  hideTip();
  const matrix = svg.getScreenCTM();
  const mark = document.createElementNS(svg.namespaceURI, "circle");
  for (const [name, value] of Object.entries({ class: "mark", cx: x, cy: y, r: 8 / matrix.a })) {
    mark.setAttribute(name, value);
  }
  svg.append(mark);
  tip.textContent = text;
  tip.hidden = false;
  const at = new DOMPoint(x, y).matrixTransform(matrix);
  const { width, height } = tip.getBoundingClientRect();
  const above = at.y - height - 14;
  tip.style.left = `${scrollX + clamp(at.x - width / 2, 8, document.documentElement.clientWidth - width - 8)}px`;
  tip.style.top = `${scrollY + (above < 0 ? at.y + 14 : above)}px`;
}

// Return what tells the mark nearest to a pointer. Marks that lie on each other are told together.
function teller(svg) {
  const spots = Object.entries(JSON.parse(svg.dataset.spots)).flatMap(([head, own]) =>
    own.map(([x, y, text]) => ({ x, y, text: `${head}\n${text}` })),
  );
  return (event) => {
    const at = toDrawing(svg, event);
    const distance = (spot) => Math.hypot(spot.x - at.x, spot.y - at.y);
    const nearest = spots.reduce((best, spot) => (distance(spot) < distance(best) ? spot : best), spots[0]);
    if (!nearest || distance(nearest) > RADIUS) return hideTip();
    const same = spots.filter((spot) => Math.hypot(spot.x - nearest.x, spot.y - nearest.y) < 1);
    showTip(svg, nearest, same.map((spot) => spot.text).join("\n\n"));
  };
}

// Figures: zoom by changing the part of the drawing that is seen, so that it stays sharp

function bringToLife(plot) {
  const svg = plot.querySelector("svg");
  const tell = teller(svg);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  let seen = { x: 0, y: 0, width };
  let held = null; // the place of the drawing by which it is dragged

  function look(x, y, wanted) {
    const scale = wanted / width;
    seen = { x: clamp(x, 0, width - wanted), y: clamp(y, 0, height * (1 - scale)), width: wanted };
    svg.setAttribute("viewBox", [seen.x, seen.y, wanted, height * scale].join(" "));
    svg.classList.toggle("zoomed", wanted < width);
    hideTip();
  }

  // Enlarge by a factor around a place, which stays where it is on the screen.
  function zoom(factor, at) {
    const wanted = clamp(seen.width / factor, width / DEEPEST, width);
    const kept = wanted / seen.width;
    look(at.x - (at.x - seen.x) * kept, at.y - (at.y - seen.y) * kept, wanted);
  }

  function middle() {
    const { left, top, width: across, height: down } = plot.getBoundingClientRect();
    return toDrawing(svg, { clientX: left + across / 2, clientY: top + down / 2 });
  }

  function button(text, label, act) {
    return make("button", { type: "button", title: label, ariaLabel: label, onclick: act }, text);
  }

  const buttons = make(
    "div",
    { className: "zoom", role: "group", ariaLabel: "Zoom" },
    button("+", "Zoom in", () => zoom(STEP, middle())),
    button("−", "Zoom out", () => zoom(1 / STEP, middle())),
    button("Reset", "Reset zoom", () => look(0, 0, width)),
  );
  plot.after(buttons);

  svg.addEventListener("pointerdown", (event) => {
    tell(event);
    if (seen.width === width || event.button !== 0) return;
    held = toDrawing(svg, event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (held) {
      const now = toDrawing(svg, event);
      look(seen.x + held.x - now.x, seen.y + held.y - now.y, seen.width);
    }
    tell(event);
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (held = null));
  svg.addEventListener("pointercancel", hideTip);
  svg.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && hideTip()); // a tap stays told
  plot.addEventListener("scroll", hideTip);
  // A pinch on a touchpad comes as a wheel with ctrl; a wheel alone scrolls the page.
  svg.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(Math.exp(-clamp(event.deltaY, -50, 50) / 100), toDrawing(svg, event));
      tell(event);
    },
    { passive: false },
  );
}

document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("pointerdown", (event) => event.target.closest(".plot") ?? hideTip());
document.querySelectorAll(".plot").forEach(bringToLife);

// Tables

const UNITS = { k: 1e3, M: 1e6, B: 1e9, min: 60, h: 3600 };
const order = new Intl.Collator("en", { numeric: true });

// Return what a cell sorts by: the number that it begins with or else its text, null where nothing is known.
function sortKey(cell, isNumber) {
  const text = cell.textContent.replaceAll("−", "-").replaceAll("\u00a0", " ").trim();
  if (text === "" || text === "–") return null;
  if (!isNumber) return text.replace(/^[^\p{L}\p{N}]+/u, ""); // the symbol of a verdict
  if (text.startsWith("unbounded")) return Infinity;
  const found = text.match(/^([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?) ?(\p{L}+)?/u);
  return found && Number(found[1]) * (UNITS[found[2]] ?? 1);
}

function sortBy(table, head) {
  const [body] = table.tBodies;
  const isNumber = head.classList.contains("number");
  const sign = head.ariaSort === "ascending" ? -1 : 1;
  const rows = [...body.rows].map((row) => ({ row, key: sortKey(row.cells[head.cellIndex], isNumber) }));
  rows.sort(({ key: a }, { key: b }) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (a === b) return 0; // two unbounded ones have no difference
    return sign * (isNumber ? a - b : order.compare(a, b));
  });
  body.append(...rows.map(({ row }) => row));
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.ariaSort = sign > 0 ? "ascending" : "descending";
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 3) continue;
  for (const head of table.tHead.rows[0].cells) {
    head.append(make("button", { type: "button", onclick: () => sortBy(table, head) }, ...head.childNodes));
  }
}
