/* The mixer: one vertical slider per block in the order of the flow, and a master that shifts them all. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;
  const HEIGHT = 92,
    EDGE = 7; // a track as mixer.css has it, and half a thumb: rungs lie between the two ends of the track

  // One slider; the caller says what a move means. Levels are rungs 0..top.
  function fader(top, label, { height = HEIGHT, low = 2, high = 16, extra = "" } = {}) {
    const thumb = el("div", { class: "qs-thumb" }),
      track = el("div", { class: "qs-track" }, el("div", { class: "qs-groove" }), thumb);
    const slider = el(
      "div",
      {
        class: `qs-fader ${extra}`.trim(),
        role: "slider",
        tabindex: 0,
        "aria-orientation": "vertical",
        "aria-valuemin": low,
        "aria-valuemax": high,
        "aria-label": label,
      },
      track,
    );
    slider.place = (level) => {
      thumb.style.transform = `translateY(${((-(height - 2 * EDGE) * level) / top).toFixed(1)}px)`;
    };
    slider.levelAt = (event) => {
      const box = track.getBoundingClientRect();
      return QS.clamp(Math.round(((box.bottom - EDGE - event.clientY) / (box.height - 2 * EDGE)) * top), 0, top);
    };
    slider.pitch = () => (track.getBoundingClientRect().height - 2 * EDGE) / top;
    slider.thumb = thumb;
    return slider;
  }

  // Pointer and keys of a fader: grabbing the thumb shifts, pressing the track sets.
  let driving = null; // the fader that a pointer holds
  function drive(slider, { onset, onshift, onend, oncancel, onclick }) {
    let act = null,
      held = 0,
      keyed = false;
    const moved = QS.framed(() => {
      if (!act) return;
      if (act.shift) {
        const steps = Math.round((act.y - act.now) / slider.pitch());
        if (steps !== act.steps) {
          act.steps = steps;
          onshift(steps);
        }
      } else {
        const level = slider.levelAt(act.event);
        if (level !== act.level) {
          act.level = level;
          onset(level);
        }
      }
    });
    slider.addEventListener("pointerdown", (event) => {
      if (event.button || driving) return;
      driving = slider; // a second finger waits: both would move the recipe that was there before the first
      slider.setPointerCapture(event.pointerId);
      slider.focus({ preventScroll: true });
      event.preventDefault();
      act = {
        y: event.clientY,
        now: event.clientY,
        event,
        steps: 0,
        level: null,
        shift: !onset || event.target === slider.thumb || event.shiftKey,
      };
      if (!act.shift) moved();
      onclick?.(event);
    });
    slider.addEventListener("pointermove", (event) => {
      if (!act) return;
      act.now = event.clientY;
      act.event = event;
      moved();
    });
    const end = () => {
      if (!act) return;
      moved.now();
      act = driving = null;
      onend();
    };
    slider.addEventListener("pointerup", end);
    slider.addEventListener("pointercancel", () => {
      if (act) {
        act = driving = null;
        oncancel();
      }
    });
    slider.addEventListener("keydown", (event) => {
      const step = { ArrowUp: 1, ArrowRight: 1, PageUp: 2, ArrowDown: -1, ArrowLeft: -1, PageDown: -2 }[event.key];
      if (event.key === "Escape" && act) {
        act = driving = null;
        oncancel();
        event.stopPropagation();
      } else if (step) {
        event.preventDefault();
        event.stopPropagation();
        held += step;
        keyed = true;
        onshift(held);
      } else if (onset && (event.key === "Home" || event.key === "End")) {
        event.preventDefault();
        onset(event.key === "Home" ? 0 : Infinity);
        onend();
      }
    });
    const endKeys = () => {
      if (keyed) {
        held = 0;
        keyed = false;
        onend();
      }
    };
    slider.addEventListener("keyup", endKeys);
    slider.addEventListener("blur", endKeys);
  }

  QS.fader = fader;
  QS.driveFader = drive;

  QS.mountMixer = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root"),
      store = QS.store(props.group),
      strips = new Map();
    const board = el("div", { class: "qs-board", role: "group", "aria-label": "Bits per block" }),
      masterBox = el("div", { class: "qs-master" });
    const text = el("span", { class: "qs-mixer-note" });
    const body = el("div", { class: "qs-mixer-body" }, masterBox, board);
    const twist = el(
      "button",
      { type: "button", class: "qs-twistbar", "aria-expanded": "true", onclick: () => fold(!body.hidden) },
      QS.icon("down"),
      el("b", { text: "Mixer" }),
      text,
    );
    const fold = (hidden) => {
      body.hidden = hidden;
      twist.setAttribute("aria-expanded", String(!hidden));
      if (!hidden) paint();
    };
    host.replaceChildren(el("div", { class: "qs-mixer-head" }, twist, QS.inputSwitch(store, host)), body);
    if (props.folded) fold(true);

    const ladder = () => store.graph.choices,
      top = () => ladder().length - 1;
    const end = () => store.commit(),
      cancel = () => store.abandon();

    function strip(card) {
      const slider = fader(top(), `${card.label}, bits`),
        bits = el("output", {}, "–"),
        name = el("span", { class: "qs-strip-name", text: card.short, title: card.label });
      const range = el("div", { class: "qs-range" });
      slider.querySelector(".qs-track").append(range);
      const node = el("div", { class: "qs-strip", dataset: { id: card.id } }, bits, slider);
      const inputs = store.graph.inputs && QS.inputFader(store, card);
      if (inputs) node.append(inputs);
      node.append(name);
      const choices = () => store.editable(store.meant(card.id));
      drive(slider, {
        onset: (level) => store.set(choices(), ladder()[Math.min(level, top())]),
        onshift: (steps) => store.shift(choices(), steps),
        onend: end,
        oncancel: cancel,
      });
      name.addEventListener("click", (event) =>
        store.select([card.id], event.shiftKey || event.ctrlKey || event.metaKey ? "toggle" : "set"),
      );
      node.addEventListener("pointerenter", () => store.setHover(card.id));
      node.addEventListener("pointerleave", () => store.setHover(""));
      return { card, node, slider, bits, range, inputs, key: "" };
    }

    let master = null;
    function build() {
      strips.clear();
      if (!store.graph) {
        board.replaceChildren();
        masterBox.replaceChildren();
        return;
      }
      const groups = [];
      for (const card of store.graph.blocks) {
        const last = groups[groups.length - 1],
          item = strip(card);
        strips.set(card.id, item);
        if (last && last.stage === card.parent) last.nodes.push(item.node);
        else groups.push({ stage: card.parent, nodes: [item.node] });
      }
      board.replaceChildren(
        ...groups.map(({ stage, nodes }) => {
          const title = el("button", {
            type: "button",
            class: "qs-group-title",
            text: nodes.length > 1 ? store.graph.byId.get(stage)?.label || "" : "",
            title: "Select the stage",
            onclick: () => store.select([stage]),
          });
          return el(
            "div",
            { class: "qs-group", style: `flex-grow:${nodes.length}` },
            title,
            el("div", { class: "qs-strips" }, ...nodes),
          );
        }),
      );
      const slider = fader(top(), "All blocks, shift"),
        bits = el("output");
      const all = () => store.editable(store.graph.blocks.map((card) => card.id));
      drive(slider, { onshift: (steps) => store.shift(all(), steps), onend: end, oncancel: cancel });
      masterBox.replaceChildren(
        el("span", { class: "qs-group-title" }),
        bits,
        slider,
        ...[store.graph.inputs && QS.inputMaster(store)].filter(Boolean),
        el("span", { class: "qs-strip-name", text: "All blocks" }),
      );
      master = { slider, bits, inputs: masterBox.querySelector(".qs-inputs") };
      host.dataset.ready = "1";
    }

    function paintStrip(item) {
      const graph = store.graph,
        held = store.holding(item.card.id),
        { color, hatched } = store.paintOf(item.card.id, held);
      const key = `${held.mean}|${held.low}|${held.high}|${held.stored}|${color}|${hatched}`;
      if (item.inputs) item.inputs.paint(store.holdingInputs(item.card.id));
      if (!store.base) describe(item, held);
      if (item.key === key) return;
      item.key = key;
      item.bits.firstChild.data = QS.heldText(held);
      if (item.color !== color) {
        item.color = color;
        item.node.style.setProperty("--c", color || "var(--qs-neutral)");
      }
      item.node.classList.toggle("hatched", hatched);
      item.slider.place(QS.levelBetween(graph, held.mean));
      const low = QS.levelOf(graph, held.low),
        high = QS.levelOf(graph, held.high);
      const span = HEIGHT - 2 * EDGE,
        range = held.mixed ? `translateY(${(-span * low) / top()}px) scaleY(${(span * (high - low)) / top()})` : "scaleY(0)";
      if (item.span !== range) {
        item.span = range;
        item.range.style.transform = range;
      }
    }
    function describe(item, held) {
      item.slider.setAttribute("aria-valuenow", held.mean.toFixed(2));
      item.slider.setAttribute("aria-valuetext", held.mixed ? `mixed, ${held.low} to ${held.high} bits` : `${held.mean} bits`);
    }
    function paint() {
      if (!store.graph || body.hidden) return;
      for (const item of strips.values()) paintStrip(item);
      const held = QS.holding(store.graph, store.options, Object.keys(store.graph.layers));
      master.bits.textContent = QS.heldText(held);
      master.slider.place(QS.levelBetween(store.graph, held.mean));
      master.slider.setAttribute("aria-valuenow", held.mean.toFixed(2));
      if (master.inputs) master.inputs.paint(QS.holdingInputs(store.graph, store.inputs, Object.keys(store.graph.layers)));
      text.textContent = `${strips.size} blocks · mean ${held.mean.toFixed(2)} bits nominal`;
    }
    function mark() {
      for (const item of strips.values()) {
        item.node.classList.toggle("selected", store.selected.has(item.card.id));
        item.node.classList.toggle("locked", store.isProtected(item.card.id));
      }
    }
    function hover() {
      for (const item of strips.values()) item.node.classList.toggle("hover", store.hover === item.card.id);
    }
    const repaint = QS.framed(paint);
    store.on("options value", repaint);
    store.on("value select protect", () => {
      mark();
      const only = store.selected.size === 1 && strips.get([...store.selected][0]);
      if (only && !body.hidden && !host.contains(document.activeElement)) {
        const left = only.node.offsetLeft - board.offsetLeft;
        if (left < board.scrollLeft || left + only.node.offsetWidth > board.scrollLeft + board.clientWidth)
          board.scrollLeft = left - board.clientWidth / 2;
      }
    });
    store.on("hover", hover);
    store.on("graph", () => {
      build();
      repaint();
      mark();
    });
    // Without a graph on the page the mixer speaks for itself.
    if (!store.publisher)
      queueMicrotask(() =>
        setTimeout(() => {
          if (store.publisher) return;
          store.publisher = (event) => {
            props.value = store.packed();
            trigger(event, {});
          };
        }, 400),
      );
    watch("value", () => {
      if (props.graph) store.takeValue(props.value);
    });
    if (props.graph && !store.graph) {
      store.setGraph(props.graph);
      store.takeValue(props.value);
    }
    build();
    paint();
    mark();
  };
})();
