/* What floats over the graph: the tooltip of a card, the ladder of bits while dragging, short notices. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.graphTips = (frame, painter, store) => {
    const tip = el("div", { class: "qs-tip", role: "tooltip", hidden: true });
    const ladder = el("div", { class: "qs-ladder", hidden: true, "aria-hidden": "true" });
    const notice = el("div", { class: "qs-notice", role: "status", hidden: true });
    frame.append(tip, ladder, notice);
    let waiting = 0,
      quiet = 0;

    const line = (name, value, more) =>
      el("div", { class: "qs-tip-line" }, el("span", { text: name }), el("b", {}, value, more && el("i", { text: ` ${more}` })));

    function scoreLine(id) {
      const overlay = store.overlay,
        value = store.valueOf(id);
      if (store.byBits) return null;
      if (value === null) return line("Score", "none", overlay.title);
      const text = overlay.text && overlay.text[id];
      return line(
        "Score",
        text || `${QS.number(value)}${overlay.unit && overlay.unit.length < 8 ? " " + overlay.unit : ""}`,
        store.doubtOf(id) || overlay.title,
      );
    }

    // How wide the inputs are, or why they cannot be narrowed; nothing while none is.
    function inputsLine(node) {
      const graph = store.graph;
      if (!graph.inputs) return null;
      const held = QS.holdingInputs(graph, store.inputs, node.choices),
        refused = graph.inputs.refused[node.choices[0]];
      if (!held.of) return refused ? el("div", { class: "qs-tip-trust", text: refused }) : null;
      if (!held.on) return null;
      const schemes = new Set(node.choices.filter((c) => store.inputs[c]).map((c) => QS.schemeOf(store.inputs[c])));
      const scheme = schemes.size > 1 ? "several schemes" : graph.inputs.schemes[[...schemes][0]] || "Static";
      return line("Inputs", `A${QS.inputText(held)}${held.on < held.of ? ` on ${held.on} of ${held.of}` : ""}`, scheme);
    }

    function content(node) {
      const id = node.item.id,
        card = node.item.card || node.item.unit,
        layer = node.item.layer,
        graph = store.graph;
      const held = QS.holding(graph, store.options, node.choices);
      const bits = held.mixed
        ? `${held.mean.toFixed(2)} (${held.low} to ${held.high})`
        : held.mean >= 16
          ? "full precision"
          : String(held.mean);
      const option = layer ? QS.optionOf(store.options, id) : null;
      const method = option ? QS.parseOption(option)[0] : held.method;
      tip.replaceChildren(
        el("div", { class: "qs-tip-title", text: card ? card.label : layer.label }),
        el("div", { class: "qs-tip-id", text: id }),
        line(
          "Kind",
          layer
            ? `${layer.role}, ${layer.kind} ${layer.shape.join("×")}`
            : `${card.kind}, ${card.layers.length} ${card.layers.length === 1 ? "layer" : "layers"}`,
        ),
        line("Weights", QS.grouped(held.weights), layer && layer.copies > 1 ? `in ${layer.copies} tied copies` : ""),
        line(
          "Bits",
          bits,
          graph.methods[method] && held.mean < 16 ? graph.methods[method].label : method === "mixed" ? "several methods" : "",
        ),
        line(
          "Stored",
          `${held.stored.toFixed(2)} bits, ${QS.megabytes(held.bytes)}`,
          `${((100 * 8 * held.bytes) / (graph.precision_bits * held.weights)).toFixed(0)} %`,
        ),
      );
      const inputs = inputsLine(node);
      if (inputs) tip.append(inputs);
      const score = scoreLine(id);
      if (score) tip.append(score);
      if (!store.byBits && store.overlay.trust) tip.append(el("div", { class: "qs-tip-trust", text: store.overlay.trust }));
      if (store.isProtected(id)) tip.append(el("div", { class: "qs-tip-trust", text: "Protected from edits (p unlocks)" }));
    }

    // Right of the node where there is room, else left; never over the node itself.
    function beside(panel, node, gap = 10) {
      const box = node.g.querySelector(".bg").getBoundingClientRect(),
        outer = frame.getBoundingClientRect();
      const w = panel.offsetWidth,
        h = panel.offsetHeight;
      let x = box.right - outer.left + gap;
      if (x + w > outer.width - 4) x = box.left - outer.left - w - gap;
      if (x < 4) x = QS.clamp(box.left - outer.left, 4, Math.max(4, outer.width - w - 4));
      const y = QS.clamp(box.top - outer.top + box.height / 2 - h / 2, 4, Math.max(4, outer.height - h - 4));
      panel.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
    }

    const shown = (target) =>
      target && painter.nodes.get(`${target.dataset.kind === "card" ? "card" : "cell"}:${target.dataset.id}`);
    return {
      tip(target) {
        clearTimeout(waiting);
        const node = shown(target);
        if (!node) {
          tip.hidden = true;
          return;
        }
        waiting = setTimeout(
          () => {
            content(node);
            tip.hidden = false;
            beside(tip, node);
          },
          tip.hidden ? 220 : 40,
        );
      },
      tipNow(node) {
        clearTimeout(waiting);
        if (!node) {
          tip.hidden = true;
          return;
        }
        content(node);
        tip.hidden = false;
        beside(tip, node);
      },
      ladder(id) {
        const node = id && painter.nodeOf(id);
        if (!node) {
          ladder.hidden = true;
          return;
        }
        const held = QS.holding(store.graph, store.options, node.choices),
          level = Math.round(QS.levelBetween(store.graph, held.mean));
        if (!ladder.childElementCount) ladder.append(...store.graph.choices.map((bits) => el("span", { text: bits })).reverse());
        [...ladder.children].forEach((step, i) => step.classList.toggle("on", store.graph.choices.length - 1 - i === level));
        ladder.hidden = false;
        beside(ladder, node, 8);
      },
      notice(id, text) {
        clearTimeout(quiet);
        notice.textContent = text;
        notice.hidden = false;
        const node = painter.nodeOf(id);
        if (node) beside(notice, node);
        quiet = setTimeout(() => {
          notice.hidden = true;
        }, 1800);
      },
      forget() {
        ladder.replaceChildren();
        tip.hidden = true;
      },
    };
  };
})();
