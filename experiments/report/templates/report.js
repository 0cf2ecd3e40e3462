// Copies the table of verdicts, and reads values off the curves by pointer, touch or arrow keys. Everything else on the
// page works without this script.
(() => {
  "use strict";
  document.documentElement.classList.add("js");
  let opened = [];                                // the folds that printing opened
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
  const texts = JSON.parse(document.getElementById("exports").textContent);
  const said = document.getElementById("copied");

  function copyBySelection(text) {                // for browsers and pages without the clipboard's own interface
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = texts[button.dataset.copy];
      let done = true;
      try { await navigator.clipboard.writeText(text); } catch { done = copyBySelection(text); }
      said.textContent = done ? "Copied." : "The browser does not allow copying.";
    });
  }

  const find = document.getElementById("find"), rows = [...document.querySelectorAll(".verdicts tbody tr")];
  find?.addEventListener("input", () => {         // a search looks through hidden rows as well
    const wanted = find.value.trim().toLowerCase();
    document.body.classList.toggle("searching", wanted !== "");
    let matches = 0;
    for (const row of rows) {
      row.classList.toggle("found", wanted !== "" && row.textContent.toLowerCase().includes(wanted));
      matches += row.classList.contains("found");
    }
    document.getElementById("matches").textContent = wanted === "" ? "" : matches + " of " + rows.length + " arms";
  });

  const curves = document.querySelector(".curves");
  if (!curves) return;
  const charts = JSON.parse(document.getElementById("readings").textContent).charts;
  const boxes = [...curves.querySelectorAll(".keys input")];
  const spoken = document.getElementById("spoken");
  const where = curves.querySelector(".where");
  const readable = (value) => Math.abs(value) >= 1e6 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  const number = (value, signed) => (signed && value > 0 ? "+" : "") + value.toFixed(4).replace("-", "\u2212");

  const shown = () => [...curves.querySelectorAll(".view")].find((view) => view.offsetParent !== null);
  const visible = (chart) => chart.lines.filter((line) => boxes.find((box) => +box.dataset.arm === line.arm).checked);

  function nearest(xs, x) {                       // index of the point nearest to x in an ascending list
    let low = 0, high = Math.max(1, xs.length - 1);
    if (xs.length < 2) return 0;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return x - xs[low] <= xs[high] - x ? low : high;
  }

  function height({ x: xs, y: ys }, x) {          // y of a line at x, linear between its points; null outside it
    const at = xs.findIndex((each) => each >= x - 1e-9);
    if (at < 0 || (at === 0 && xs[0] > x + 1e-9)) return null;
    const share = at === 0 ? 0 : Math.min(1, (x - xs[at - 1]) / (xs[at] - xs[at - 1]));
    return at === 0 ? ys[0] : ys[at - 1] + share * (ys[at] - ys[at - 1]);
  }

  const stops = (chart) => [...new Set(visible(chart).flatMap((line) => line.x))].sort((a, b) => a - b);

  function read(view, x, aloud) {
    const chart = charts[view.dataset.key], cross = view.querySelector(".cross");
    const [left, right, low, high] = chart.frame;
    const found = visible(chart).map((line) => ({ line, y: height(line, x) })).filter(({ y }) => y !== null);
    cross.hidden = false;
    cross.style.left = 100 * (x - left) / (right - left) + "%";
    cross.replaceChildren(...found.map(({ line, y }) => {
      const dot = document.createElement("i");
      const down = line.down ? height({ x: line.x, y: line.down }, x) : 100 * (high - y) / (high - low);
      dot.className = "a" + line.arm;
      dot.style.top = down + "%";
      dot.hidden = down < 0 || down > 100;
      return dot;
    }));
    const place = readable(x / chart.scale) + " " + chart.unit;
    tell(chart, new Map(found.map(({ line, y }) => [line.arm, y])), "at " + place);
    if (aloud) {
      const order = found.sort((a, b) => a.y - b.y);
      spoken.textContent = place + ": " + order.map(({ line, y }) =>
        chart.names[line.arm] + " " + number(y, chart.signed)).join(", ");
    }
    view.dataset.x = x;
  }

  function tell(chart, values, text) {
    where.textContent = text;
    for (const box of boxes) {
      const value = values.get(+box.dataset.arm);
      box.parentElement.querySelector(".value").textContent = value === undefined ? "" : number(value, chart.signed);
    }
  }

  function rest(view) {                           // shows the ends of the curves while nobody points at a curve
    if (!view) return;
    const chart = charts[view.dataset.key];
    view.querySelector(".cross").hidden = true;
    delete view.dataset.x;
    tell(chart, new Map(visible(chart).map((line) => [line.arm, line.y[line.y.length - 1]])), "at the end");
  }

  for (const view of curves.querySelectorAll(".view")) {
    const plot = view.querySelector(".plot"), chart = charts[view.dataset.key], [left, right] = chart.frame;
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const xs = stops(chart);
      if (xs.length) read(view, xs[nearest(xs, left + share * (right - left))], false);
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && rest(view));
    plot.addEventListener("blur", () => rest(view));
    plot.addEventListener("keydown", (event) => {
      const xs = stops(chart);
      if (!xs.length) return;
      const now = view.dataset.x === undefined ? null : nearest(xs, +view.dataset.x), last = xs.length - 1;
      const step = event.shiftKey ? 10 : 1;
      const next = { ArrowRight: now === null ? 0 : Math.min(last, now + step), Home: 0, End: last,
                     ArrowLeft: now === null ? last : Math.max(0, now - step) }[event.key];
      if (event.key === "Escape") rest(view);
      if (next === undefined) return;
      event.preventDefault();
      read(view, xs[next], true);
    });
  }

  curves.addEventListener("change", () => rest(shown()));
  const keys = curves.querySelector(".keys");
  for (const [text, on] of [["No arm", false], ["All arms", true]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "all";
    button.textContent = text;
    button.addEventListener("click", () => {
      for (const box of boxes) box.checked = on;
      rest(shown());
    });
    keys.after(button);
  }
  rest(shown());
})();
