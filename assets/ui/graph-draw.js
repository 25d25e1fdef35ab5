/* Draws a layout as SVG and repaints what changed: fill height = bits, colour = overlay, whisker = mixed bits. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const svg = QS.svg,
    RADIUS = 8;
  let serial = 0;

  const put = (node, name, value) => {
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  };
  // Text nodes are reused: replacing them costs a layout of the whole picture.
  const say = (node, text) => {
    if (!node.firstChild) node.append(text);
    else if (node.firstChild.data !== text) node.firstChild.data = text;
  };

  function fillPath(w, h, part, radius) {
    const y = h * (1 - part),
      top = Math.max(0, radius - y);
    return `M0,${y + top}${top ? `Q0,${y} ${top},${y}` : ""}H${w - top}${top ? `Q${w},${y} ${w},${y + top}` : ""}V${h - radius}Q${w},${h} ${w - radius},${h}H${radius}Q0,${h} 0,${h - radius}Z`;
  }

  // Text cut to a width, by the mean width of a character.
  function cut(text, width, size) {
    const most = Math.max(3, Math.floor(width / (size * 0.54)));
    return text.length <= most ? text : text.slice(0, most - 1).trimEnd() + "…";
  }

  QS.painter = (root, store) => {
    const hatchId = `qs-hatch-${++serial}`;
    const hatch = svg(
      "pattern",
      { id: hatchId, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { class: "hatch-line", width: 2.2, height: 6 }),
    );
    const world = svg("g", { class: "world" });
    const layers = Object.fromEntries(
      ["stages", "edges", "titles", "drawers", "cards", "cells"].map((name) => [name, svg("g", { class: name })]),
    );
    world.append(...Object.values(layers));
    root.append(svg("defs", {}, hatch), world);
    const nodes = new Map(),
      edges = []; // key -> node record; cards and cells may share an id
    let layout = null;

    function base(item, kind, radius) {
      const g = svg("g", {
        class: `node ${kind}`,
        "data-id": item.id,
        "data-kind": kind,
        tabindex: -1,
        role: "slider",
        "aria-valuemin": 2,
        "aria-valuemax": 16,
        "aria-orientation": "vertical",
        transform: `translate(${item.x},${item.y})`,
      });
      const bg = svg("rect", { class: "bg", width: item.w, height: item.h, rx: radius });
      const fill = svg("path", { class: "fill" }),
        lines = svg("path", { class: "hatched", fill: `url(#${hatchId})` });
      const rim = svg("rect", { class: "rim", width: item.w, height: item.h, rx: radius });
      g.append(bg, fill, lines, rim);
      return { g, fill, lines, rim, item, kind, radius, state: {} };
    }

    function card(item) {
      const node = base(item, "card", RADIUS),
        { g } = node,
        w = item.w,
        h = item.h;
      node.bits = svg("text", { class: "bits", x: w / 2, y: h - Math.min(9, h * 0.18) });
      node.stored = svg("text", { class: "stored", x: w / 2, y: Math.min(14, h * 0.29) });
      node.whisker = svg("path", { class: "whisker" });
      node.name = svg("text", { class: "name", x: w / 2, y: h + 13 });
      node.name.textContent = cut(item.card.short, Math.max(w + 6, item.w), 11.5);
      node.lock = svg("path", { class: "lock", d: "M3 7.5h7v5.5H3zM4.5 7.5V6a2 2 0 0 1 4 0v1.5", transform: "translate(2,-1)" });
      g.append(node.bits, node.stored, node.whisker, node.name, node.lock);
      if (item.card.level === "stage") g.append(svg("rect", { class: "stack", x: 4, y: -4, width: w - 8, height: 4, rx: 2 }));
      node.choices = item.card.layers;
      layers.cards.append(g);
      nodes.set(`card:${item.id}`, node);
    }

    function cell(item) {
      const node = base(item, item.unit ? "unit" : "layer", 6),
        { g } = node,
        middle = item.h / 2 + 4;
      node.chip = 30;
      node.bits = svg("text", { class: "bits small", x: node.chip / 2, y: middle });
      node.name = svg("text", { class: "name inside", x: node.chip + 6, y: middle });
      node.name.textContent = cut(item.label, item.w - node.chip - (item.unit ? 24 : 10), 11.5);
      g.append(node.bits, node.name);
      if (item.unit)
        g.append(
          svg("path", {
            class: "chevron",
            d: item.open ? "M-3.5,-1.5L0,2L3.5,-1.5" : "M-1.5,-3.5L2,0L-1.5,3.5",
            transform: `translate(${item.w - 12},${item.h / 2})`,
          }),
        );
      node.choices = item.unit ? item.unit.layers : [item.id];
      layers.cells.append(g);
      nodes.set(`cell:${item.id}`, node);
    }

    function build(next) {
      layout = next;
      nodes.clear();
      edges.length = 0;
      for (const layer of Object.values(layers)) layer.replaceChildren();
      for (const box of next.stages) {
        const g = svg(
          "g",
          { class: "stage", "data-stage": box.id },
          svg("rect", { x: box.x, y: box.y, width: box.w, height: box.h, rx: 11 }),
        );
        if (box.title) {
          const title = svg("text", { class: "stage-title", x: box.x + 6, y: box.y - 4, "data-stage": box.id });
          title.textContent = cut(box.title, box.w, 10.5);
          layers.titles.append(title);
        }
        layers.stages.append(g);
      }
      for (const edge of next.edges) {
        const path =
          edge.d && svg("path", { class: `edge ${edge.kind}`, d: edge.d, "data-a": edge.a, "data-b": edge.b });
        if (path) layers.edges.append(path);
        edges.push({ ...edge, path });
      }
      for (const drawer of next.drawers) {
        const box = next.boxes.get(drawer.block),
          x = box.x + box.w / 2;
        layers.drawers.append(
          svg("path", { class: "tail", d: `M${x},${drawer.from + 1}V${drawer.y}` }),
          svg("rect", {
            class: "drawer",
            x: drawer.x,
            y: drawer.y,
            width: drawer.w,
            height: drawer.h,
            rx: 10,
            "data-drawer": drawer.block,
          }),
        );
      }
      for (const box of next.boxes.values()) card(box);
      for (const item of next.cells) cell(item);
      paint();
      mark();
    }

    function paintOne(node) {
      const { graph } = store,
        held = store.holding(node.item.id),
        { state } = node,
        { color, hatched } = tint(node, held);
      if (!store.base) describe(node, held);
      const inputs = graph.inputs && store.holdingInputs(node.item.id),
        quantized = inputs && inputs.on ? QS.inputText(inputs) : "";
      const key = `${held.mean}|${held.low}|${held.high}|${held.stored}|${color}|${hatched}|${quantized}`;
      if (state.key === key) return;
      state.key = key;
      const ink = color ? QS.inkOn(color) : "currentColor",
        isCard = node.kind === "card";
      const part = QS.fillOf(graph, held.mean),
        { w, h } = node.item;
      if (isCard || !state.shape)
        shape(node, isCard ? fillPath(w, h, part, node.radius) : `M6,0H${node.chip}V${h}H6Q0,${h} 0,${h - 6}V6Q0,0 6,0Z`);
      if (state.color !== color) {
        state.color = color;
        node.fill.style.fill = color || "";
        node.g.classList.toggle("plain", !color);
      }
      if (state.hatched !== hatched) {
        state.hatched = hatched;
        node.lines.style.display = hatched ? "" : "none";
      }
      if (state.ink !== ink) {
        state.ink = ink;
        node.lines.style.color = ink;
        node.bits.style.fill = ink;
      }
      say(node.bits, quantized && isCard ? `W${QS.heldText(held)} A${quantized}` : QS.heldText(held));
      if (state.quantized !== quantized) {
        state.quantized = quantized;
        node.g.classList.toggle("quantized", Boolean(quantized));
      }
      if (state.mixed !== held.mixed) {
        state.mixed = held.mixed;
        node.g.classList.toggle("mixed", held.mixed);
      }
      if (!isCard) return;
      say(node.stored, held.mean >= 16 ? "full" : held.stored.toFixed(2));
      const storedInk = part > 0.8 ? ink : "";
      if (state.storedInk !== storedInk) {
        state.storedInk = storedInk;
        node.stored.style.fill = storedInk;
      }
      if (held.mixed) {
        const at = (bits) => Math.max(3, h * (1 - QS.fillOf(graph, bits))),
          x = w - 5;
        node.whisker.setAttribute(
          "d",
          `M${x - 3},${at(held.high)}h6M${x},${at(held.high)}V${at(held.low)}M${x - 3},${at(held.low)}h6`,
        );
      }
    }

    function shape(node, d) {
      if (node.state.shape === d) return;
      node.state.shape = d;
      node.fill.setAttribute("d", d);
      node.lines.setAttribute("d", d);
    }

    // For assistive technology, once a gesture has ended.
    function describe(node, held) {
      const text = valueText(held, node);
      if (node.state.text === text) return;
      node.state.text = text;
      node.g.setAttribute("aria-valuenow", held.mean.toFixed(2));
      node.g.setAttribute("aria-valuetext", text);
    }

    function tint(node, held) {
      const own = store.paintOf(node.item.id, held);
      if (own.color || node.kind === "card") return own;
      return store.paintOf(node.item.unit ? node.item.block : node.item.layer.block, held).color
        ? { ...store.paintOf(node.item.block, held), hatched: true }
        : own;
    }

    function valueText(held, node) {
      const range = held.mixed ? `mixed, ${held.low} to ${held.high} bits, mean ${held.mean.toFixed(1)}` : `${held.mean} bits`;
      return `${range}, ${held.stored.toFixed(2)} stored, ${QS.megabytes(held.bytes)}${inputsOf(node)}`;
    }
    function inputsOf(node) {
      const held = store.graph.inputs && store.holdingInputs(node.item.id);
      return held && held.on ? `, inputs ${QS.inputText(held)} bits` : "";
    }

    function paint() {
      if (store.graph) for (const node of nodes.values()) paintOne(node);
    }

    // Selection, locks, search and hover: classes only.
    function mark(found) {
      for (const node of nodes.values()) {
        const id = node.item.id,
          classes = node.g.classList;
        const on = store.selected.has(id);
        classes.toggle("selected", on);
        classes.toggle("locked", store.isProtected(id));
        classes.toggle("open", store.expanded.has(id) && node.kind === "card");
        put(node.g, "aria-selected", on);
        put(node.g, "aria-label", `${node.item.card ? node.item.card.label : node.item.label}, ${node.kind}`);
        if (found !== undefined) {
          classes.toggle("dimmed", Boolean(found) && !found.has(id));
          classes.toggle("found", Boolean(found) && found.has(id));
        }
      }
      hover();
      for (const box of [...layers.stages.children, ...layers.titles.children])
        box.classList.toggle("selected", store.selected.has(box.dataset.stage));
    }

    // What the selected and hovered cards are joined to: flows and skips light up; conditions reach nearly every
    // card, so they are marked on the cards at their other end instead of drawn across the picture.
    function hover() {
      const near = (id) => store.selected.has(id) || store.hover === id,
        partners = new Set();
      for (const edge of edges) {
        edge.path?.classList.toggle("hot", near(edge.a) || near(edge.b));
        if (edge.path) continue;
        if (near(edge.a)) partners.add(edge.b);
        if (near(edge.b)) partners.add(edge.a);
      }
      for (const node of nodes.values()) node.g.classList.toggle("partner", partners.has(node.item.id));
    }

    function reset() {
      for (const node of nodes.values()) node.state = {};
      paint();
    }

    return {
      build,
      paint,
      mark,
      hover,
      reset,
      world,
      nodes,
      layers,
      valueText,
      layout: () => layout,
      nodeOf: (id) => nodes.get(`card:${id}`) || nodes.get(`cell:${id}`),
    };
  };
})();
