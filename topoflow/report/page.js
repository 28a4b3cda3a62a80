"use strict";
// Charts of the report. Their data stand beside each as JSON; whatever is shown goes in as text, never as HTML.
(() => {
  const element = (parent, name, attributes = {}, text = "") => {
    const svg = parent.closest("svg");
    const made = svg ? document.createElementNS(svg.namespaceURI, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return parent.appendChild(made);
  };

  // About n round numbers from low to high.
  const ticks = (low, high, n) => {
    const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) {
      found.push([at * step, (at * step).toFixed(digits).replace("-", "\u2212")]);
    }
    return found;
  };

  const range = (values) => {
    const known = values.filter((value) => value !== null);
    return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  };

  const chart = (figure, spec) => {
    const svg = figure.querySelector("svg"), form = figure.querySelector("form");
    const tip = element(figure.querySelector(".sheet"), "div", { class: "tip", role: "status" });
    tip.hidden = true;
    const on = spec.toggles.map((toggle) => new Set(toggle.on));
    let points = [];

    spec.toggles.forEach((toggle, number) => {
      const set = element(form, "fieldset");
      element(set, "legend", {}, toggle.name);
      toggle.options.forEach((option, index) => {
        const label = element(set, "label");
        const input = element(label, "input", { type: toggle.one ? "radio" : "checkbox", name: `${spec.id}-${number}` });
        input.checked = on[number].has(option);
        if (toggle.colours) element(label, "i").style.background = toggle.colours[index];
        label.append(option);
        input.addEventListener("change", () => {
          if (toggle.one) on[number].clear();
          if (input.checked) on[number].add(option); else on[number].delete(option);
          draw();
        });
      });
    });

    const draw = () => {
      const width = svg.clientWidth;
      if (!width) return; // in a closed fold
      const shown = spec.series.filter((series) => series.keys.every((key, number) => on[number].has(key)));
      const left = 58, right = 14, top = 14, bottom = 44;
      const wide = width - left - right;
      let [x0, x1] = spec.x.range || range(shown.flatMap((series) => series.x));
      let [y0, y1] = range(shown.flatMap((series) => [...series.y, ...(series.high || [])]));
      let high;
      if (spec.x.range) {
        high = Math.min(340, Math.max(220, 0.5 * wide));
        [y0, y1] = [0, 1.06 * y1 || 1];
      } else { // one scale on both axes
        const [dx, dy] = [x1 - x0 || 1, y1 - y0 || 1];
        high = Math.min(460, Math.max(240, wide * dy / dx));
        const unit = Math.max(dx * 1.08 / wide, dy * 1.08 / high);
        const [cx, cy] = [(x0 + x1) / 2, (y0 + y1) / 2];
        [x0, x1, y0, y1] = [cx - unit * wide / 2, cx + unit * wide / 2, cy - unit * high / 2, cy + unit * high / 2];
      }
      const px = (x) => left + wide * (x - x0) / (x1 - x0), py = (y) => top + high * (1 - (y - y0) / (y1 - y0));
      svg.replaceChildren();
      svg.setAttribute("height", high + top + bottom);
      if (spec.shade !== null) {
        element(svg, "rect", { x: px(x0), y: top, width: px(spec.shade) - px(x0), height: high, fill: "#ececec" });
      }
      for (const [value, label] of ticks(y0, y1, high / 55)) {
        element(svg, "line", { x1: left, x2: left + wide, y1: py(value), y2: py(value), stroke: "#0000001a" });
        element(svg, "text", { x: left - 8, y: py(value) + 4, "text-anchor": "end" }, label);
      }
      let free = -Infinity;
      for (const [value, label] of spec.x.ticks || ticks(x0, x1, wide / 90)) {
        element(svg, "line", { x1: px(value), x2: px(value), y1: top + high, y2: top + high + 5, stroke: "#555" });
        if (px(value) < free) continue;
        element(svg, "text", { x: px(value), y: top + high + 18, "text-anchor": "middle" }, label);
        free = px(value) + 8 * label.length + 8;
      }
      element(svg, "line", { x1: left, x2: left + wide, y1: top + high, y2: top + high, stroke: "#555" });
      element(svg, "text", { x: left + wide / 2, y: top + high + 38, "text-anchor": "middle" }, spec.x.label);
      const middle = top + high / 2;
      element(svg, "text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, spec.y);
      if (spec.diagonal) {
        const [from, to] = [Math.max(x0, y0), Math.min(x1, y1)];
        if (from < to) element(svg, "line", { x1: px(from), x2: px(to), y1: py(from), y2: py(to), stroke: "#999" });
      }
      if (!shown.length) {
        element(svg, "text", { x: left + wide / 2, y: middle, "text-anchor": "middle" }, "nothing chosen");
      }
      points = [];
      for (const series of shown) {
        const known = series.y.map((y, at) => at).filter((at) => series.y[at] !== null);
        const path = (ends) => known.map((at) => `${px(series.x[at]).toFixed(1)},${py(ends[at] ?? series.y[at]).toFixed(1)}`);
        if (series.low) {
          const band = [...path(series.high), ...path(series.low).reverse()].join(" ");
          element(svg, "polygon", { points: band, fill: series.colour, opacity: 0.15 });
        }
        if (!series.dots) {
          const line = { points: path(series.y).join(" "), fill: "none", stroke: series.colour };
          element(svg, "polyline", { ...line, "stroke-width": series.bold ? 2.4 : 1.2, opacity: series.bold ? 1 : 0.6 });
        }
        for (const at of known) {
          const place = { x: px(series.x[at]), y: py(series.y[at]) };
          const end = spec.ends && (at === 0 ? "ring" : at === series.x.length - 1 ? "square" : "");
          if (end === "square") {
            element(svg, "rect", { x: place.x - 4, y: place.y - 4, width: 8, height: 8, fill: series.colour });
          } else {
            const hollow = end || series.dots;
            element(svg, "circle", { cx: place.x, cy: place.y, r: end ? 4 : series.bold ? 3 : 2, stroke: series.colour,
              fill: hollow ? "#fff" : series.colour, "stroke-width": end ? 2 : hollow ? 1 : 0 });
          }
          points.push({ ...place, text: `${series.name}\n${series.tips[at]}` });
        }
      }
      element(svg, "circle", { class: "mark", r: 6, fill: "none", stroke: "#000", "stroke-width": 1.5, visibility: "hidden" });
    };

    const hide = () => {
      tip.hidden = true;
      svg.querySelector(".mark")?.setAttribute("visibility", "hidden");
    };
    const show = (event) => {
      const box = svg.getBoundingClientRect(), sheet = svg.parentElement.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const away = (point) => Math.hypot(point.x - x, point.y - y);
      const near = points.reduce((best, point) => (!best || away(point) < away(best) ? point : best), null);
      if (!near || away(near) > 40) return hide();
      tip.textContent = near.text;
      tip.hidden = false;
      const at = near.x + box.left - sheet.left;
      tip.style.left = `${Math.min(at + 12, Math.max(0, sheet.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${Math.max(0, near.y + box.top - sheet.top - tip.offsetHeight - 10)}px`;
      const mark = svg.querySelector(".mark");
      for (const [key, value] of [["cx", near.x], ["cy", near.y], ["visibility", "visible"]]) mark.setAttribute(key, value);
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
    new ResizeObserver(draw).observe(svg.parentElement);
    draw();
  };

  if (self !== top) document.documentElement.classList.add("framed");
  for (const figure of document.querySelectorAll("figure.chart")) {
    chart(figure, JSON.parse(figure.querySelector("script").textContent));
  }

  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
})();
